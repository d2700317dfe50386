"""Agreement within references, for opinions that do not compare over a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spips_jax.agreement.statistics import (
    LEAST,
    AgreementError,
    Array,
    check_columns,
    constant,
)


@dataclass(frozen=True)
class Within:
    """A statistic on each reference's own examples.

    Attributes:
      references: names of the references on which it is defined, sorted, `(R,)`.
      values: the statistic on each, `(R,)`.
      left_out: names of the others, sorted: fewer than three examples, or opinions that
        are all equal.
      constant: names of those of `references` whose scores are all equal; they order
        nothing, and count as the statistic says, 0 for correlations.
    """

    references: np.ndarray
    values: np.ndarray
    left_out: tuple[str, ...]
    constant: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mean over `references`, each counting once."""
        return float(np.mean(self.values))


def within_references(
    statistic: Callable[..., float],
    scores: Array,
    opinions: Array,
    *,
    references: Array | Sequence[str],
) -> Within:
    """A statistic of the examples of one reference, for each reference.

    Which references are left out depends on the opinions alone, so that the same ones
    count for every metric. For the interval of the mean, or for a difference between
    metrics, resample the values: `bootstrap_draws(np.mean, found.values,
    references=found.references)`.

    Args:
      statistic: of scores and opinions, as `srcc`.
      scores: `(N,)`.
      opinions: `(N,)`.
      references: the reference of each row, `(N,)`.

    Raises:
      AgreementError: as in the module; the statistic is defined on no reference.
    """
    scores, opinions = check_columns(1, scores=scores, opinions=opinions)
    groups = _by_reference(opinions, references)
    names, values, left_out, equal = [], [], [], []
    for name, rows in groups.items():
        if len(rows) < LEAST or constant(opinions[rows]):
            left_out.append(name)
            continue
        if constant(scores[rows]):
            equal.append(name)
        names.append(name)
        values.append(statistic(scores[rows], opinions[rows]))
    if not names:
        raise AgreementError(
            f"none of {len(groups)} references has {LEAST} examples whose opinions"
            " differ: there is no agreement within a reference"
        )
    return Within(np.array(names), np.array(values), tuple(left_out), tuple(equal))


def spread_ratio(opinions: Array, *, references: Array | Sequence[str]) -> float:
    """How far references' mean opinions lie apart, against how far all opinions do.

    The standard deviation of the references' means over that of all opinions, in
    [0, 1] where references have equally many examples. It is near 0 where people
    compared the versions of one reference only, as in a tournament, in which every
    reference has as many points to share.

    Args:
      opinions: `(N,)`.
      references: the reference of each row, `(N,)`.

    Raises:
      AgreementError: as in the module; fewer than two references, or opinions that are
        all equal.
    """
    (opinions,) = check_columns(1, opinions=opinions)
    groups = _by_reference(opinions, references)
    if len(groups) < 2:
        raise AgreementError(
            f"{len(groups)} reference: the spread of means needs two at least"
        )
    if constant(opinions):
        raise AgreementError(f"all opinions are {opinions[0]:g}: they have no spread")
    means = [opinions[rows].mean() for rows in groups.values()]
    return float(np.std(means) / np.std(opinions))


def _by_reference(
    column: np.ndarray, references: Array | Sequence[str]
) -> dict[str, np.ndarray]:
    """The rows of each reference, by its name as text."""
    names, inverse, counts = np.unique(
        np.asarray(references), return_inverse=True, return_counts=True
    )
    if len(inverse) != len(column):
        raise AgreementError(
            f"there are {len(column)} opinions and {len(inverse)} references: each row"
            " needs its reference"
        )
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    return {str(name): of for name, of in zip(names, rows, strict=True)}
