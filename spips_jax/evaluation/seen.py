"""Which examples of a set a metric has seen in training, as its own card tells.

A model is no judge of examples that it learned from. A trained model's file says which
sets it was trained on, and of which references; files of earlier versions say which
fold and which exclusions, from which the references follow where the set is at hand.
The baselines that learned from opinions say so in their records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spips_jax.baselines import BASELINES
from spips_jax.data.dataset import Dataset
from spips_jax.data.splits import (
    KODAK,
    PHOTOGRAPHS,
    assign_folds,
    parse_fold,
    parse_names,
    photograph_of,
    shared_references,
)
from spips_jax.loading import UNTRAINED
from spips_jax.metric import Metric
from spips_jax.spips import Spips


@dataclass(frozen=True)
class Seen:
    """What a metric has seen of a set.

    Attributes:
      examples: `(N,)`, whether its training had the example's reference in this set.
      scenes: `(N,)`, whether it had the same photograph in another set, of the others.
      trained_on: the sets that it was trained on; None where that is not known.
      sure: whether its card tells this of all examples.
    """

    examples: np.ndarray
    scenes: np.ndarray
    trained_on: tuple[str, ...] | None
    sure: bool

    @property
    def any(self) -> np.ndarray:
        """`(N,)`, whether the example or its photograph was seen."""
        return self.examples | self.scenes

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers of examples, null where nothing is known."""
        known = self.trained_on is not None
        return {
            "trained_on": list(self.trained_on or ()) if known else None,
            "examples": int(self.examples.sum()) if known else None,
            "scenes": int(self.scenes.sum()) if known else None,
            "sure": self.sure,
        }


@dataclass(frozen=True)
class _Source:
    """A set that a metric was trained on.

    Attributes:
      name: the set's.
      references: their ids; None where they follow from the other fields.
      splits: those that were used; all if empty.
      fold: the fold that was held out, as "1/5"; "" for none.
      shared: the sets whose photographs were excluded.
      excluded: the references that were.
      count: how many references there were; 0 if not known.
    """

    name: str
    references: frozenset[str] | None = None
    splits: tuple[str, ...] = ()
    fold: str = ""
    shared: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    count: int = 0


def seen(metric: Metric, dataset: Dataset) -> Seen | None:
    """What a metric has seen of a set in training; None if it learned from no set.

    Which photographs two sets share is what `splits.shared_references` knows.

    Args:
      metric: the metric, with its card.
      dataset: the examples, `(N,)`.
    """
    examples, scenes, doubtful = (np.zeros(len(dataset), bool) for _ in range(3))
    sources = _sources(metric)
    if sources is None:
        return Seen(examples, scenes, None, sure=False)
    if not sources:
        return None
    photographs = np.array(
        [
            photograph_of(name, dataset=dataset.name)
            for name in dataset.index["reference_id"].tolist()
        ]
    )
    for source in sources:
        if source.name == dataset.name:
            rows = _rows(source, dataset)
            if rows is None:
                doubtful[:] = True
            else:
                examples |= rows
            continue
        references = _references(source)
        if references is None:
            doubtful |= np.isin(photographs, sorted(KODAK))
        else:
            shared = shared_references(
                dataset.references, {source.name: references}, dataset=dataset.name
            )
            scenes |= np.isin(dataset.index["reference_id"], sorted(shared))
    scenes &= ~examples
    doubtful &= ~(examples | scenes)
    names = tuple(dict.fromkeys(source.name for source in sources))
    return Seen(examples, scenes, names, sure=not doubtful.any())


def _sources(metric: Metric) -> list[_Source] | None:
    """What a metric was trained on; None if that is not known."""
    if not isinstance(metric.module, Spips):
        record = BASELINES.get(metric.name)
        head = record.head if record else None
        if record is None:
            return None
        return [
            _Source(name, splits=splits)
            for name, splits in (head.learned_from if head else ())
        ]
    if metric.name.endswith(UNTRAINED) and not metric.card_json:
        return []
    card = metric.card
    try:
        training = card["data"]["training"]
        config = card["config"]["data"]
        return [
            _source(one, config["train"][label], config)
            for label, one in training.items()
        ]
    except (KeyError, TypeError, AttributeError):
        return None


def _source(
    one: Mapping[str, Any], entry: Mapping[str, Any], config: Mapping[str, Any]
) -> _Source:
    """From what a card says of a set of its training, and from the run's config."""
    ids = one.get("reference_ids")
    split = entry.get("split", "")
    return _Source(
        name=one["set"],
        references=None if ids is None else frozenset(ids),
        splits=tuple(split.split("+")) if split else (),
        fold=config.get("fold", "") if entry.get("part") == "training" else "",
        shared=tuple(parse_names(config.get("exclude_shared", ""))),
        excluded=frozenset(parse_names(config.get("exclude_references", ""))),
        count=one["references"],
    )


def _rows(source: _Source, dataset: Dataset) -> np.ndarray | None:
    """Which examples `(N,)` of the set itself were trained on; None if not known."""
    rows = np.ones(len(dataset), bool)
    if source.splits:
        rows &= np.isin(dataset.index["split"], source.splits)
    references = source.references
    if references is None:
        references = _by_rule(source, dataset.all_references, name=dataset.name)
        # Folds depend on all references of what was opened: as many tell that it was
        # the same here.
        if source.fold and len(references) != source.count:
            return None
    return rows & np.isin(dataset.index["reference_id"], sorted(references))


def _references(source: _Source) -> frozenset[str] | None:
    """Which references another set had; None if that is not known."""
    if source.references is not None:
        return source.references
    table = PHOTOGRAPHS.get(source.name)
    return None if table is None else _by_rule(source, table, name=source.name)


def _by_rule(
    source: _Source, references: Iterable[str], *, name: str
) -> frozenset[str]:
    """Which of a set's references were used, by the fold and the exclusions."""
    kept = set(references)
    if source.fold:
        number, folds = parse_fold(source.fold)
        try:
            assigned = assign_folds(kept, folds, dataset=name)
        except ValueError:  # fewer than folds: not the references that were there
            return frozenset()
        kept = {one for one in kept if assigned[one] != number}
    # A set without a table excluded nothing when the model was trained.
    others = {one: PHOTOGRAPHS.get(one, {}) for one in source.shared}
    kept -= shared_references(kept, others, dataset=name)
    return frozenset(kept - source.excluded)
