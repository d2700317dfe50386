"""From scores to numbers: agreement, fits, intervals, differences, parts of a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spips_jax import agreement
from spips_jax.agreement import AgreementError, Interval
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.statistics import (
    Statistic,
    columns,
    compared_rows,
    statistics_of,
)
from spips_jax.kinds import ALIKE

PARTS = ("distortion", "level", "split")
"""Columns whose values divide a set into parts."""

EQUATIONS = {
    4: "(b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2",
    5: "b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5",
}
"""The logistic fits of `agreement.fit_logistic`."""

ENOUGH = 8
"""References of which a spread tells something, and a bootstrap."""

NARROW = 0.05
"""A ratio of spreads below this, over `ENOUGH` references, is that of scores per
reference: of the sets whose scores compare, CSIQ, KADID-10k and LIVE have 0.1 to 0.2,
and TID2013, whose scores do not, 0.005."""


def results_of(
    dataset: Dataset,
    scores: Mapping[str, np.ndarray],
    *,
    higher_is_better: Mapping[str, bool],
    samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """All results of metrics on a set, as plain values for JSON.

    Args:
      dataset: the examples.
      scores: `(N, n)` of each metric, of the pairs that the set's kind compares.
      higher_is_better: the direction of each metric.
      samples: bootstrap samples over references.
      confidence: level of the bootstrap intervals.
      seed: of the bootstrap samples.

    Returns:
      `examples`, `references`, `opinion`; `comparable` and, where an image has an
      opinion of its own, `spread_ratio` and `left_out`, which `docs/evaluation.md`
      explains; `main`, the statistic that metrics are ranked by; `models`, each
      metric's numbers, listed there, too; `differences` in the main statistic between
      every two metrics; `human` for choices; `notes`, a line for each missing number,
      which is null.
    """
    statistics, ceiling = statistics_of(dataset), dataset.kind.ceiling
    main, references = statistics[0], dataset.index["reference_id"]
    protocol, notes = _protocol(dataset)
    draws: dict[str, tuple[float, np.ndarray]] = {}
    models: dict[str, Any] = {}
    for label, values in scores.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            models[label] = {"error": _not_finite(dataset, values, bad)}
            continue
        found = columns(dataset, values, higher_is_better=higher_is_better[label])
        one: dict[str, Any] = {}
        for statistic in statistics:
            name = statistic.name
            try:
                value = statistic.value(found, references)
            except AgreementError as error:
                # By the opinions alone, so for all metrics alike.
                notes.append(f"no {name}: {error}")
                one[name] = None
                continue
            drawn = _draws(dataset, statistic, found, samples=samples, seed=seed)
            one[name] = _plain(value, drawn, confidence)
            if drawn is None and len(dataset.references) > 1:
                notes.append(f"{label}: no interval of {name}: some samples lack it")
            if statistic == main and drawn is not None:
                draws[label] = (value, drawn)
            if statistic.within:
                notes += _constant(label, statistic, found, references)
        if dataset.comparable == "group":
            one["krcc_within"] = _within_groups(dataset, found, notes)
        if dataset.kind.fitted:
            one |= _fitted(
                dataset, values[:, 0], label, notes,
                samples=samples, confidence=confidence, seed=seed,
            )  # fmt: skip
        one["parts"] = {
            column: _by_part(dataset, column, found) for column in _parts(dataset)
        }
        models[label] = one
    count = len(dataset.references)
    if count < 2:
        notes.append(f"{count} reference: intervals over references need two at least")
    elif count < ENOUGH:
        notes.append(
            f"{count} references: a bootstrap over so few makes intervals too narrow"
            " and p too small"
        )
    return {
        "examples": len(dataset),
        "references": len(dataset.references),
        "kind": dataset.kind.name,
        "opinion": dataset.opinion,
        **protocol,
        "main": main.name,
        **({"human": _human(dataset, ceiling)} if ceiling else {}),
        "models": models,
        "differences": _differences(draws, confidence),
        "notes": list(dict.fromkeys(notes)),
    }


def _not_finite(dataset: Dataset, values: np.ndarray, bad: np.ndarray) -> str:
    return (
        f"{len(bad)} of {len(values)} scores are NaN or inf, the first is of"
        f" {dataset.index['id'][bad[0]]}"
    )


def _protocol(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    """How a set's opinions compare, by its card and by their spread; notes on both."""
    found: dict[str, Any] = {"comparable": dataset.comparable}
    within = next((one for one in statistics_of(dataset) if one.within), None)
    if within is None:
        return found, []
    notes = []
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    references, count = dataset.index["reference_id"], len(dataset.references)
    try:
        ratio = agreement.spread_ratio(opinions, references=references)
    except AgreementError:  # one reference, or one opinion: nothing spreads
        ratio = None
    narrow = ratio is not None and ratio < NARROW and count >= ENOUGH
    if narrow and dataset.comparable == "set":
        notes.append(
            "these look like scores per reference, though the set's card says that they"
            f" compare over the whole set: the {count} references' mean opinions spread"
            f" {ratio:.3f} times as far as all opinions"
        )
    try:
        left_out = within.of_references((opinions, opinions), references).left_out
    except AgreementError:  # which each metric's statistic then says
        left_out = dataset.references
    if 0 < len(left_out) < count:
        notes.append(
            f"{within.name} is without {len(left_out)} of {count} references, which"
            f" have fewer than three examples or equal opinions: {_names(left_out)}"
        )
    return found | {"spread_ratio": ratio, "left_out": list(left_out)}, notes


