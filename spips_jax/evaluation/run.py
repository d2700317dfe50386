"""An evaluation from its config to its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spips_jax import data, loading, parallel
from spips_jax.cache import cache_compilations
from spips_jax.calibration import Calibration
from spips_jax.data.builder import IqaBuilder
from spips_jax.data.dataset import Dataset
from spips_jax.data.splits import parse_names
from spips_jax.evaluation import config as config_lib
from spips_jax.evaluation import report, results
from spips_jax.evaluation.config import EvaluationError
from spips_jax.evaluation.scores import Candidate, packages, scores_of
from spips_jax.evaluation.statistics import columns, compared_rows
from spips_jax.files import locked
from spips_jax.kinds import PROTOCOLS
from spips_jax.metric import Metric
from spips_jax.outputs import check_folder
from spips_jax.weights import WeightsError

_WORST = "worst"
_SCORES = "scores"

_AMONG = {
    "set": "the set",
    "reference": "its reference's versions",
    "group": "its distortion's levels",
}
"""By over what opinions compare: what an example is compared with, in words."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
      results: as in `results.json`.
      files: the report's files, tables first; none in processes that do not write.
      errors: a line for each metric that gave no numbers on a set.
    """

    results: Mapping[str, Any]
    files: tuple[Path, ...]
    errors: tuple[str, ...]


def evaluate(
    config: ConfigDict, output: str | os.PathLike[str], *, command: str = ""
) -> Evaluation:
    """Evaluates metrics on sets and writes a report.

    Scores are saved in `output/scores` as they are computed, and an interrupted run
    resumes from them. With several processes only the first reads and writes files.

    Args:
      config: from `config.default`.
      output: the folder of the report.
      command: the command to show in the report.

    Raises:
      EvaluationError: impossible values, or scores of something else in `output`.
      DataError, WeightsError: a set or a model cannot be read.
      OSError: `output` cannot be written.
    """
    folder = _folder(output)
    sets, candidates = _opened(config)
    scores, made = _scored(config, folder, sets, candidates)
    if not parallel.is_writer():
        return Evaluation({}, (), ())
    found = _results(config, sets, candidates, scores, made, command)
    with locked(folder / "results.json"):  # else two runs would mix their figures
        files = _write(config, folder, sets, candidates, scores, found)
    errors = tuple(
        f"{label} on {name}: {values['error']}"
        for name, one in found["sets"].items()
        for label, values in one["models"].items()
        if "error" in values
    )
    return Evaluation(found, files, errors)


def calibrate(config: ConfigDict, output: str | os.PathLike[str]) -> Calibration | None:
    """Fits a curve from a trained model's scores to opinions; stores it in its file.

    Scores are saved in `output/scores`, as by `evaluate`.

    Args:
      config: from `config.default`, with one model, a file, and one set, whose opinions
        are mean opinions or forced choices.
      output: the folder of the scores.

    Returns:
      The calibration; None in processes that do not write.

    Raises:
      EvaluationError: not one model file and one set of such opinions; opinions that do
        not compare over the whole set; scores that cannot be fitted to the opinions.
        The model's file is then unchanged.
      DataError, WeightsError: a set or a model cannot be read.
      OSError: `output` or the model's file cannot be written.
    """
    config_lib.check_scale(tuple(config.scale))
    names = [one.name for one in config.models.values()]
    if len(names) != 1 or not names[0].endswith(loading.ENDING):
        raise EvaluationError(
            f"models are {', '.join(names) or 'none'}: a calibration is stored in the"
            " file of one trained model, name it with --model"
        )
    if len(config.data) != 1:
        raise EvaluationError(
            f"sets are {', '.join(config.data) or 'none'}: a calibration is fitted to"
            " one set, name it with --data"
        )
    folder = _folder(output)
    sets, candidates = _opened(config)
    (candidate,), ((name, dataset),) = candidates, sets.items()
    if not dataset.kind.calibrated_from:
        raise EvaluationError(
            f"{name}: its opinions are {dataset.opinion}: a calibration needs mean"
            " opinions or forced choices"
        )
    if dataset.comparable != "set":
        raise EvaluationError(
            f"{name}: its opinions compare {PROTOCOLS[dataset.comparable]}, and a"
            " calibration needs opinions that compare over the whole set: use one such"
            " as live, kadid10k or csiq"
        )
    scores, _ = _scored(config, folder, sets, candidates)
    if not parallel.is_writer():
        return None
    values = scores[name][candidate.label]
    choices = dataset.kind.calibrated_from == "choices"
    try:
        calibrated = candidate.metric.calibrate(
            values.T if choices else values[:, 0],
            dataset.index[dataset.opinion],
            opinion="preference" if choices else dataset.opinion,
            scale=None if choices else tuple(config.scale) or _scale(dataset),
            dataset=dataset.name,
        )
    except ValueError as error:
        raise EvaluationError(f"{candidate.label} on {name}: {error}") from None
    _store(config, candidate, calibrated)
    return calibrated.calibration


def _store(config: ConfigDict, candidate: Candidate, calibrated: Metric) -> None:
    """Puts a calibration into the candidate's file as it is now.

    Another process may have written it since it was read: what that put in stays, and
    of two calibrations the later one.
    """
    ((label, one),) = config.models.items()
    with locked(one.name):
        current = _load(label, one)
        if current.card != candidate.card:
            raise EvaluationError(
                f"{one.name}: was changed into another model while this one was scored:"
                " give another --output, and run it again"
            )
        replace(current.metric, calibration=calibrated.calibration).save(one.name)


def _scale(dataset: Dataset) -> tuple[float, float]:
    """The set's scale, or the range of its opinions if it has none."""
    card = getattr(_builder(dataset), "CARD", None)
    if card is not None:
        return card.scale
    opinions = dataset.index[dataset.opinion]
    return float(opinions.min()), float(opinions.max())


