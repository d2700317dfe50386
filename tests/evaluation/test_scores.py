"""Scores: the metric's own, whatever the batch, the devices, and the interruptions."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import spips_jax
from spips_jax import data, evaluation
from spips_jax.evaluation import scores
from spips_jax.evaluation.scores import Candidate, scores_of

ROOT = Path(__file__).resolve().parents[2]

PAIRS = "pair_list/tiny"
NOISE = 1e-6
"""float32 sums over other batches; scores here are below 1, PSNR in decibels aside."""


@pytest.mark.parametrize("name", [PAIRS, "bapps", "bapps_jnd"])
def test_scores_are_the_metrics_own(
    sets: Path, tmp_path: Path, light: spips_jax.Metric, name: str
) -> None:
    """By one reference or not, in a padded batch: as if called on each pair."""
    dataset = data.load(name, data_dir=sets)
    scores, *_ = scores_of(
        Candidate(label="spips", metric=light),
        dataset,
        file=tmp_path / "spips.csv",
        batch_size=4,  # 7 images a reference, 12 choices: the last batch is padded
        num_threads=2,
    )
    for row in range(0, len(dataset), 5):
        example = dataset[row]
        expected = [
            float(light(example[first], example[second]))
            for first, second in dataset.kind.compared
        ]
        np.testing.assert_allclose(scores[row], expected, atol=NOISE, rtol=0)


def test_a_reference_that_is_not_one(
    sets: Path, tmp_path: Path, light: spips_jax.Metric
) -> None:
    """What counts is the pixels: a set may call two references by one name."""
    from dataclasses import replace

    dataset = data.load(PAIRS, data_dir=sets).select(range(14))
    one = replace(
        dataset,
        index={**dataset.index, "reference_id": np.full(len(dataset), "one")},
    )
    scores, *_ = scores_of(
        Candidate(label="spips", metric=light), one, file=tmp_path / "spips.csv",
        batch_size=14, num_threads=1,
    )  # fmt: skip
    for row in (0, 13):
        expected = float(light(one[row]["reference"], one[row]["distorted"]))
        np.testing.assert_allclose(scores[row, 0], expected, atol=NOISE, rtol=0)


def test_the_range_that_a_metric_is_told(
    config: Callable[..., ConfigDict], tmp_path: Path
) -> None:
    """Twice the width: PSNR is 20 log10(2) higher, as the errors stay."""
    two = config(models=("psnr",))
    two.models.told = evaluation.model("psnr", value_range=(-1, 1))
    evaluation.evaluate(two, tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            raised = float(row["told"]) - float(row["psnr"])
            assert raised == pytest.approx(20 * np.log10(2), abs=1e-4)  # dB


def report_of(folder: Path) -> dict[str, bytes]:
    """The report's tables, byte for byte."""
    names = ("results.md", "results.json", "scores.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("kept", [0, 1, 5, 8, 20])
def test_a_torn_file_is_gone_on_with(
    config: Callable[..., ConfigDict], tmp_path: Path, kept: int
) -> None:
    """Some whole lines and half of one, as a kill leaves them: the same report."""
    made = config(models=("psnr",), batch_size=4)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    evaluation.evaluate(made, whole)
    shutil.copytree(whole / "scores", torn / "scores")
    file = torn / "scores" / "pair_list-tiny" / "psnr.csv"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + kept]) + lines[1 + kept][:4])
    evaluation.evaluate(made, torn)
    assert report_of(torn) == report_of(whole)
    assert sorted(file.read_bytes().splitlines()) == sorted(
        b"".join(lines).splitlines()
    )


def test_what_is_there_is_not_computed_again(
    config: Callable[..., ConfigDict], tmp_path: Path
) -> None:
    made = config(models=("psnr",))
    evaluation.evaluate(made, tmp_path)
    file = tmp_path / "scores" / "pair_list-tiny" / "psnr.csv"
    text = file.read_text().splitlines()
    text[3] = f"{text[3].split(',')[0]},12.5"  # nobody would compute that
    file.write_text("\n".join(text) + "\n")
    evaluation.evaluate(made, tmp_path)
    assert ",12.5\n" in (tmp_path / "scores.csv").read_text()


