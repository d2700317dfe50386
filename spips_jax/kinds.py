"""Kinds of sets: what an example holds, and everything that follows from it.

All that the package knows of a kind is its record in `KINDS`: to add one, write its
record here. Needs SciPy, which the extra [data] brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from spips_jax import agreement

Columns = tuple[np.ndarray, ...]

PROTOCOLS = {
    "set": "over the whole set",
    "reference": "within one reference only",
    "group": "within one distortion of one reference only",
}
"""Over what two opinions can be compared, in words. Of two photographs, or of two
groups, opinions that do not compare do not tell which looks better."""

COMPARABLE = tuple(PROTOCOLS)
"""Over what two opinions can be compared: all of a set, one reference, or one group,
that is one distortion of one reference."""

ALIKE: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference_id",),
    "group": ("reference_id", "distortion"),
}
"""The columns that are alike in examples whose opinions compare, unless all do."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of set.

    Attributes:
      name: the kind's.
      images: names of an example's images, the one that gives the size first.
      compared: which images of an example are compared; one score for each.
      opinions: names of the opinions that such a set can have, keys of
        `agreement.OPINIONS`.
      comparable: over what two opinions can be compared at most, one of `COMPARABLE`;
        a set's card may say that its protocol supports less.
      statistics: how well a metric agrees with the set: names, and functions of what
        `columns` returns; larger is better. Metrics are ranked by the first, unless
        a set's opinions compare within one reference only.
      columns: from scores `(N, n)`, opinions `(N,)`, the opinion's name and whether a
        higher score is better, the columns `(N,)` that the other functions take.
      disagreement: of `columns`, how far metric and people are apart, `(N,)` from 0 on.
      verdict: of `columns`, a position, whether a higher score is better, and the name
        of all these examples, what metric and people say of the one, in words.
      learned_from: which losses suit: those of "opinions" or of "choices"; "" for
        sets that are for evaluation alone.
      calibrated_from: what a calibration is fitted to, likewise.
      within: a statistic of the examples of one reference, whose mean over references
        measures a set of which opinions compare there alone: its name and the function;
        None where the examples of a reference have no order.
      fitted: whether opinions are fitted to scores by a logistic.
      ceiling: of the opinions, the first statistic of a person among people; None where
        a set cannot tell.
    """

    name: str
    images: tuple[str, ...]
    compared: tuple[tuple[str, str], ...]
    opinions: tuple[str, ...]
    comparable: str
    statistics: tuple[tuple[str, Callable[..., float]], ...]
    columns: Callable[[np.ndarray, np.ndarray, str, bool], Columns]
    disagreement: Callable[..., np.ndarray]
    verdict: Callable[[Columns, int, bool, str], str]
    learned_from: str = ""
    calibrated_from: str = ""
    within: tuple[str, Callable[..., float]] | None = None
    fitted: bool = False
    ceiling: Callable[[np.ndarray], float] | None = None

    @property
    def main(self) -> str:
        """The name of the first statistic: what ranks metrics on a whole set."""
        return self.statistics[0][0]

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of an example's scores, one for each pair that is compared."""
        count = len(self.compared)
        return ("score",) if count == 1 else tuple(f"d{k}" for k in range(count))

    @property
    def has_reference(self) -> bool:
        """Whether one reference can serve many examples."""
        return self.images[0] == "reference"


def _rising(
    scores: np.ndarray, opinions: np.ndarray, opinion: str, higher_is_better: bool
) -> Columns:
    """Scores, and opinions that rise with the scores of a metric that agrees."""
    return scores[:, 0], agreement.orient(
        opinions, opinion, higher_is_better=higher_is_better
    )


def _distances(
    scores: np.ndarray, opinions: np.ndarray, opinion: str, higher_is_better: bool
) -> Columns:
    """Scores as distances, and opinions as they are."""
    return (*(-scores if higher_is_better else scores).T, opinions)


def _places_apart(scores: np.ndarray, opinions: np.ndarray) -> np.ndarray:
    """Distance of an example's place in the order of scores from that of opinions."""
    return np.abs(_places(scores) - _places(opinions))