def _builder(dataset: Dataset) -> type[IqaBuilder]:
    return data.BUILDERS[dataset.name.partition("/")[0]]


Scores = dict[str, dict[str, np.ndarray]]


def _folder(output: str | os.PathLike[str]) -> Path:
    """The folder to write to; `UserError` if others' files are in it."""
    folder = Path(output).expanduser()
    check_folder(folder, marks=(_SCORES,), option="--output")
    return folder


def _opened(config: ConfigDict) -> tuple[dict[str, Dataset], list[Candidate]]:
    """Checks a config; opens its sets and loads its metrics."""
    config_lib.check(config)
    try:
        parallel.initialize(config.distributed)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    cache_compilations()
    sets = {label: _open_set(config, one) for label, one in config.data.items()}
    return sets, [_load(label, one) for label, one in config.models.items()]


def _scored(
    config: ConfigDict,
    folder: Path,
    sets: Mapping[str, Dataset],
    candidates: list[Candidate],
) -> tuple[Scores, dict[str, dict[str, Any]]]:
    """The scores and their cards, by set and metric."""
    scores: Scores = {}
    made: dict[str, dict[str, Any]] = {}
    for name, dataset in sets.items():
        kept = folder / _SCORES / _file_name(name)
        for candidate in candidates:
            values, card = scores_of(
                candidate,
                dataset,
                file=kept / f"{_file_name(candidate.label)}.csv",
                batch_size=config.batch_size,
                num_threads=config.num_threads,
            )
            scores.setdefault(name, {})[candidate.label] = values
            made.setdefault(name, {})[candidate.label] = card
    return scores, made


def _open_set(config: ConfigDict, one: ConfigDict) -> Dataset:
    dataset = data.load(one.name, data_dir=config.data_dir or None, split=one.split)
    if one.fold:
        _, dataset = dataset.fold(one.fold)
    for text, leave_out in (
        (one.exclude_references, Dataset.exclude_references),
        (one.exclude_shared, Dataset.exclude_shared),
    ):
        if names := parse_names(text):
            dataset = leave_out(dataset, names)
    if not len(dataset):
        raise EvaluationError(f"{one.name}: no example is left to evaluate on")
    return dataset