def test_devices_processes_and_kills(
    sets: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """1 and 2 x 2 devices: the same scores; killed and resumed, the same report."""
    words = [
        "evaluate.py", "--model=psnr", "--model=ssim",
        f"--data={PAIRS}", "--data=synthetic/scenes", f"--config.data_dir={sets}",
        "--config.samples=20", "--config.worst=0", "--config.batch_size=4",
        "--output=report",  # one for all: the command is in the report
    ]  # fmt: skip

    def evaluating(folder: str, devices: int, **options: Any) -> subprocess.Popen[str]:
        cwd = _linked(tmp_path / folder)
        return start(words, devices=devices, cwd=cwd, **options)

    killed = evaluating("killed", 1)
    file = tmp_path / "killed/report/scores/synthetic-scenes/psnr.csv"
    while not (file.exists() and len(file.read_bytes().splitlines()) > 4):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed/report/results.md").exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    started = [
        evaluating("killed", 1),
        evaluating("one", 1),
        evaluating("two", 2, coordinator=address, process=0),
        evaluating("elsewhere", 2, coordinator=address, process=1),
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    folders = ("killed", "one", "two")
    reports = {folder: report_of(tmp_path / folder / "report") for folder in folders}
    assert reports["killed"] == reports["one"]
    # The process that does not write left nothing.
    assert not (tmp_path / "elsewhere" / "report").exists()
    one, two = (
        list(csv.DictReader(reports[folder]["scores.csv"].decode().splitlines()))
        for folder in ("one", "two")
    )
    for line, other in zip(one, two, strict=True):
        # Of decibels the last digit of float32 is 2e-6.
        for name, tolerance in (("ssim", NOISE), ("psnr", 8e-6)):
            difference = float(line[name]) - float(other[name])
            assert abs(difference) <= tolerance, (line, other)


def _linked(folder: Path) -> Path:
    """A working folder with the script in it."""
    folder.mkdir(exist_ok=True)
    for name in ("evaluate.py", "configs", "spips_jax"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def test_scores_of_something_else_are_refused(
    config: Callable[..., ConfigDict],
    random_weights: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Another model under the name, another set: a line, and the scores stay."""
    made = config(models=("psnr",))
    evaluation.evaluate(made, tmp_path)
    before = report_of(tmp_path)
    for model, called in (
        (evaluation.model("ssim"), "ssim"),
        (evaluation.model("spips-lite"), "spips-lite"),
        (evaluation.model("spips-lite", trained=False), "spips-lite-untrained"),
    ):
        other = config(models=())
        other.models.psnr = model
        with pytest.raises(
            evaluation.EvaluationError, match=f"model.name psnr, not of {called}:"
        ):
            evaluation.evaluate(other, tmp_path)
    told = config(models=())
    told.models.psnr = evaluation.model("psnr", value_range=(-1, 1))
    with pytest.raises(evaluation.EvaluationError, match=r"value_range \[0.0, 1.0\]"):
        evaluation.evaluate(told, tmp_path)
    fewer = config(models=("psnr",))
    fewer.data[PAIRS].exclude_references = "r1"
    with pytest.raises(evaluation.EvaluationError, match=r"examples 21, not of 14"):
        evaluation.evaluate(fewer, tmp_path)
    assert report_of(tmp_path) == before


def test_a_card_tells_what_was_learned() -> None:
    trained, uniform = (
        Candidate(label="x", metric=spips_jax.load("spips-lite", trained=trained)).card
        for trained in (True, False)
    )
    assert trained["weights"] != uniform["weights"]
    assert uniform["name"] == "spips-lite-untrained"


@pytest.mark.parametrize(
    "option",
    [{"classical": ("psnr",)}, {"streams": ("semantic",)}, {"monotone": False}],
)
def test_a_card_tells_what_is_computed(option: dict[str, Any]) -> None:
    """Of the same name and weights: other maps, streams or another head."""
    metric = spips_jax.load("spips-lite", trained=False)
    other = metric.replace(module=metric.module.clone(**option))
    cards = [
        json.dumps(Candidate(label="x", metric=one).card) for one in (metric, other)
    ]
    assert cards[0] != cards[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("elsewhere.png,3.5", "line 4 is 'elsewhere.png,3.5', not an example's id"),
        ("r0-3.png", "line 4 is 'r0-3.png'"),
        ("r0-3.png,good", "line 4 is 'r0-3.png,good'"),
    ],
)
def test_a_damaged_file_is_named(
    config: Callable[..., ConfigDict], tmp_path: Path, line: str, message: str
) -> None:
    made = config(models=("psnr",))
    evaluation.evaluate(made, tmp_path)
    file = tmp_path / "scores" / "pair_list-tiny" / "psnr.csv"
    text = file.read_text().splitlines()
    text[3] = line
    file.write_text("\n".join(text) + "\n")
    with pytest.raises(evaluation.EvaluationError) as caught:
        evaluation.evaluate(made, tmp_path)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    file.with_suffix(".json").write_text("{")
    with pytest.raises(evaluation.EvaluationError, match="delete both"):
        evaluation.evaluate(made, tmp_path)


def test_the_card_says_what_scores_are_of(
    config: Callable[..., ConfigDict], tmp_path: Path
) -> None:
    evaluation.evaluate(config(models=("psnr",)), tmp_path)
    file = tmp_path / "scores" / "pair_list-tiny" / "psnr.json"
    card: dict[str, Any] = json.loads(file.read_text())
    assert card["model"]["name"] == "psnr"
    assert card["set"] | {"ids": "", "files": ""} == {
        "name": PAIRS, "examples": 21, "ids": "", "files": "",
    }  # fmt: skip
    assert card["packages"]["jax"]


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_sets_of_many_sizes_are_scored_on_canvases(
    config: Callable[..., ConfigDict],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    value_range: tuple[float, float],
) -> None:
    """As without, but for rounding; pairs, and images of which one is chosen."""
    made = config(models=())
    made.models.ssim = evaluation.model("ssim", value_range=value_range)
    evaluation.evaluate(made, tmp_path / "alone")
    used: list[str] = []

    def always(metric: Any, dataset: Any) -> bool:
        used.append(dataset.name)
        return True

    monkeypatch.setattr(scores, "_on_canvases", always)
    evaluation.evaluate(made, tmp_path / "canvases")
    assert set(used) == set(made.data)
    alone, canvases = (
        {
            file.parent.name: file.read_text().splitlines()
            for file in (tmp_path / folder / "scores").rglob("ssim.csv")
        }
        for folder in ("alone", "canvases")
    )
    assert alone.keys() == canvases.keys()
    for name, lines in alone.items():
        for one, other in zip(lines[1:], canvases[name][1:], strict=True):
            (key, *found), (same, *expected) = one.split(","), other.split(",")
            assert key == same
            # float32's rounding of sums in another order, which SSIM's variances, as
            # differences of means, magnify in bright images of little contrast.
            np.testing.assert_allclose(
                np.float32(found), np.float32(expected), rtol=1e-5
            )
