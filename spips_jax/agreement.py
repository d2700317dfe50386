"""How well scores agree with people: the statistics that the field reports.

All functions take NumPy arrays `(N,)`, work in float64 on the host, and are defined for
every finite input: scores that are all equal order nothing, and their correlation is 0.
NaN, inf, unequal lengths and too few values raise `AgreementError`.

Correlations keep their sign. A distance (larger is worse) falls as a mean opinion score
rises; `orient` turns opinions so that agreement is positive, by the directions that the
metric and the dataset declare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    """What people (or a synthetic grade) said of an example.

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
    (opinions,) = _check(1, opinions=opinions)
    return opinions if direction == higher_is_better else -opinions


def srcc(scores: Array, opinions: Array) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; in [-1, 1]."""
    scores, opinions = _check(2, scores=scores, opinions=opinions)
    return _pearson(scipy.stats.rankdata(scores), scipy.stats.rankdata(opinions))


def plcc(scores: Array, opinions: Array) -> float:
    """Pearson's linear correlation, in [-1, 1]; raw: see `fit_logistic`."""
    scores, opinions = _check(2, scores=scores, opinions=opinions)
    return _pearson(scores, opinions)


def krcc(scores: Array, opinions: Array) -> float:
    """Kendall's rank correlation tau-b, in [-1, 1]."""
    scores, opinions = _check(2, scores=scores, opinions=opinions)
    if _constant(scores) or _constant(opinions):
        return 0.0
    return float(scipy.stats.kendalltau(scores, opinions).statistic)


def rmse(scores: Array, opinions: Array) -> float:
    """Root of the mean squared error, in the opinions' units: of fitted scores."""
    scores, opinions = _check(1, scores=scores, opinions=opinions)
    return float(np.sqrt(np.mean((scores - opinions) ** 2)))


def outlier_ratio(scores: Array, opinions: Array, std: Array) -> float:
    """Share of fitted scores off by more than twice the opinion's deviation, in [0, 1].

    VQEG, "Final report from the Video Quality Experts Group on the validation of
    objective models of video quality assessment", 2000, metric 3.
    """
    scores, opinions, std = _check(1, scores=scores, opinions=opinions, std=std)
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
    d0, d1, judgement = _check(1, d0=d0, d1=d1, judgement=judgement)
    _check_shares(judgement, "judgement")
    credit = np.where(d1 < d0, judgement, 1 - judgement)
    return float(np.mean(np.where(d0 == d1, 0.5, credit)))


def two_afc_human(judgement: Array) -> float:
    """What a person earns against the others, the ceiling of `two_afc`, in [0, 1].

    The mean of h² + (1 - h)²: someone who votes as people do, with probability h for
    image 1, earns h with probability h and 1 - h otherwise (Zhang et al., 2018).
    """
    (judgement,) = _check(1, judgement=judgement)
    _check_shares(judgement, "judgement")
    return float(np.mean(judgement**2 + (1 - judgement) ** 2))


