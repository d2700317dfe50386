"""Which statistics say how well a metric agrees with a set, by the kind of set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from spips_jax import agreement
from spips_jax.data.builder import Kind
from spips_jax.data.dataset import Dataset

Statistic = Callable[..., float]

_CORRELATIONS: Mapping[str, Statistic] = {
    "srcc": agreement.srcc,
    "plcc": agreement.plcc,
    "krcc": agreement.krcc,
}

STATISTICS: Mapping[Kind, Mapping[str, Statistic]] = {
    "pairs": _CORRELATIONS,
    "ranks": _CORRELATIONS,
    "2afc": {"two_afc": agreement.two_afc},
    "jnd": {"map": agreement.jnd_map},
}
"""Statistics of the columns that `columns` returns; larger is better. The first is the
one that metrics are ranked by."""


def main_statistic(kind: Kind) -> str:
    """The name of the statistic that metrics are ranked by."""
    return next(iter(STATISTICS[kind]))


def columns(
    dataset: Dataset, scores: np.ndarray, *, higher_is_better: bool
) -> tuple[np.ndarray, ...]:
    """The columns `(N,)` that the set's statistics take: scores, then opinions.

    Signs follow the directions that the metric and the set declare. Opinions that are
    one number an image rise with the scores of a metric that agrees; of choices and
    just noticeable differences the scores become distances.

    Args:
      dataset: the examples.
      scores: `(N, n)`, of the pairs that `builder.COMPARED` names.
      higher_is_better: the metric's direction.
    """
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    scores = np.asarray(scores, np.float64)
    if dataset.kind in ("2afc", "jnd"):
        distances = -scores if higher_is_better else scores
        return (*distances.T, opinions)
    rising = agreement.orient(
        opinions, dataset.opinion, higher_is_better=higher_is_better
    )
    return scores[:, 0], rising


def agreements(
    dataset: Dataset, scores: np.ndarray, *, higher_is_better: bool = False
) -> dict[str, float]:
    """Agreement of scores `(N, n)` with a set's opinions, by the statistic's name.

    `srcc`, `plcc` (of the scores as they are) and `krcc` of pairs and ranks, `two_afc`
    of forced choices, `map` of just noticeable differences; larger is better.

    Raises:
      AgreementError: scores that are NaN or inf, or too few of them.
    """
    values = columns(dataset, scores, higher_is_better=higher_is_better)
    return {
        name: statistic(*values) for name, statistic in STATISTICS[dataset.kind].items()
    }
