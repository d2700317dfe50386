"""How well scores agree with a set's opinions, by the kind of set and its protocol.

Where opinions compare within one reference only, as points of a tournament among its
versions do, a correlation over all references compares what nobody compared. Metrics
are then ranked by the mean of the correlations within references.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spips_jax import agreement
from spips_jax.agreement import AgreementError
from spips_jax.data.dataset import Dataset
from spips_jax.kinds import ALIKE


@dataclass(frozen=True)
class Statistic:
    """A statistic of a set, larger is better.

    Attributes:
      name: its name in results.
      function: of what `columns` gives.
      within: whether it is the mean of the function over references, on the examples of
        each alone.
    """

    name: str
    function: Callable[..., float]
    within: bool = False

    def value(self, values: tuple[np.ndarray, ...], references: np.ndarray) -> float:
        """The statistic of columns `(N,)`, whose rows have references `(N,)`.

        Raises:
          AgreementError: it is not defined for these.
        """
        if not self.within:
            return self.function(*values)
        return self.of_references(values, references).mean

    def draws(
        self,
        values: tuple[np.ndarray, ...],
        references: np.ndarray,
        *,
        samples: int,
        seed: int,
    ) -> np.ndarray:
        """The statistic of each bootstrap sample of references, `(samples,)`.

        Raises:
          AgreementError: it is not defined for some sample, or there are fewer than two
            references.
        """
        function = self.function
        if self.within:
            found = self.of_references(values, references)
            function, values, references = np.mean, (found.values,), found.references
        return agreement.bootstrap_draws(
            function, *values, references=references, samples=samples, seed=seed
        )

    def of_references(
        self, values: tuple[np.ndarray, ...], references: np.ndarray
    ) -> agreement.Within:
        """The function on the examples of each reference."""
        scores, opinions = values
        return agreement.within_references(
            self.function, scores, opinions, references=references
        )


def statistics_of(dataset: Dataset) -> tuple[Statistic, ...]:
    """The statistics of a set; the first is what metrics are ranked by."""
    kind = dataset.kind
    found = [Statistic(name, function) for name, function in kind.statistics]
    if kind.within is None or dataset.comparable == "group":
        return tuple(found)
    within = Statistic(*kind.within, within=True)
    first = dataset.comparable == "reference"
    return (within, *found) if first else (*found, within)


def main_of(dataset: Dataset) -> str:
    """The name of the statistic that ranks metrics and checkpoints on a set.

    The mean within references where opinions compare there alone, `srcc_within`;
    otherwise the first of the set's kind.
    """
    return statistics_of(dataset)[0].name


def compared_rows(dataset: Dataset) -> list[list[int]]:
    """Positions of the examples, in groups within which opinions compare."""
    alike = ALIKE.get(dataset.comparable)
    return (
        [list(range(len(dataset)))]
        if alike is None
        else list(dataset.positions_by(*alike).values())
    )


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

    `srcc`, `plcc` (of unfitted scores) and `krcc` for pairs and ranks, `srcc_within`,
    the mean SRCC within a reference, for pairs, `two_afc` for forced choices, `map` for
    just noticeable differences; larger is better. `main_of` is always there, any other
    only where the examples define it.

    Raises:
      AgreementError: scores that are NaN or inf, or too few of them; no reference whose
        examples can be ordered, where opinions compare within references only.
    """
    values = columns(dataset, scores, higher_is_better=higher_is_better)
    references = dataset.index["reference_id"]
    main, *others = statistics_of(dataset)
    found = {main.name: main.value(values, references)}
    for other in others:
        with contextlib.suppress(AgreementError):
            found[other.name] = other.value(values, references)
    return found
