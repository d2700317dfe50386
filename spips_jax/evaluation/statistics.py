"""How well scores agree with a set's opinions, by the kind of set."""

from __future__ import annotations

import numpy as np

from spips_jax.data.dataset import Dataset


def columns(
    dataset: Dataset, scores: np.ndarray, *, higher_is_better: bool
) -> tuple[np.ndarray, ...]:
    """The columns `(N,)` that the set's statistics take: scores, then opinions.

    Signs follow the directions that the metric and the set declare. Opinions that are
    one number per image rise with the scores of a metric that agrees; for choices and
    just noticeable differences, scores become distances.

    Args:
      dataset: the examples.
      scores: `(N, n)`, of the pairs that the set's kind compares.
      higher_is_better: the metric's direction.
    """
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    scores = np.asarray(scores, np.float64)
    return dataset.kind.columns(scores, opinions, dataset.opinion, higher_is_better)


def agreements(
    dataset: Dataset, scores: np.ndarray, *, higher_is_better: bool = False
) -> dict[str, float]:
    """Agreement of scores `(N, n)` with a set's opinions, by the statistic's name.

    `srcc`, `plcc` (of unfitted scores) and `krcc` for pairs and ranks, `two_afc` for
    forced choices, `map` for just noticeable differences; larger is better.

    Raises:
      AgreementError: scores that are NaN or inf, or too few of them.
    """
    values = columns(dataset, scores, higher_is_better=higher_is_better)
    return {name: statistic(*values) for name, statistic in dataset.kind.statistics}
