"""Curves from scores to opinions, fitted by least squares or likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from spips_jax.agreement.statistics import (
    AgreementError,
    Array,
    check_columns,
    check_shares,
    constant,
    pearson,
)


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
      AgreementError: as in the module; no more values than parameters, through which
        a curve passes whatever they are; another number of parameters; scores or
        opinions that are all equal.
    """
    if parameters not in (4, 5):
        raise AgreementError(f"{parameters} parameters: there are fits of 4 and of 5")
    scores, opinions = check_columns(parameters + 1, scores=scores, opinions=opinions)
    if constant(scores):
        raise AgreementError(
            f"all scores are {scores[0]:g}: there is nothing to fit opinions to"
        )
    if constant(opinions):
        raise AgreementError(
            f"all opinions are {opinions[0]:g}: there is nothing to fit"
        )
    # In units of the data, so that one set of starts and steps suits every metric.
    middle, spread = scores.mean(), scores.std()
    x = (scores - middle) / spread
    low, high = opinions.min(), opinions.max()
    height = high - low
    y = (opinions - low) / height
    sign = 1.0 if pearson(x, y) >= 0 else -1.0
    fits = []
    for steepness in (0.5, 1.0, 2.0, 5.0):
        for centre in (-1.0, 0.0, 1.0):
            start: tuple[float, ...] = (
                (0.5 + sign / 2, 0.5 - sign / 2, centre, 1 / steepness)
                if parameters == 4
                else (sign, steepness, centre, 0.0, 0.5)
            )
            # MINPACK itself takes the differences, many times faster than the wrapper
            # `scipy.optimize.least_squares` does.
            found, _, details, *_ = scipy.optimize.leastsq(
                lambda p: _logistic(x, p) - y,
                start,
                full_output=True,
                ftol=1e-8,
                xtol=1e-8,
                maxfev=500 * (parameters + 1),
            )
            fits.append((float(np.sum(details["fvec"] ** 2)), found))
    _, best = min(fits, key=lambda fit: fit[0])
    if parameters == 4:
        top, bottom, centre, width = best
        curve: tuple[float, ...] = (
            low + height * top,
            low + height * bottom,
            middle + spread * centre,
            spread * abs(width),
        )
    else:
        size, steepness, centre, slope, offset = best
        curve = (
            height * size,
            steepness / spread,
            middle + spread * centre,
            height * slope / spread,
            low + height * (offset - slope * middle / spread),
        )
    return Logistic(tuple(map(float, curve)))


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
      AgreementError: bad columns (see the package), or no finite s > 0 is the most
        likely.
    """
    d0, d1, judgement = check_columns(1, d0=d0, d1=d1, judgement=judgement)
    check_shares(judgement, "judgement")
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