def _load(label: str, one: ConfigDict) -> Candidate:
    try:
        loaded = loading.load(
            one.name,
            trained=one.trained,
            weights=one.weights or None,
            head=one.head or None,
            dtype=one.dtype,
        )
    except WeightsError:
        raise
    except ValueError as error:
        raise EvaluationError(f"models.{label}: {error}") from None
    return Candidate(
        label=label, metric=loaded, dtype=one.dtype, value_range=tuple(one.value_range)
    )


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in label)


def _results(
    config: ConfigDict,
    sets: Mapping[str, Dataset],
    candidates: list[Candidate],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    made: Mapping[str, Mapping[str, Any]],
    command: str,
) -> dict[str, Any]:
    found = {}
    for name, dataset in sets.items():
        one = config.data[name]
        found[name] = {
            "set": {
                **one.to_dict(),
                "version": str(_builder(dataset).VERSION),
            },
            **results.results_of(
                dataset,
                scores[name],
                higher_is_better={
                    one.label: one.metric.higher_is_better for one in candidates
                },
                samples=config.samples,
                confidence=config.confidence,
                seed=config.seed,
            ),
            "scores": made[name],
        }
    devices = jax.devices()
    return {
        "command": command,
        "samples": config.samples,
        "confidence": config.confidence,
        "seed": config.seed,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "packages": packages(),
        "models": {
            candidate.label: {
                **candidate.card,
                "higher_is_better": candidate.metric.higher_is_better,
            }
            for candidate in candidates
        },
        "sets": found,
    }


def _write(
    config: ConfigDict,
    folder: Path,
    sets: Mapping[str, Dataset],
    candidates: list[Candidate],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    found: Mapping[str, Any],
) -> tuple[Path, ...]:
    from spips_jax.evaluation import figures  # only a process that writes draws

    tables = [folder / name for name in ("results.md", "results.json", "scores.csv")]
    report.write_tables(tables[0], found)
    report.write_results(tables[1], found)
    report.write_scores(tables[2], sets, scores)
    drawn: list[Path] = []
    for name, dataset in sets.items():
        one = found["sets"][name]
        whole = {
            label: values
            for label, values in scores[name].items()
            if "error" not in one["models"][label]
        }
        if not whole:
            continue
        stem = _file_name(name)
        if dataset.kind.fitted:
            drawn.append(folder / f"{stem}-scatter.png")
            figures.write_scatter(drawn[-1], dataset, whole, one)
        for column in results.PARTS:
            if column in one["models"][next(iter(whole))]["parts"]:
                drawn.append(folder / f"{stem}-by-{column}.png")
                figures.write_bars(
                    drawn[-1], one, column=column, title=f"{name}, by {column}"
                )
        candidate = candidates[0]
        if candidate.label in whole and config.worst:
            drawn += _write_worst(
                folder / _WORST / stem,
                candidate,
                dataset,
                whole[candidate.label],
                config.worst,
            )
    return (*tables, *drawn)


def _write_worst(
    folder: Path, candidate: Candidate, dataset: Dataset, scores: np.ndarray, count: int
) -> list[Path]:
    """Draws the worst disagreements of a metric, in place of any drawn earlier."""
    from spips_jax.evaluation import figures

    shutil.rmtree(folder, ignore_errors=True)
    higher_is_better = candidate.metric.higher_is_better
    found = columns(dataset, scores, higher_is_better=higher_is_better)
    among = {row: rows for rows in compared_rows(dataset) for row in rows}
    drawn = []
    for rank, row in enumerate(
        results.disagreements(dataset, found, count=count), start=1
    ):
        example = dataset[row]
        values = ", ".join(f"{value:.4f}" for value in scores[row])
        opinion = f"{dataset.opinion} {example[dataset.opinion]:.3g}"
        rows = among[row]
        said = dataset.kind.verdict(
            tuple(column[rows] for column in found),
            rows.index(row),
            higher_is_better,
            _AMONG[dataset.comparable],
        )
        drawn.append(folder / f"{rank:02}-{_file_name(example['id'])}.png")
        figures.write_disagreement(
            drawn[-1],
            example,
            dataset=dataset,
            candidate=candidate,
            scores=scores[row].tolist(),
            title=f"{rank}. {example['id']}  {example['distortion']}\n"
            f"{candidate.label} {values}, {opinion}; {said}",
        )
    return drawn