def _same_apart(distances: np.ndarray, same: np.ndarray) -> np.ndarray:
    """`_places_apart`: near pairs are those that look the same."""
    return _places_apart(distances, -same)


def _places(values: np.ndarray) -> np.ndarray:
    """Mean ranks of values, scaled to [0, 1]."""
    return (rankdata(values) - 0.5) / len(values)


def _choice_apart(d0: np.ndarray, d1: np.ndarray, judgement: np.ndarray) -> np.ndarray:
    """The metric's relative preference times the majority of people against it."""
    total = np.abs(d0) + np.abs(d1)
    sure = np.divide(np.abs(d0 - d1), total, out=np.zeros_like(d0), where=total > 0)
    against = np.where(d1 < d0, 1 - judgement, judgement)
    return sure * np.maximum(2 * against - 1, 0)


# Named functions, not partials: records must equal their pickled copies.


def _opinion_verdict(
    columns: Columns, row: int, higher_is_better: bool, among: str
) -> str:
    scores, opinions = columns if higher_is_better else (-x for x in columns)
    return _better(scores, opinions, row, "for people", among)


def _level_verdict(
    columns: Columns, row: int, higher_is_better: bool, among: str
) -> str:
    scores, opinions = columns if higher_is_better else (-x for x in columns)
    return _better(scores, opinions, row, "by its level", among)


def _same_verdict(
    columns: Columns, row: int, higher_is_better: bool, among: str
) -> str:
    distances, same = columns
    return _better(-distances, same, row, "for people", among)


def _better(
    scores: np.ndarray, opinions: np.ndarray, row: int, who: str, among: str
) -> str:
    """How many an example is better than; larger is better in both."""
    shares = [100 * np.mean(values < values[row]) for values in (scores, opinions)]
    return (
        f"better than {shares[0]:.0f} % of {among} for the metric, than"
        f" {shares[1]:.0f} % {who}"
    )


def _choice_verdict(
    columns: Columns, row: int, higher_is_better: bool, among: str
) -> str:
    d0, d1, judgement = (column[row] for column in columns)
    return f"it puts p{int(d1 < d0)} nearer, {100 * judgement:.0f} % of people chose p1"


_PAIR = (("reference", "distorted"),)
_CORRELATIONS = (
    ("srcc", agreement.srcc),
    ("plcc", agreement.plcc),
    ("krcc", agreement.krcc),
)

PAIRS = Kind(
    name="pairs",
    images=("reference", "distorted"),
    compared=_PAIR,
    opinions=("mos", "dmos"),
    comparable="set",
    statistics=_CORRELATIONS,
    columns=_rising,
    disagreement=_places_apart,
    verdict=_opinion_verdict,
    learned_from="opinions",
    calibrated_from="opinions",
    within=("srcc_within", agreement.srcc),
    fitted=True,
)

RANKS = Kind(
    name="ranks",
    images=("reference", "distorted"),
    compared=_PAIR,
    opinions=("level",),
    comparable="group",
    statistics=_CORRELATIONS,
    columns=_rising,
    disagreement=_places_apart,
    verdict=_level_verdict,
    learned_from="opinions",
)

CHOICES = Kind(
    name="2afc",
    images=("reference", "p0", "p1"),
    compared=(("reference", "p0"), ("reference", "p1")),
    opinions=("judgement",),
    comparable="set",
    statistics=(("two_afc", agreement.two_afc),),
    columns=_distances,
    disagreement=_choice_apart,
    verdict=_choice_verdict,
    learned_from="choices",
    calibrated_from="choices",
    ceiling=agreement.two_afc_human,
)

JND = Kind(
    name="jnd",
    images=("p0", "p1"),
    compared=(("p0", "p1"),),
    opinions=("same",),
    comparable="set",
    statistics=(("map", agreement.jnd_map),),
    columns=_distances,
    disagreement=_same_apart,
    verdict=_same_verdict,
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (PAIRS, RANKS, CHOICES, JND)}
