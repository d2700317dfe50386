"""Correlations, errors, choices and just noticeable differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from spips_jax.messages import UserError

Array = np.ndarray | Sequence[float]


@dataclass(frozen=True)
class Opinion:
    """The opinion of people, or a synthetic grade, that an example has.

    Attributes:
      meaning: what its number says, with its direction.
      higher_is_better: its direction; None where it is of two images.
    """

    meaning: str
    higher_is_better: bool | None


OPINIONS: dict[str, Opinion] = {
    "mos": Opinion("mean opinion score, higher is better", True),
    "dmos": Opinion("difference mean opinion score, higher is worse", False),
    "judgement": Opinion("share of votes for p1 over p0, in [0, 1]", None),
    "same": Opinion("share of votes that p0 and p1 are the same, in [0, 1]", True),
    "level": Opinion(
        "level of distortion, higher is worse; ranks only within a group", False
    ),
}
"""The opinions that sets have, by the name of their feature."""


class AgreementError(UserError):
    """Scores or opinions that cannot be compared; one line that says why."""


def orient(opinions: Array, opinion: str, *, higher_is_better: bool) -> np.ndarray:
    """Returns opinions that rise with the scores of a metric that agrees with them.

    Args:
      opinions: `(N,)`, in the dataset's own units.
      opinion: their name, a key of `OPINIONS`, of one that has a direction.
      higher_is_better: the metric's direction; False for distances, as SPIPS is.

    Raises:
      AgreementError: an unknown opinion.
    """
    directions = {name: one.higher_is_better for name, one in OPINIONS.items()}
    direction = directions.get(opinion)
    if direction is None:
        known = [name for name, one in directions.items() if one is not None]
        raise AgreementError(
            f"no direction is known for {opinion!r}; it is one of {', '.join(known)}"
        )
    (opinions,) = check_columns(1, opinions=opinions)
    return opinions if direction == higher_is_better else -opinions


LEAST = 3
"""Values that a correlation needs: of two it is -1 or 1, whatever they are."""


def srcc(scores: Array, opinions: Array) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; in [-1, 1].

    As of `plcc` and `krcc`, it is 0 for scores that are all equal, and not defined for
    opinions that are, or for fewer than three values.

    >>> srcc([0.1, 0.4, 0.3], [5.0, 1.0, 2.0])  # distances, mean opinion scores
    -1.0

    Raises:
      AgreementError: as in the module.
    """
    scores, opinions = _check_ordered(scores, opinions)
    return pearson(scipy.stats.rankdata(scores), scipy.stats.rankdata(opinions))


def plcc(scores: Array, opinions: Array) -> float:
    """Pearson's linear correlation, in [-1, 1]; raw: see `fit_logistic`.

    Raises:
      AgreementError: as `srcc`.
    """
    scores, opinions = _check_ordered(scores, opinions)
    return pearson(scores, opinions)


def krcc(scores: Array, opinions: Array) -> float:
    """Kendall's rank correlation tau-b, in [-1, 1].

    >>> krcc([1, 2, 3, 4], [1, 3, 2, 4])
    0.666...

    Raises:
      AgreementError: as `srcc`.
    """
    scores, opinions = _check_ordered(scores, opinions)
    if constant(scores):
        return 0.0
    return float(scipy.stats.kendalltau(scores, opinions).statistic)


def rmse(scores: Array, opinions: Array) -> float:
    """Root of the mean squared error, in the opinions' units: of fitted scores."""
    scores, opinions = check_columns(1, scores=scores, opinions=opinions)
    return float(np.sqrt(np.mean((scores - opinions) ** 2)))


def outlier_ratio(scores: Array, opinions: Array, std: Array) -> float:
    """Share of fitted scores off by more than twice the opinion's deviation, in [0, 1].

    VQEG, "Final report from the Video Quality Experts Group on the validation of
    objective models of video quality assessment", 2000, metric 3.
    """
    scores, opinions, std = check_columns(1, scores=scores, opinions=opinions, std=std)
    return float(np.mean(np.abs(scores - opinions) > 2 * std))