def _constant(
    label: str,
    statistic: Statistic,
    values: tuple[np.ndarray, ...],
    references: np.ndarray,
) -> list[str]:
    """Notes the references of which a metric gives all images the same score."""
    equal = statistic.of_references(values, references).constant
    if not equal:
        return []
    return [
        f"{label}: {statistic.name} counts {len(equal)} references as 0, whose scores"
        f" are all equal: {_names(equal)}"
    ]


def _names(references: Sequence[str]) -> str:
    more = ", ..." if len(references) > 8 else ""
    return ", ".join(references[:8]) + more


def _draws(
    dataset: Dataset,
    statistic: Statistic,
    values: tuple[np.ndarray, ...],
    *,
    samples: int,
    seed: int,
) -> np.ndarray | None:
    """The bootstrap over references; None where it is not defined.

    A sample can lack what the statistic needs, such as a positive of a JND.
    """
    try:
        return statistic.draws(
            values, dataset.index["reference_id"], samples=samples, seed=seed
        )
    except AgreementError:
        return None


def _plain(
    value: float, drawn: np.ndarray | None, confidence: float
) -> dict[str, float | None]:
    if drawn is None:
        return {"value": value, "low": None, "high": None}
    interval = agreement.interval(value, drawn, confidence=confidence)
    return {"value": value, "low": interval.low, "high": interval.high}


