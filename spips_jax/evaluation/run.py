"""An evaluation from its config to its report."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spips_jax import data, loading, model_file, parallel
from spips_jax.cache import cache_compilations
from spips_jax.calibration import Calibration
from spips_jax.data.builder import IqaBuilder
from spips_jax.data.dataset import Dataset
from spips_jax.data.splits import parse_names
from spips_jax.evaluation import config as config_lib
from spips_jax.evaluation import report, results
from spips_jax.evaluation.config import EvaluationError
from spips_jax.evaluation.scores import Candidate, Scored, packages, scores_of
from spips_jax.evaluation.seen import seen
from spips_jax.evaluation.statistics import columns, compared_rows
from spips_jax.files import locked
from spips_jax.kinds import PROTOCOLS
from spips_jax.messages import out_of_memory
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
      errors: a line for each metric that gave no numbers on a set, and for each example
        that a metric could not score.
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

    An example that cannot be read or scored, as one whose images exhaust the memory,
    is left out of the numbers of all metrics on the set, so that these stay comparable.
    The next run tries it again.

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
    scored = _scored(config, folder, sets, candidates)
    if not parallel.is_writer():
        return Evaluation({}, (), tuple(_failures(sets, scored)))
    measured = {name: _measured(sets[name], scored[name]) for name in sets}
    found = _results(config, sets, candidates, scored, measured, command)
    with locked(folder / "results.json"):  # else two runs would mix their figures
        files, undrawn = _write(
            config, folder, sets, candidates, scored, measured, found
        )
    errors = [
        f"{label} on {name}: {values['error']}"
        for name, one in found["sets"].items()
        for label, values in one["models"].items()
        if "error" in values
    ]
    return Evaluation(found, files, (*_failures(sets, scored), *errors, *undrawn))


def calibrate(
    config: ConfigDict,
    output: str | os.PathLike[str],
    *,
    on_warning: Callable[[str], None] = warnings.warn,
) -> Calibration | None:
    """Fits a curve from a trained model's scores to opinions; stores it in its file.

    Scores are saved in `output/scores`, as by `evaluate`. The model's card in the file,
    and the one beside it that `spips train export` wrote, then tell of the curve.

    Args:
      config: from `config.default`, with one model, a file, and one set, whose opinions
        are mean opinions or forced choices.
      output: the folder of the scores.
      on_warning: gets a line for each example that could not be scored, without which
        the curve is fitted.

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
    scored = _scored(config, folder, sets, candidates)
    for line in _failures(sets, scored):
        on_warning(line)
    if not parallel.is_writer():
        return None
    dataset, measured = _measured(dataset, scored[name])
    values = measured[candidate.label]
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
    known = seen(candidate.metric, dataset)
    told = known is not None and known.trained_on is not None
    _store(
        config,
        candidate,
        calibrated,
        seen_examples=int(known.any.sum()) if known and told else None,
    )
    return calibrated.calibration


def _store(
    config: ConfigDict,
    candidate: Candidate,
    calibrated: Metric,
    *,
    seen_examples: int | None,
) -> None:
    """Puts a calibration into the candidate's file as it is now, and its card.

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
        calibration = calibrated.calibration
        assert calibration is not None
        replace(current.metric, calibration=calibration).save(one.name)
        model_file.note_calibration(one.name, calibration, seen=seen_examples)


def _scale(dataset: Dataset) -> tuple[float, float]:
    """The set's scale, or the range of its opinions if it has none."""
    card = getattr(_builder(dataset), "CARD", None)
    if card is not None:
        return card.scale
    opinions = dataset.index[dataset.opinion]
    return float(opinions.min()), float(opinions.max())


def _builder(dataset: Dataset) -> type[IqaBuilder]:
    return data.BUILDERS[dataset.name.partition("/")[0]]


AllScored = dict[str, dict[str, Scored]]
"""By set and metric."""

Measured = tuple[Dataset, dict[str, np.ndarray]]
"""The examples that all metrics could score, and these scores by metric."""

SHOWN = 10
"""Examples of which each has a line, of a metric on a set; of more, a number."""


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
) -> AllScored:
    scored: AllScored = {}
    for name, dataset in sets.items():
        kept = folder / _SCORES / _file_name(name)
        for candidate in candidates:
            scored.setdefault(name, {})[candidate.label] = scores_of(
                candidate,
                dataset,
                file=kept / f"{_file_name(candidate.label)}.csv",
                batch_size=config.batch_size,
                num_threads=config.num_threads,
            )
    return scored