def jnd_map(distances: Array, same: Array, *, interpolated: bool = True) -> float:
    """Average precision in telling the pairs that people took for the same, in [0, 1].

    Zhang et al., CVPR 2018, section 4.2: pairs ordered by distance, nearest first, each
    a positive to the share `same` and a negative to the rest.

    Args:
      distances: `(N,)`; pairs of one distance enter together.
      same: shares of votes that the pair is the same, in [0, 1].
      interpolated: whether precision is the best at any larger recall, as in PASCAL VOC
        and in the paper's numbers; if not, the sum of steps that scikit-learn reports.

    Raises:
      AgreementError: as in the module, and if nobody took any pair for the same.
    """
    distances, same = _check(1, distances=distances, same=same)
    _check_shares(same, "same")
    if not same.sum() > 0:
        raise AgreementError("no pair was taken for the same: there is no recall")
    order = np.argsort(distances, kind="stable")
    last = np.append(np.diff(distances[order]) != 0, True)  # of each run of equals
    positives = np.cumsum(same[order])[last]
    precision = positives / np.arange(1, len(same) + 1)[last]
    recall = positives / positives[-1]
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic map from scores to opinions; call it on scores `(N,)`.

    Attributes:
      parameters: β1 to β4 or to β5; `fit_logistic` has the equations.
    """

    parameters: tuple[float, ...]

    def __call__(self, scores: Array) -> np.ndarray:
        return _logistic(np.asarray(scores, np.float64), self.parameters)


def fit_logistic(scores: Array, opinions: Array, *, parameters: int = 4) -> Logistic:
    """Fits the logistic map after which PLCC and RMSE are reported.

    Four parameters (VQEG, 2000):
      (β1 - β2) / (1 + exp(-(x - β3) / |β4|)) + β2
    Five (Sheikh, Sabir, Bovik, IEEE TIP 15(11), 2006):
      β1 (1/2 - 1 / (1 + exp(β2 (x - β3)))) + β4 x + β5

    By least squares from several starts, of which the best is kept.

    Args:
      scores: `(N,)`, in either direction.
      opinions: `(N,)`.
      parameters: 4, monotone, or 5, which may turn round.

    Raises:
      AgreementError: as in the module; fewer values than parameters; another number of
        parameters; scores that are all equal.
    """
    if parameters not in (4, 5):
        raise AgreementError(f"{parameters} parameters: there are fits of 4 and of 5")
    scores, opinions = _check(parameters, scores=scores, opinions=opinions)
    if _constant(scores):
        raise AgreementError(
            f"all scores are {scores[0]:g}: there is nothing to fit opinions to"
        )
    # In units of the data, so that one set of starts and steps suits every metric.
    middle, spread = scores.mean(), scores.std()
    x = (scores - middle) / spread
    low, high = opinions.min(), opinions.max()
    height = max(high - low, np.finfo(np.float64).tiny)
    y = (opinions - low) / height
    sign = 1.0 if _pearson(x, y) >= 0 else -1.0
    fits = []
    for steepness in (0.5, 1.0, 2.0, 5.0):
        for centre in (-1.0, 0.0, 1.0):
            start: tuple[float, ...] = (
                (0.5 + sign / 2, 0.5 - sign / 2, centre, 1 / steepness)
                if parameters == 4
                else (sign, steepness, centre, 0.0, 0.5)
            )
            fits.append(
                scipy.optimize.least_squares(
                    lambda p: _logistic(x, p) - y, start, method="lm", max_nfev=500
                )
            )
    best = min(fits, key=lambda fit: fit.cost).x
    if parameters == 4:
        top, bottom, centre, width = best
        found: tuple[float, ...] = (
            low + height * top,
            low + height * bottom,
            middle + spread * centre,
            spread * abs(width),
        )
    else:
        size, steepness, centre, slope, offset = best
        found = (
            height * size,
            steepness / spread,
            middle + spread * centre,
            height * slope / spread,
            low + height * (offset - slope * middle / spread),
        )
    return Logistic(tuple(map(float, found)))


def fit_preference(d0: Array, d1: Array, judgement: Array) -> float:
    """Fits how far apart two images must be for people to agree on the better one.

    P(people choose image 1) = 1 / (1 + exp(-(d0 - d1) / s)), the model of R. Bradley,
    M. Terry, "Rank analysis of incomplete block designs", Biometrika 39, 1952, with
    distances for strengths. s has the maximum likelihood (the least cross-entropy).

    Args:
      d0: distances of image 0 from the reference; smaller is nearer.
      d1: of image 1.
      judgement: shares of votes for image 1, in [0, 1].

    Returns:
      s > 0, in the unit of the distances.

    Raises:
      AgreementError: as in the module; or no finite s > 0 is the most likely.
    """
    d0, d1, judgement = _check(1, d0=d0, d1=d1, judgement=judgement)
    _check_shares(judgement, "judgement")
    unit = np.abs(d0 - d1).max()
    if unit == 0:
        raise AgreementError("d0 and d1 are equal throughout: they explain no choice")
    gap = np.abs(d0 - d1) / unit
    against = np.where(d0 > d1, 1 - judgement, judgement)  # chose the farther image
    signal = float(np.mean(gap * (0.5 - against)))
    if abs(signal) < 1e-12 * np.mean(gap):  # what is left of sums that cancel
        raise AgreementError(
            "people choose the nearer image as often as the farther one: the distances"
            " explain no choice"
        )
    if signal < 0:
        raise AgreementError(
            "people choose the farther image more often: scores must be distances, and"
            " judgement the share of votes for image 1"
        )
    errors = float(np.mean(gap * against))
    if errors == 0:
        raise AgreementError(
            "people choose the nearer image without exception: the smaller s the more"
            " likely, none is the most"
        )

    def slope(log_s: float) -> float:
        """Of the cross-entropy in 1 / s, in which it is convex: one root at most."""
        expected = scipy.special.expit(-gap / math.exp(log_s))
        return float(np.mean(gap * (against - expected)))

    # expit(-z) is between 1/2 - z/4 and 1 / (e z), so the root is between these; wider
    # by a factor for what rounding does to bounds that are nearly met.
    low, high = math.e * errors / 2, 2 * float(np.mean(gap**2)) / (4 * signal)
    log_s = scipy.optimize.brentq(slope, math.log(low), math.log(high), xtol=1e-12)
    return float(unit * math.exp(log_s))


def _logistic(x: np.ndarray, parameters: Sequence[float]) -> np.ndarray:
    if len(parameters) == 4:
        b1, b2, b3, b4 = parameters
        width = max(abs(b4), np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):  # a step as steep as can be
            z = (x - b3) / width
        return (b1 - b2) * scipy.special.expit(z) + b2
    b1, b2, b3, b4, b5 = parameters
    return b1 * (0.5 - scipy.special.expit(-b2 * (x - b3))) + b4 * x + b5


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval.

    Attributes:
      value: on the data as they are.
      low: lower end.
      high: upper end.
      p_value: of a difference, two-sided: how rarely resampling gives the other sign;
        None for a statistic that is no difference.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None


def bootstrap(
    statistic: Callable[..., float],
    *columns: Array,
    references: Array | Sequence[str],
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A percentile bootstrap interval, resampling **reference images**.

    Images of one reference are not independent, so whole references are drawn with
    replacement (B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993, with
    references as the units).

    Args:
      statistic: of as many arrays as there are columns, as `srcc`.
      *columns: arrays `(N,)`.
      references: the reference of each row, `(N,)`.
      confidence: share of intervals that hold the truth, in (0, 1).
      samples: how many resamplings.
      seed: fixes them.

    Raises:
      AgreementError: as in the module; fewer than two references.
    """
    drawn = bootstrap_draws(
        statistic, *columns, references=references, samples=samples, seed=seed
    )
    return interval(statistic(*map(np.asarray, columns)), drawn, confidence=confidence)


