"""evaluate.py as a program, and calibration into a model's file."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import spips_jax
from spips_jax import evaluation
from spips_jax.commands import main

ROOT = Path(__file__).resolve().parents[2]

PAIRS = "pair_list/tiny"


@pytest.fixture
def run(sets: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs evaluate.py on the tiny sets."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "TFDS_DATA_DIR": str(sets)}
        environment |= {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            [sys.executable, str(ROOT / "evaluate.py"), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    return call


def test_the_command_prints_its_tables(
    run: Callable[..., subprocess.CompletedProcess[str]], sets: Path, tmp_path: Path
) -> None:
    done = run(
        "--model=psnr", "--model", "ssim", f"--data={PAIRS}", "--output=out",
        f"--config.data_dir={sets}", "--config.samples=20", "--config.worst=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.md").read_text() in done.stdout
    assert done.stdout.index("| psnr |") < done.stdout.index("| ssim |")
    *_, last = done.stdout.splitlines()
    assert (tmp_path / last).is_file()
    assert "--model=psnr --model ssim" in done.stdout
    assert "psnr on pair_list/tiny, 21 examples" in done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output=out", "--config.lots=3"], "no field 'lots' in --config.lots=3"),
        (["--output=out", "report"], "'report' is no command: calibrate, or none"),
        (
            ["--output=out", "--scale", "0", "9"],
            "--scale is of calibrate: leave it out",
        ),
        (
            ["calibrate", "--output=out", "--scale", "9", "0"],
            "scale is 9 0: it must be",
        ),
        (["--output=out", "--model=psnr", "--model=psnr"], "psnr is given twice"),
        (
            ["--output=out", *2 * ["--model=spips-vgg16"]],
            "spips-vgg16-untrained is given twice",
        ),
        ([], "--output is missing"),
    ],
)
def test_a_wrong_call_is_one_line(
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = call("evaluate", *words)
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def model(light: spips_jax.Metric, tmp_path: Path) -> Path:
    """The file of a model on random weights, whole."""
    path = tmp_path / "tiny.safetensors"
    light.replace(name="spips-alexnet-tiny").save(path)
    return path


def one_model(config: Callable[..., ConfigDict], path: Path, name: str) -> ConfigDict:
    made = config(models=(), sets_named=(name,))
    made.models.tiny = evaluation.model(str(path))
    return made


@pytest.mark.parametrize(("name", "opinion"), [(PAIRS, "mos"), ("bapps", "preference")])
def test_a_calibration_is_put_into_the_file(
    config: Callable[..., ConfigDict],
    model: Path,
    tmp_path: Path,
    name: str,
    opinion: str,
) -> None:
    """Fitted to the scores that are kept, by what `Metric.calibrate` fits."""
    before = spips_jax.load(model)
    assert before.calibration is None
    fitted = evaluation.calibrate(one_model(config, model, name), tmp_path / "out")
    after = spips_jax.load(model)
    assert after.calibration == fitted
    assert (fitted.opinion, fitted.dataset) == (opinion, name)
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)

    evaluation.evaluate(one_model(config, model, name), tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([np.float32(row["tiny"]) for row in rows])
    values = np.array([np.float32(row["value"]) for row in rows])
    if opinion == "mos":
        scale = (float(values.min()), float(values.max()))  # a pair list has none
        again = before.calibrate(
            scores, values, opinion="mos", scale=scale, dataset=name
        )
        assert np.corrcoef(fitted(scores), values)[0, 1] > 0.9
    else:
        again = before.calibrate(
            (scores[::2], scores[1::2]), values[::2],
            opinion="preference", dataset=name,
        )  # fmt: skip
    assert again.calibration == fitted


def test_a_calibration_has_the_scale_that_is_given(
    config: Callable[..., ConfigDict], model: Path, tmp_path: Path
) -> None:
    made = one_model(config, model, PAIRS)
    made.scale = (-1.0, 10.0)
    fitted = evaluation.calibrate(made, tmp_path / "out")
    assert fitted.scale == (-1, 10)
    assert spips_jax.load(model).calibration == fitted


def test_opinions_within_references_are_not_calibrated_to(
    sets: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line before any scoring; the file of the model stays as it was."""
    before = model.read_bytes()
    words = ["--model", str(model), "--data", "pair_list/points"]
    words += ["--output", str(tmp_path / "out"), f"--config.data_dir={sets}"]
    assert main(["evaluate", "calibrate", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "error: pair_list/points: its opinions compare within one reference only, and a"
        " calibration needs opinions that compare over the whole set: use one such as"
        " live, kadid10k or csiq\n"
    )
    assert model.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_calibrated(
    config: Callable[..., ConfigDict], model: Path, tmp_path: Path
) -> None:
    before = model.read_bytes()
    named = config(models=("psnr",))
    with pytest.raises(evaluation.EvaluationError, match="models are psnr: a calib"):
        evaluation.calibrate(named, tmp_path / "out")
    several = config(models=(), sets_named=(PAIRS, "bapps"))
    several.models.tiny = evaluation.model(str(model))
    with pytest.raises(evaluation.EvaluationError, match="sets are pair_list/tiny, b"):
        evaluation.calibrate(several, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ranks = one_model(config, model, "synthetic/scenes")
    with pytest.raises(evaluation.EvaluationError, match="its opinions are level"):
        evaluation.calibrate(ranks, tmp_path / "out")
    assert model.read_bytes() == before