def _fitted(
    dataset: Dataset,
    scores: np.ndarray,
    label: str,
    notes: list[str],
    *,
    samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """PLCC after both logistic fits; RMSE and outlier ratio after the one of 4."""
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    found: dict[str, Any] = {}
    for parameters in EQUATIONS:
        name = f"plcc_{parameters}"
        try:
            fit = agreement.fit_logistic(scores, opinions, parameters=parameters)
        except AgreementError as error:
            notes.append(f"{label}: no fit of {parameters} parameters: {error}")
            found |= {name: None, f"fit_{parameters}": None}
            continue
        fitted = fit(scores)
        # The interval keeps the one curve fitted to all data.
        plcc = Statistic(name, agreement.plcc)
        drawn = _draws(dataset, plcc, (fitted, opinions), samples=samples, seed=seed)
        found[name] = _plain(agreement.plcc(fitted, opinions), drawn, confidence)
        found[f"fit_{parameters}"] = list(fit.parameters)
        if parameters == 4:
            found["rmse"] = agreement.rmse(fitted, opinions)
            std = dataset.index.get("std")
            if std is not None and np.isfinite(std).all():
                found["outlier_ratio"] = agreement.outlier_ratio(fitted, opinions, std)
    return found


def _within_groups(
    dataset: Dataset, values: tuple[np.ndarray, ...], notes: list[str]
) -> float | None:
    """Mean over groups of KRCC: levels are ranks only within a group.

    A group is all levels of a distortion of a reference, three or more.
    """
    names = np.empty(len(dataset), object)
    groups = dataset.positions_by(*ALIKE["group"])
    for name, rows in groups.items():
        names[rows] = "/".join(name)
    try:
        found = agreement.within_references(
            agreement.krcc, *values, references=names.astype(str)
        )
    except AgreementError:
        notes.append(
            f"no krcc_within: none of {len(groups)} distortions of a reference has"
            " three levels or more"
        )
        return None
    if found.left_out:
        notes.append(
            f"krcc_within is without {len(found.left_out)} of {len(groups)} distortions"
            f" of references, which have fewer than three levels:"
            f" {_names(found.left_out)}"
        )
    return found.mean


def _parts(dataset: Dataset) -> list[str]:
    """The columns of `PARTS` that divide this set, each differently."""
    found: dict[str, int] = {}
    for column in PARTS:
        count = len(_values_of(dataset, column))
        if count < 2 or column == dataset.opinion:
            continue
        same = [
            other
            for other, others in found.items()
            if others == count == len(dataset.positions_by(column, other))
        ]
        if not same:  # BAPPS has a split for each distortion: once is enough
            found[column] = count
    return list(found)


def _values_of(dataset: Dataset, column: str) -> list[Any]:
    """The known values of a column: unknown ones are "" and 0."""
    values = sorted(set(dataset.index[column].tolist()))
    return [value for value in values if value not in ("", 0)]


def _by_part(
    dataset: Dataset, column: str, values: tuple[np.ndarray, ...]
) -> dict[str, dict[str, Any]]:
    """The main statistic on the examples of each value of a column.

    Where that is the mean within references, the first of the set's kind is there, too:
    a part can have too few examples of each reference, and others report it.
    """
    main, *others = statistics_of(dataset)
    overall = others[:1] if main.within else []
    references = dataset.index["reference_id"]
    found: dict[str, dict[str, Any]] = {}
    for part in _values_of(dataset, column):
        rows = dataset.index[column] == part
        chosen = tuple(x[rows] for x in values), references[rows]
        one = found[str(part)] = {"examples": int(rows.sum())}
        for name, statistic in [("value", main), *((one.name, one) for one in overall)]:
            try:
                one[name] = statistic.value(*chosen)
            except AgreementError:  # too few examples, equal opinions, no positive
                one[name] = None
    return found


def _human(dataset: Dataset, ceiling: Callable[[np.ndarray], float]) -> dict[str, Any]:
    """A person's main statistic against other people, on all and on each part."""
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    return {
        "value": ceiling(opinions),
        "parts": {
            column: {
                str(part): ceiling(opinions[dataset.index[column] == part])
                for part in _values_of(dataset, column)
            }
            for column in _parts(dataset)
        },
    }


def _differences(
    draws: Mapping[str, tuple[float, np.ndarray]], confidence: float
) -> list[dict[str, Any]]:
    """Differences between every two metrics, in the order of the models."""
    labels = list(draws)
    found = []
    for number, first in enumerate(labels):
        for second in labels[number + 1 :]:
            one: Interval = agreement.difference(
                draws[first], draws[second], confidence=confidence
            )
            found.append(
                {
                    "first": first,
                    "second": second,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "p_value": one.p_value,
                }
            )
    return found


def disagreements(
    dataset: Dataset, values: tuple[np.ndarray, ...], *, count: int
) -> list[int]:
    """Positions of the examples on which a metric and people disagree most.

    Pairs, ranks and JND: the largest distance between an example's place in the order
    of the scores and its place in the order of opinions, both from 0 to 1, among those
    whose opinions compare. Choices: the metric's relative preference times the majority
    of people against it.

    Args:
      dataset: the examples.
      values: as `statistics.columns` gives.
      count: how many to return, worst first.
    """
    off = np.zeros(len(dataset))
    for rows in compared_rows(dataset):
        off[rows] = dataset.kind.disagreement(*(column[rows] for column in values))
    order = np.argsort(-off, kind="stable")
    return [int(position) for position in order[:count] if off[position] > 0]
