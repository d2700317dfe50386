"""What a model in training says of a set, for its agreement with the opinions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches

Judge = Callable[[Batch], Mapping[str, Any]]


def judged(
    judge: Judge, dataset: Dataset, *, batch_size: int, num_threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (positions `(B,)`, values `(B, ...)`) until each example was there once.

    Args:
      judge: runs a batch over all devices and returns `position`, `mask`, `values`.
      dataset: the examples.
      batch_size: over all processes.
      num_threads: that read.
    """
    with eval_batches(
        dataset, batch_size=batch_size, num_threads=num_threads
    ) as batches:
        for batch in batches:
            result = judge(batch)
            mask = np.asarray(result["mask"])
            yield (
                np.asarray(result["position"])[mask],
                np.asarray(result["values"])[mask],
            )


def distances_of(
    judge: Judge, dataset: Dataset, *, batch_size: int, num_threads: int
) -> np.ndarray:
    """Distances `(N, n)` of all examples, in the set's order; arguments of `judged`."""
    found: np.ndarray | None = None
    for positions, values in judged(
        judge, dataset, batch_size=batch_size, num_threads=num_threads
    ):
        if found is None:
            found = np.full((len(dataset), *values.shape[1:]), np.nan, np.float32)
        found[positions] = values
    assert found is not None  # eval_batches refuses empty sets
    return found
