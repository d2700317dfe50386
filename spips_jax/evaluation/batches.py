"""One pass over a set on all devices, for scoring in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches

ScoreBatch = Callable[[Batch], Mapping[str, Any]]


def run_batches(
    score: ScoreBatch,
    dataset: Dataset,
    *,
    batch_size: int,
    num_threads: int,
    by_reference: bool = False,
    first_batch: int = 0,
    chosen: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (positions `(B,)`, values `(B, ...)`), every example once.

    Args:
      score: runs a batch on all devices and returns `position`, `mask`, `values`.
      dataset: the examples.
      batch_size: over all processes.
      num_threads: threads that read images.
      by_reference: whether all examples of a batch share one `reference_id`.
      first_batch: index of the first batch, in the plan of `eval_plan`.
      chosen: which batches of the plan, a mask; all by default.
    """
    with eval_batches(
        dataset,
        batch_size=batch_size,
        by_reference=by_reference,
        num_threads=num_threads,
    ) as batches:
        numbers = np.arange(len(batches)) if chosen is None else np.flatnonzero(chosen)
        following: int | None = None
        for number in numbers[numbers >= first_batch].tolist():
            if number != following:  # else the loader is there, and has read ahead
                batches.set_state({**batches.get_state(), "next_batch": number})
            following = number + 1
            result = score(next(batches))
            mask = np.asarray(result["mask"])
            yield (
                np.asarray(result["position"])[mask],
                np.asarray(result["values"])[mask],
            )
