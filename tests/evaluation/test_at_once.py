"""Several runs at once: scores in one folder, calibrations into one file.

Threads stand for processes: a lock keeps them apart in the same way.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import spips_jax
from spips_jax import data, evaluation, parallel, weights
from spips_jax.calibration import Calibration
from spips_jax.evaluation import run, scores


@pytest.fixture
def candidate() -> scores.Candidate:
    return scores.Candidate(label="psnr", metric=spips_jax.load("psnr"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Scores of 1 without a network; the positions that were computed."""
    positions: list[int] = []

    def batches(
        score: Any, dataset: data.Dataset, **_: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for position in range(len(dataset)):
            positions.append(position)
            yield np.array([position]), np.ones((1, 1), np.float32)

    monkeypatch.setattr(scores, "run_batches", batches)
    return positions


def test_runs_that_want_the_same_scores_compute_them_once(
    sets: Path, tmp_path: Path, candidate: scores.Candidate, computed: list[int]
) -> None:
    dataset = data.load("pair_list/tiny", data_dir=sets)
    file = tmp_path / "out" / "psnr.csv"

    def score(_: int) -> np.ndarray:
        found = scores.scores_of(
            candidate, dataset, file=file, batch_size=4, num_threads=1
        )
        return found[0]

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(score, range(3)))
    assert computed == list(range(len(dataset)))
    for one in found:
        np.testing.assert_array_equal(one, np.ones((len(dataset), 1)))
    with file.open(newline="") as lines:
        ids = [row["id"] for row in csv.DictReader(lines)]
    assert ids == dataset.index["id"].tolist()
    assert {path.suffix for path in file.parent.iterdir()} == {".csv", ".json"}


@pytest.mark.parametrize("writer", [True, False])
def test_a_folder_that_cannot_be_written_ends_all_processes(
    sets: Path,
    tmp_path: Path,
    candidate: scores.Candidate,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    writer: bool,
) -> None:
    """The others are told, and do not wait."""
    dataset = data.load("pair_list/tiny", data_dir=sets)
    (tmp_path / "file").touch()
    monkeypatch.setattr(parallel, "is_writer", lambda: writer)
    monkeypatch.setattr(parallel, "everywhere", lambda _: False)
    with pytest.raises(
        OSError if writer else evaluation.EvaluationError,
        match="file" if writer else "the first process failed",
    ):
        scores.scores_of(
            candidate,
            dataset,
            file=tmp_path / "file" / "psnr.csv",
            batch_size=4,
            num_threads=1,
        )
    assert not computed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one's own, with its backbone."""
    path = tmp_path / "model.safetensors"
    shutil.copy(weights.PACKAGE / "spips-lite.safetensors", path)
    return path


@pytest.fixture
def opened(model: Path) -> tuple[ConfigDict, scores.Candidate]:
    """The config of a calibration of the model, which was just read."""
    config = evaluation.default()
    config.models.model = evaluation.model(str(model))
    return config, run._load("model", config.models.model)


def other(calibration: Calibration | None, examples: int) -> Calibration:
    assert calibration is not None
    return dataclasses.replace(calibration, examples=examples)


def test_calibrations_at_once(
    model: Path, opened: tuple[ConfigDict, scores.Candidate]
) -> None:
    """All are written, one after the other; what else the file has by then stays."""
    config, candidate = opened
    metric = candidate.metric
    renoted = metric.replace(card_json='{"note": "written meanwhile"}')
    renoted.save(model)
    begin = threading.Barrier(2)

    def store(examples: int) -> None:
        fitted = other(metric.calibration, examples)
        begin.wait(10)
        calibrated = metric.replace(calibration=fitted)
        run._store(config, candidate, calibrated, seen_examples=None)

    with ThreadPoolExecutor() as pool:
        list(pool.map(store, (101, 102)))
    found = spips_jax.load(model)
    assert found.calibration in [other(metric.calibration, n) for n in (101, 102)]
    assert found.card["note"] == "written meanwhile"
    assert list(model.parent.glob("[.m]*")) == [model]


def test_another_model_in_the_file_meanwhile_is_kept(
    model: Path,
    opened: tuple[ConfigDict, scores.Candidate],
    retrained: Callable[[spips_jax.Metric], spips_jax.Metric],
) -> None:
    config, candidate = opened
    retrained(candidate.metric).save(model)
    before = model.read_bytes()
    with pytest.raises(evaluation.EvaluationError, match="changed into another model"):
        run._store(config, candidate, candidate.metric, seen_examples=None)
    assert model.read_bytes() == before


@pytest.fixture
def retrained() -> Callable[[spips_jax.Metric], spips_jax.Metric]:
    """A function that changes the head of a model."""

    def change(metric: spips_jax.Metric) -> spips_jax.Metric:
        params = dict(metric.variables["params"])
        params["head"] = {
            name: value + 1
            if not isinstance(value, dict)
            else {one: tensor + 1 for one, tensor in value.items()}
            for name, value in params["head"].items()
        }
        return metric.replace(variables={"params": params})

    return change
