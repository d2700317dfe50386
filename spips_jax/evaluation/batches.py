"""Goes through a set once, over all devices: what training and evaluation judge by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches

JudgeBatch = Callable[[Batch], Mapping[str, Any]]


def judged(
    judge: JudgeBatch,
    dataset: Dataset,
    *,
    batch_size: int,
    num_threads: int,
    by_reference: bool = False,
    first_batch: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (positions `(B,)`, values `(B, ...)`) until each example was there once.

    Args:
      judge: runs a batch over all devices and returns `position`, `mask`, `values`.
      dataset: the examples.
      batch_size: over all processes.
      num_threads: that read.
      by_reference: whether all examples of a batch have one `reference_id`.
      first_batch: where to begin, in the plan of `eval_plan`.
    """
    with eval_batches(
        dataset,
        batch_size=batch_size,
        by_reference=by_reference,
        num_threads=num_threads,
    ) as batches:
        batches.set_state({**batches.get_state(), "next_batch": first_batch})
        for batch in batches:
            result = judge(batch)
            mask = np.asarray(result["mask"])
            yield (
                np.asarray(result["position"])[mask],
                np.asarray(result["values"])[mask],
            )
