"""Distances that a model in training gives a set, to compare with its opinions."""

from __future__ import annotations

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.batches import ScoreBatch, run_batches


def distances_of(
    score: ScoreBatch, dataset: Dataset, *, batch_size: int, num_threads: int
) -> np.ndarray:
    """Distances `(N, n)` of all examples, in the set's order.

    Args:
      score: runs a batch on all devices and returns `position`, `mask`, `values`.
      dataset: the examples; n is how many pairs of each are compared.
      batch_size: over all processes.
      num_threads: threads that read images.
    """
    found: np.ndarray | None = None
    for positions, values in run_batches(
        score, dataset, batch_size=batch_size, num_threads=num_threads
    ):
        if found is None:
            found = np.full((len(dataset), *values.shape[1:]), np.nan, np.float32)
        found[positions] = values
    assert found is not None  # eval_batches refuses empty sets
    return found
