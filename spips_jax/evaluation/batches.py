"""One pass over a set on all devices, for scoring in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches, eval_plan

ScoreBatch = Callable[[Batch], Mapping[str, Any]]


def run_batches(
    score: ScoreBatch,
    dataset: Dataset,
    *,
    batch_size: int,
    num_threads: int,
    by_reference: bool = False,
    done: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (positions `(B,)`, values `(B, ...)`), every example once.

    Batches are planned from the whole set: those that are left after an interruption
    are the same as without it, and so are their values.

    Args:
      score: runs a batch on all devices and returns `position`, `mask`, `values`.
      dataset: the examples.
      batch_size: over all processes.
      num_threads: threads that read images.
      by_reference: whether all examples of a batch share one `reference_id`.
      done: `(N,)`, the same in all processes: batches in which it is True for every
        example are left out.
    """
    plan = eval_plan(dataset, batch_size=batch_size, by_reference=by_reference)
    left = np.ones(len(plan), bool)
    if done is not None:
        left = ((plan >= 0) & ~done[np.maximum(plan, 0)]).any(axis=1)
    with eval_batches(
        dataset,
        batch_size=batch_size,
        by_reference=by_reference,
        num_threads=num_threads,
    ) as batches:
        following: int | None = None
        for number in np.flatnonzero(left).tolist():
            if number != following:  # else the loader is there, and has read ahead
                batches.set_state({**batches.get_state(), "next_batch": number})
            following = number + 1
            result = score(next(batches))
            mask = np.asarray(result["mask"])
            yield (
                np.asarray(result["position"])[mask],
                np.asarray(result["values"])[mask],
            )
