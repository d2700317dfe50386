"""What a model in training says of a set, for its agreement with the opinions."""

from __future__ import annotations

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.batches import JudgeBatch, judged


def distances_of(
    judge: JudgeBatch, dataset: Dataset, *, batch_size: int, num_threads: int
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