def two_afc(d0: Array, d1: Array, judgement: Array) -> float:
    """Agreement with two-alternative forced choices, in [0, 1]; larger is better.

    Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
    metric", CVPR 2018: a metric earns the share of people who chose the image that it
    puts nearer to the reference; where both are as near, one half.

    Args:
      d0: distances of image 0 from the reference; smaller is nearer.
      d1: of image 1.
      judgement: shares of votes for image 1, in [0, 1].
    """
    d0, d1, judgement = check_columns(1, d0=d0, d1=d1, judgement=judgement)
    check_shares(judgement, "judgement")
    credit = np.where(d1 < d0, judgement, 1 - judgement)
    return float(np.mean(np.where(d0 == d1, 0.5, credit)))


def two_afc_human(judgement: Array) -> float:
    """The score of one person against the others: the ceiling of `two_afc`, in [0, 1].

    The mean of h² + (1 - h)²: someone who votes as people do, with probability h for
    image 1, earns h with probability h and 1 - h otherwise (Zhang et al., 2018).
    """
    (judgement,) = check_columns(1, judgement=judgement)
    check_shares(judgement, "judgement")
    return float(np.mean(judgement**2 + (1 - judgement) ** 2))


def jnd_map(distances: Array, same: Array, *, interpolated: bool = True) -> float:
    """Average precision of finding the pairs that people called the same, in [0, 1].

    Zhang et al., CVPR 2018, section 4.2: pairs ordered by distance, nearest first, each
    a positive to the share `same` and a negative to the rest.

    Args:
      distances: `(N,)`; pairs of one distance enter together.
      same: shares of votes that the pair is the same, in [0, 1].
      interpolated: whether precision is the best at any larger recall, as in PASCAL VOC
        and in the paper's numbers; if not, the sum of steps that scikit-learn reports.

    Raises:
      AgreementError: bad columns (see the package), no vote called a pair the same, or
        shares that are all equal, of which every order has the same precision.
    """
    distances, same = check_columns(1, distances=distances, same=same)
    check_shares(same, "same")
    if not same.sum() > 0:
        raise AgreementError("no pair was taken for the same: there is no recall")
    check_vary(same, name="same")
    order = np.argsort(distances, kind="stable")
    last = np.append(np.diff(distances[order]) != 0, True)  # of each run of equals
    positives = np.cumsum(same[order])[last]
    precision = positives / np.arange(1, len(same) + 1)[last]
    recall = positives / positives[-1]
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of `(N,)`, in [-1, 1]; 0 where one is constant."""
    if constant(x) or constant(y):
        return 0.0
    # Scaled first, so that neither tiny nor huge units over- or underflow.
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def constant(values: np.ndarray) -> bool:
    """Whether all values `(N,)` are the same."""
    return bool(np.all(values == values[0]))


def check_vary(opinions: np.ndarray, *, name: str = "opinions") -> None:
    """Raises `AgreementError` for opinions `(N,)` that are all equal."""
    if constant(opinions):
        # Without the value, whose sign a metric's direction may have turned.
        raise AgreementError(f"all {name} are equal: there is no order to agree with")


def _check_ordered(scores: Any, opinions: Any) -> tuple[np.ndarray, ...]:
    """The columns of a correlation, as float64; raises where it is not defined."""
    columns = check_columns(LEAST, scores=scores, opinions=opinions)
    check_vary(columns[1])
    return columns


def check_columns(least: int, **columns: Any) -> tuple[np.ndarray, ...]:
    """Returns columns as float64 `(N,)`, N at least `least`, all finite."""
    arrays = {name: np.asarray(value, np.float64) for name, value in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise AgreementError(f"{name} has shape {array.shape}: it must be (N,)")
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            raise AgreementError(
                f"{name} has {len(bad)} values that are NaN or inf, the first at"
                f" {bad[0]}"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise AgreementError(f"columns of one length are needed: {said}")
    if min(lengths.values()) < least:
        raise AgreementError(
            f"{next(iter(arrays))} has {min(lengths.values())} values: {least} are"
            " needed at least"
        )
    return tuple(arrays.values())


def check_shares(values: np.ndarray, name: str) -> None:
    """Raises `AgreementError` for a value outside [0, 1]."""
    if values.min() < 0 or values.max() > 1:
        raise AgreementError(
            f"{name} goes from {values.min():g} to {values.max():g}: it is a share, in"
            " [0, 1]"
        )
