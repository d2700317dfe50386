"""Intervals and paired tests by resampling references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spips_jax.agreement.statistics import AgreementError, Array


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval.

    Attributes:
      value: on the data as they are.
      low: lower end.
      high: upper end.
      p_value: of a difference, two-sided: how rarely resampling gives the other sign,
        as `difference` counts it; None for a statistic that is no difference.
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
    """The statistic of each resampling, `(samples,)`.

    With the same seed and references, the draws of two metrics use the same rows:
    `interval` needs the draws of one, `difference` those of both.

    Args:
      statistic: a function of columns, such as `srcc`.
      *columns: `(N,)`, its arguments.
      references: the reference of each row, `(N,)`; whole references are drawn.
      samples: how many resamplings.
      seed: of the resamplings.

    Raises:
      AgreementError: fewer than two references, no samples, or a resampling for which
        the statistic is not defined.
    """
    if samples < 1:
        raise AgreementError(f"{samples} samples: a bootstrap needs one at least")
    rows = _rows_of_references(columns, references)
    values = [np.asarray(column) for column in columns]
    drawn = np.array(
        [
            statistic(*(column[chosen] for column in values))
            for chosen in _resamplings(rows, samples, seed)
        ]
    )
    if not np.isfinite(drawn).all():
        raise AgreementError(
            f"the statistic of {np.sum(~np.isfinite(drawn))} of {samples} resamplings"
            " is NaN or inf"
        )
    return drawn


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
      confidence: of the interval, in (0, 1).

    Returns:
      A minus B, its interval, and a two-sided p-value: of n draws, of which r at most 0
      or at least 0, whichever are fewer, 2 (r + 1) / (n + 1), at most 1. So n draws
      never show less than 2 / (n + 1). A. Davison, D. Hinkley, "Bootstrap methods and
      their application", 1997, eq. 4.11; B. North, D. Curtis, P. Sham, "A note on the
      calculation of empirical P values from Monte Carlo procedures", Am. J. Hum. Genet.
      71, 2002.

    Raises:
      AgreementError: other numbers of draws of A and of B.
    """
    if len(first[1]) != len(second[1]):
        raise AgreementError(
            f"there are {len(first[1])} draws of one metric and {len(second[1])} of the"
            " other: both must be of the same resamplings"
        )
    drawn = np.subtract(first[1], second[1])
    low, high = _percentiles(drawn, confidence)
    rarer = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    p_value = min(2 * (float(rarer) + 1) / (len(drawn) + 1), 1.0)
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
      second: scores of metric B, in the same form.
      *shared: opinions `(N,)`, or judgements.
      references: the reference of each row, `(N,)`; both metrics see the same draws.
      confidence: of the interval, in (0, 1).
      samples: how many resamplings.
      seed: of the resamplings.

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
