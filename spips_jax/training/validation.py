"""How well a model in training agrees with the opinions of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spips_jax import agreement
from spips_jax.data.builder import Kind
from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches

MAIN: Mapping[Kind, str] = {
    "pairs": "srcc",
    "ranks": "srcc",
    "2afc": "two_afc",
    "jnd": "map",
}
"""The number that says which checkpoint is the best, by the kind of set."""

Judge = Callable[[Batch], Mapping[str, Any]]


def agreements(dataset: Dataset, distances: np.ndarray) -> dict[str, float]:
    """Agreement of distances with a set's opinions; larger is better.

    Args:
      dataset: the examples.
      distances: `(N, n)`, of the pairs that `builder.COMPARED` names.

    Returns:
      `srcc`, `plcc` (of the distances as they are) and `krcc` of pairs and ranks,
      `two_afc` of forced choices, `map` of just noticeable differences.
    """
    opinions = dataset.index[dataset.opinion]
    if dataset.kind == "2afc":
        d0, d1 = distances.T
        return {"two_afc": agreement.two_afc(d0, d1, opinions)}
    if dataset.kind == "jnd":
        return {"map": agreement.jnd_map(distances[:, 0], opinions)}
    rising = agreement.orient(opinions, dataset.opinion, higher_is_better=False)
    return {
        statistic.__name__: statistic(distances[:, 0], rising)
        for statistic in (agreement.srcc, agreement.plcc, agreement.krcc)
    }


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