def _failures(sets: Mapping[str, Dataset], scored: AllScored) -> Iterator[str]:
    """A line for each example that could not be scored."""
    for name, of in scored.items():
        ids = sets[name].index["id"]
        for label, one in of.items():
            lines = [f"{ids[row]}: {why}" for row, why in one.failed.items()]
            if len(lines) > SHOWN:
                lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more examples"]
            yield from (f"{label} on {name}: {line}" for line in lines)


def _measured(dataset: Dataset, scored: Mapping[str, Scored]) -> Measured:
    """Without the examples that some metric could not score.

    A metric that could score none takes no part in the choice; nothing is left out
    where nothing would remain.
    """
    rows = np.ones(len(dataset), bool)
    for one in scored.values():
        if len(one.failed) < len(dataset):
            rows[list(one.failed)] = False
    if not rows.any():
        rows[:] = True
    return dataset.select(rows), {k: one.scores[rows] for k, one in scored.items()}


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
    scored: AllScored,
    measured: Mapping[str, Measured],
    command: str,
) -> dict[str, Any]:
    found = {}
    for name, whole in sets.items():
        one = config.data[name]
        numbers = partial(
            results.results_of,
            higher_is_better={
                one.label: one.metric.higher_is_better for one in candidates
            },
            samples=config.samples,
            confidence=config.confidence,
            seed=config.seed,
        )
        dataset, scores = measured[name]
        found[name] = {
            "set": {
                **one.to_dict(),
                "version": str(_builder(whole).VERSION),
            },
            "selected": len(whole),
            "published": whole.published,
            **numbers(dataset, scores),
            "failed": {
                label: {str(whole.index["id"][row]): why for row, why in of.items()}
                for label, (_, _, of) in scored[name].items()
                if of
            },
            **_seen(candidates, dataset, scores, numbers),
            "scores": {label: of.card for label, of in scored[name].items()},
        }
        for label, (_, _, of) in scored[name].items():
            if len(of) == len(whole):
                error = f"none of {len(whole):,} examples could be scored"
                found[name]["models"][label] = {"error": error}
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


def _seen(
    candidates: list[Candidate],
    dataset: Dataset,
    scores: Mapping[str, np.ndarray],
    numbers: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """What metrics saw in training, and all numbers on what none of them has seen."""
    known = {one.label: seen(one.metric, dataset) for one in candidates}
    learned = {label: one for label, one in known.items() if one is not None}
    found: dict[str, Any] = {
        "seen": {label: one.to_dict() for label, one in learned.items()}
    }
    rows = np.zeros(len(dataset), bool)
    for one in learned.values():
        rows |= one.any
    if 0 < rows.sum() < len(dataset):
        unseen = numbers(
            dataset.select(~rows), {label: of[~rows] for label, of in scores.items()}
        )
        found["unseen"] = unseen
    return found


def _write(
    config: ConfigDict,
    folder: Path,
    sets: Mapping[str, Dataset],
    candidates: list[Candidate],
    scored: AllScored,
    measured: Mapping[str, Measured],
    found: Mapping[str, Any],
) -> tuple[tuple[Path, ...], list[str]]:
    """Writes the report; returns its files, and a line for each that is missing."""
    from spips_jax.evaluation import figures  # only a process that writes draws

    tables = [folder / name for name in ("results.md", "results.json", "scores.csv")]
    report.write_tables(tables[0], found)
    report.write_results(tables[1], found)
    report.write_scores(
        tables[2],
        sets,
        {
            name: {label: (one.scores, one.failed) for label, one in of.items()}
            for name, of in scored.items()
        },
    )
    drawn: list[Path] = []
    undrawn: list[str] = []
    for name, (dataset, scores) in measured.items():
        one = found["sets"][name]
        whole = {
            label: values
            for label, values in scores.items()
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
                undrawn,
            )
    return (*tables, *drawn), undrawn


def _write_worst(
    folder: Path,
    candidate: Candidate,
    dataset: Dataset,
    scores: np.ndarray,
    count: int,
    undrawn: list[str],
) -> list[Path]:
    """Draws the worst disagreements of a metric, in place of any drawn earlier.

    Maps take more memory than scores: `undrawn` gets a line for each example that is
    not drawn for want of it.
    """
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
        file = folder / f"{rank:02}-{_file_name(example['id'])}.png"
        try:
            figures.write_disagreement(
                file,
                example,
                dataset=dataset,
                candidate=candidate,
                scores=scores[row].tolist(),
                title=f"{rank}. {example['id']}  {example['distortion']}\n"
                f"{candidate.label} {values}, {opinion}; {said}",
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            undrawn.append(f"{file}: is not drawn: memory is exhausted by its maps")
        else:
            drawn.append(file)
    return drawn
