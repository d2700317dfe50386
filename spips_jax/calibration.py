"""Calibration: from a score to the opinion that people would have of the image.

A calibration is a curve with few parameters, fitted to the scores that one metric gave
to one set and to what people said of that set. It never turns the order of two scores
round. Using one needs NumPy alone, fitting one SciPy.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

OPINIONS = ("mos", "dmos", "preference")
"""What a score is mapped to: a mean opinion, higher is better; a difference mean
opinion, higher is worse; the share of people who prefer the other image."""

GRADES = (
    "imperceptible",
    "perceptible, but not annoying",
    "slightly annoying",
    "annoying",
    "very annoying",
)
"""The impairment scale of Recommendation ITU-R BT.500, from the best grade down."""

SHARES = (0.60, 0.75, 0.90)
"""The shares of people between which the legend of preferences has its borders."""


@dataclass(frozen=True)
class Calibration:
    """A fitted map from scores, distances from 0 on, to what people would say.

    Attributes:
      opinion: one of `OPINIONS`.
      parameters: β1 to β4 of "mos" and "dmos", s of "preference"; `__call__` has the
        equations.
      scale: lowest and highest opinion, in the set's own units; (0, 1) of "preference".
      dataset: the set that it was fitted to.
      examples: how many of that set's.
      rmse: root of the mean squared difference from what people said of these, in the
        opinions' units.

    Raises:
      ValueError: values that are none of these, or a curve of the wrong direction.

    >>> curve = Calibration("mos", (1.0, 5.0, 0.5, 0.1), (1.0, 5.0), "mine", 100, 0.4)
    >>> float(curve(0.5))
    3.0
    """

    opinion: str
    parameters: tuple[float, ...]
    scale: tuple[float, float]
    dataset: str
    examples: int
    rmse: float

    def __post_init__(self) -> None:
        if self.opinion not in OPINIONS:
            raise ValueError(
                f"opinion {self.opinion!r} is not one of {', '.join(OPINIONS)}"
            )
        count = 1 if self.opinion == "preference" else 4
        _check_numbers(f"parameters of {self.opinion}", self.parameters, count)
        _check_numbers("scale", self.scale, 2)
        if not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale {self.scale}: the lowest opinion comes first")
        if self.opinion == "preference" and self.scale != (0, 1):
            raise ValueError(f"scale {self.scale}: a preference is a share, in (0, 1)")
        if not isinstance(self.dataset, str) or not self.dataset:
            raise ValueError(f"dataset {self.dataset!r}: it must be the name of a set")
        if type(self.examples) is not int or self.examples < 1:
            raise ValueError(
                f"examples {self.examples!r}: it must be a whole number from 1 on"
            )
        if not _is_number(self.rmse) or self.rmse < 0:
            raise ValueError(f"rmse {self.rmse!r}: it must be a number from 0 on")
        end, start, _, width = self._curve()
        if not width > 0:
            raise ValueError(f"the curve's width is {width}: it must be above 0")
        if not (end < start if self.opinion == "mos" else end > start):
            raise ValueError(
                f"{self.opinion} goes from {start:g} to {end:g} as the scores rise, the"
                " wrong way: scores must be distances, larger is worse"
            )

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """Returns the opinions to expect.

        "mos" and "dmos", by the logistic of VQEG (2000), held to the scale:
          (β1 - β2) / (1 + exp(-(x - β3) / β4)) + β2
        "preference", of differences between two images' scores:
          1 / (1 + exp(-x / s))

        Args:
          scores: x `(...)`, larger is worse. For "preference", the difference between
            two images' scores, or one score, which compares an image with its
            reference.

        Returns:
          float64 `(...)`, in `scale`: falling in x ("mos") or rising (the others).
        """
        end, start, centre, width = self._curve()
        x = np.asarray(scores, np.float64)
        with np.errstate(over="ignore"):  # far from the centre: 0 or 1
            rise = 1 / (1 + np.exp(-((x - centre) / width)))
        return np.asarray(np.clip((end - start) * rise + start, *self.scale))

    def legend(self) -> tuple[tuple[str, float, float], ...]:
        """Returns what scores mean: rows of words, lowest score and highest score.

        The rows go from 0 to inf without a gap, the best first. "mos" and "dmos" are
        described by `GRADES`, a fifth of the scale each; on a scale from 1 to 5 a grade
        is the nearest whole number, as in BT.500. Preferences are described by
        `SHARES`. Rows that the curve never reaches are missing.
        """
        if self.opinion == "preference":
            borders = list(SHARES)
            percents = [f"{share:.0%}"[:-1] for share in (0.5, *SHARES, 1)]
            words = [
                f"{a} to {b} % prefer the reference"
                for a, b in itertools.pairwise(percents)
            ]
        else:
            best, worst = self.scale if self.opinion == "dmos" else self.scale[::-1]
            first, step = (1 / 8, 1 / 4) if self.scale == (1, 5) else (1 / 5, 1 / 5)
            borders = [best + (first + step * i) * (worst - best) for i in range(4)]
            words = list(GRADES)
        ends = [0.0, *(max(0.0, self._score(border)) for border in borders), math.inf]
        rows = zip(words, itertools.pairwise(ends), strict=True)
        return tuple((word, low, high) for word, (low, high) in rows if low < high)

    def grade(self, score: float) -> str:
        """Returns the words that `legend` has for a score of 0 or more."""
        return next(word for word, low, high in self.legend() if low <= score < high)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as values for JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Returns the calibration of which `to_dict` made `values`.

        Raises:
          ValueError: a value is missing, extra or not what it must be.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            found = list(values) if isinstance(values, Mapping) else repr(values)
            raise ValueError(f"a calibration has {', '.join(names)}, not {found}")
        kept: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**kept)

    def _curve(self) -> tuple[float, float, float, float]:
        """Where the logistic ends and starts, its centre and its width."""
        if self.opinion == "preference":
            return 1.0, 0.0, 0.0, self.parameters[0]
        end, start, centre, width = self.parameters
        return end, start, centre, width

    def _score(self, opinion: float) -> float:
        """The score at which the curve reaches an opinion; -inf or inf: nowhere."""
        end, start, centre, width = self._curve()
        rise = (opinion - start) / (end - start)
        if not 0 < rise < 1:
            return -math.inf if rise <= 0 else math.inf
        return centre + width * math.log(rise / (1 - rise))


def fit_opinions(
    scores: ArrayLike,
    opinions: ArrayLike,
    *,
    opinion: str,
    scale: tuple[float, float],
    dataset: str,
) -> Calibration:
    """Fits a calibration to opinions that are one number an image.

    By `agreement.fit_logistic`.

    Args:
      scores: `(N,)`, distances of 0 or more; N at least 5.
      opinions: `(N,)`, in the set's own units.
      opinion: "mos" or "dmos", their direction.
      scale: lowest and highest opinion. Opinions may lie outside it by a fifth of its
        width, as realigned ones do.
      dataset: the set's name.

    Raises:
      ValueError: the data cannot be fitted; among others, opinions that are better the
        larger the scores.
    """
    from spips_jax import agreement  # which needs SciPy

    if opinion not in ("mos", "dmos"):
        raise ValueError(
            f"opinion {opinion!r}: it is mos or dmos here; `fit_choices` is for"
            " preferences"
        )
    scores, opinions = np.asarray(scores, float), np.asarray(opinions, float)
    fitted = agreement.fit_logistic(scores, opinions).parameters
    _check_distances(scores=scores)
    low, high = map(float, scale)
    calibration = Calibration(
        opinion=opinion,
        parameters=fitted,
        scale=(low, high),
        dataset=dataset,
        examples=len(opinions),
        rmse=0.0,
    )
    slack = (high - low) / 5
    if opinions.min() < low - slack or opinions.max() > high + slack:
        raise ValueError(
            f"opinions go from {opinions.min():g} to {opinions.max():g}: they are not"
            f" on the scale from {low:g} to {high:g}"
        )
    return _measured(calibration, scores, opinions)


def fit_choices(
    d0: ArrayLike, d1: ArrayLike, judgement: ArrayLike, *, dataset: str
) -> Calibration:
    """Fits a calibration to two-alternative forced choices.

    By `agreement.fit_preference`.

    Args:
      d0: distances `(N,)` of image 0 from the reference, 0 or more.
      d1: of image 1.
      judgement: `(N,)`, shares of votes for image 1, in [0, 1].
      dataset: the set's name.

    Raises:
      ValueError: the data cannot be fitted; among others, people choose the farther
        image.
    """
    from spips_jax import agreement  # which needs SciPy

    d0, d1, judgement = (np.asarray(x, float) for x in (d0, d1, judgement))
    s = agreement.fit_preference(d0, d1, judgement)
    _check_distances(d0=d0, d1=d1)
    calibration = Calibration(
        opinion="preference",
        parameters=(s,),
        scale=(0.0, 1.0),
        dataset=dataset,
        examples=len(judgement),
        rmse=0.0,
    )
    return _measured(calibration, d0 - d1, judgement)


def _measured(
    calibration: Calibration, scores: np.ndarray, opinions: np.ndarray
) -> Calibration:
    """The same with its `rmse`, which is of opinions held to the scale."""
    off = calibration(scores) - opinions
    return dataclasses.replace(calibration, rmse=float(np.sqrt(np.mean(off**2))))


def _check_distances(**columns: np.ndarray) -> None:
    for name, column in columns.items():
        if np.min(column) < 0:
            raise ValueError(
                f"{name} goes down to {np.min(column):g}: a distance is never below 0"
            )


def _check_numbers(name: str, values: Any, count: int) -> None:
    """Raises `ValueError` unless `values` are a tuple of `count` finite numbers."""
    if (
        not isinstance(values, tuple)
        or len(values) != count
        or not all(map(_is_number, values))
    ):
        raise ValueError(
            f"{name} {values!r}: a tuple is needed, of finite numbers, {count} of them"
        )


def _is_number(x: Any) -> bool:
    """Whether `x` is a finite float, or an int that can be one."""
    # So compared, NaN is none, and an int beyond every float raises nothing.
    real = isinstance(x, float) or type(x) is int
    return real and abs(x) <= sys.float_info.max