def bootstrap_draws(
    statistic: Callable[..., float],
    *columns: Array,
    references: Array | Sequence[str],
    samples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The statistic of each resampling, `(samples,)`; arguments as of `bootstrap`.

    Draws of two metrics with one seed and the same references are of the same rows:
    `interval` of each, `difference` of both.
    """
    rows = _rows_of_references(columns, references)
    values = [np.asarray(column) for column in columns]
    return np.array(
        [
            statistic(*(column[chosen] for column in values))
            for chosen in _resamplings(rows, samples, seed)
        ]
    )


def interval(value: float, drawn: Array, *, confidence: float = 0.95) -> Interval:
    """The percentile interval of a statistic from its `bootstrap_draws`."""
    low, high = _percentiles(drawn, confidence)
    return Interval(value, low, high)


def difference(
    first: tuple[float, Array],
    second: tuple[float, Array],
    *,
    confidence: float = 0.95,
) -> Interval:
    """The paired bootstrap of a difference, from values and draws of two metrics.

    Args:
      first: a statistic of metric A, and its `bootstrap_draws`.
      second: of metric B, of the same resamplings.
      confidence: as in `bootstrap`.

    Returns:
      A minus B, its interval, and a p-value. Where no draw gives the other sign the
      p-value is 1 / samples, the least that can be told.
    """
    drawn = np.subtract(first[1], second[1])
    low, high = _percentiles(drawn, confidence)
    tail = min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    p_value = float(np.clip(2 * tail, 1 / len(drawn), 1))
    return Interval(first[0] - second[0], low, high, p_value)


def bootstrap_difference(
    statistic: Callable[..., float],
    first: Array | Sequence[Array],
    second: Array | Sequence[Array],
    *shared: Array,
    references: Array | Sequence[str],
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Whether one metric beats another: the paired bootstrap of the difference.

    Args:
      statistic: as `srcc`, of a metric's columns and the shared ones.
      first: scores of metric A `(N,)`, or a sequence of columns, as (d0, d1).
      second: of metric B, likewise.
      *shared: opinions `(N,)`, or judgements.
      references: the reference of each row, `(N,)`; both metrics see the same draws.
      confidence: as in `bootstrap`.
      samples: likewise.
      seed: likewise.

    Returns:
      As `difference`.
    """
    both = []
    for metric in (first, second):
        columns = [np.asarray(c) for c in (*_as_columns(metric), *shared)]
        drawn = bootstrap_draws(
            statistic, *columns, references=references, samples=samples, seed=seed
        )
        both.append((statistic(*columns), drawn))
    return difference(both[0], both[1], confidence=confidence)


def _as_columns(values: Array | Sequence[Array]) -> list[np.ndarray]:
    array = np.asarray(values)
    return [array] if array.ndim == 1 else list(array)


def _rows_of_references(
    columns: Sequence[Any], references: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows ordered by reference; where each reference starts, and its rows' number."""
    references = np.asarray(references)
    lengths = {len(column) for column in columns} | {len(references)}
    if len(lengths) != 1:
        raise AgreementError(
            f"columns and references have {sorted(lengths)} rows: they must have one"
            " length"
        )
    _, inverse, counts = np.unique(references, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise AgreementError(
            f"{len(counts)} reference: an interval over references needs two at least"
        )
    order = np.argsort(inverse, kind="stable")
    return order, np.cumsum(counts) - counts, counts


def _resamplings(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yields the rows of as many references as there are, drawn with replacement."""
    order, starts, counts = rows
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        drawn = rng.integers(len(counts), size=len(counts))
        # The ranges start, start + 1, ... of all references drawn, end to end.
        ends = np.cumsum(counts[drawn])
        shift = np.repeat(starts[drawn] - ends + counts[drawn], counts[drawn])
        yield order[shift + np.arange(ends[-1])]


def _percentiles(drawn: Array, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise AgreementError(f"confidence is {confidence:g}: it must be in (0, 1)")
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if _constant(x) or _constant(y):
        return 0.0
    # Scaled first, so that neither tiny nor huge units over- or underflow.
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))


def _check(least: int, **columns: Any) -> tuple[np.ndarray, ...]:
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


def _check_shares(values: np.ndarray, name: str) -> None:
    if values.min() < 0 or values.max() > 1:
        raise AgreementError(
            f"{name} goes from {values.min():g} to {values.max():g}: it is a share, in"
            " [0, 1]"
        )
