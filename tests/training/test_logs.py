"""The log of a run: what is kept, what is shown, and what a kill or a resume leaves."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils.epath import testing
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spips_jax.training.logs import Log, write_curves

VALIDATION = {
    "tid2013": {"srcc": 0.91, "plcc": 0.9},
    "synthetic/scenes": {"2afc": 0.7},
}


class Clock:
    """Stands in for `time.perf_counter`; moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (folder / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads in a folder: steps and values by tag."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_lines_of_training_and_validation(tmp_path, clock):
    with Log(tmp_path / "new" / "run", num_steps=100, console=quiet()) as log:
        clock.now += 2
        log.train(10, {"loss": 0.5, "learning_rate": 1e-3}, examples=320)
        clock.now += 5
        log.validation(10, VALIDATION)
        assert len(read(tmp_path / "new" / "run")) == 2  # before it is closed
    assert read(tmp_path / "new" / "run") == [
        {
            "step": 10,
            "split": "train",
            "seconds": 2.0,
            "loss": 0.5,
            "learning_rate": 1e-3,
            "steps_per_second": 5.0,
            "examples_per_second": 160.0,
        },
        {"step": 10, "split": "validation", "seconds": 7.0, "sets": VALIDATION},
    ]


@pytest.mark.parametrize("validated", [20, 25])
def test_rates_leave_validation_out(tmp_path, clock, validated):
    """Ten steps a second and four examples a step, whenever validation comes."""
    with Log(tmp_path, num_steps=100, console=quiet()) as log:
        for step in range(1, 31):
            clock.now += 0.1
            if step % 10 == 0:
                log.train(step, {"loss": 1.0}, examples=40)
            if step == validated:
                clock.now += 1000
                log.validation(step, VALIDATION)
    lines = [line for line in read(tmp_path) if line["split"] == "train"]
    # Sums of 0.1 from 1000 on are off by 1e-12 or so.
    rates = [line["steps_per_second"] for line in lines]
    assert rates == pytest.approx([10] * 3, rel=1e-6)
    assert [line["examples_per_second"] for line in lines] == pytest.approx(
        [40] * 3, rel=1e-6
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_lacks_is_null(tmp_path, value):
    with Log(tmp_path, num_steps=9, console=quiet()) as log:
        log.train(1, {"loss": value, "norm": np.float32(0.5)}, examples=1)
        log.validation(1, {"tid2013": {"srcc": value}})
        log.curves()
    train, validation = read(tmp_path)
    assert train["loss"] is None
    assert train["norm"] == 0.5
    assert validation["sets"] == {"tid2013": {"srcc": None}}
    ((_, seen),) = scalars(tmp_path)["train/loss"]
    assert seen == value or (math.isnan(seen) and math.isnan(value))


def test_who_does_not_write_leaves_no_trace(tmp_path, capfd):
    with Log(tmp_path / "run", num_steps=9, writer=False) as log:
        log.advance(1)
        log.train(1, {"loss": 1.0}, examples=1)
        log.validation(1, VALIDATION)
        log.message("hello")
        log.curves()
        log.sync()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# Going on


def write_run(folder: Path, steps: range, *, first_step: int = 0) -> None:
    with Log(folder, num_steps=100, first_step=first_step, console=quiet()) as log:
        for step in steps:
            log.train(step, {"loss": float(first_step + step)}, examples=1)
            log.validation(step, {"tid2013": {"srcc": (first_step + step) / 256}})


@pytest.mark.parametrize("torn", [b"", b'{"step": 60, "spl', b"\0\0\0\xff"])
def test_a_run_that_goes_on_has_one_curve(tmp_path, clock, torn):
    write_run(tmp_path, range(10, 60, 10))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    write_run(tmp_path, range(40, 80, 10), first_step=30)

    expected = [(step, float(step)) for step in (10, 20, 30)]
    expected += [(step, 30.0 + step) for step in (40, 50, 60, 70)]
    lines = read(tmp_path)
    assert [line["split"] for line in lines] == ["train", "validation"] * 7
    assert [(line["step"], line["loss"]) for line in lines[::2]] == expected
    assert scalars(tmp_path)["train/loss"] == expected
    assert scalars(tmp_path)["validation/tid2013/srcc"] == [
        (step, value / 256) for step, value in expected
    ]


def test_seconds_go_on_after_a_pause(tmp_path, clock):
    with Log(tmp_path, num_steps=9, console=quiet()) as log:
        clock.now += 5
        log.train(1, {}, examples=1)
    clock.now += 1e6
    with Log(tmp_path, num_steps=9, first_step=1, console=quiet()) as log:
        clock.now += 2
        log.train(2, {}, examples=1)
    assert [line["seconds"] for line in read(tmp_path)] == [5, 7]
    assert read(tmp_path)[1]["steps_per_second"] == 0.5


def test_a_run_that_starts_anew_forgets_the_old_one(tmp_path):
    write_run(tmp_path, range(0, 60, 10))
    write_run(tmp_path, range(5, 15, 5))
    assert [line["step"] for line in read(tmp_path)] == [5, 5, 10, 10]
    assert scalars(tmp_path)["train/loss"] == [(5, 5.0), (10, 10.0)]


def test_going_on_without_an_old_log(tmp_path):
    write_run(tmp_path, range(40, 50, 10), first_step=30)
    assert [line["step"] for line in read(tmp_path)] == [40, 40]


def test_a_killed_run_leaves_what_it_logged(tmp_path):
    program = (
        "import os, signal, sys; from spips_jax.training.logs import Log;"
        "log = Log(sys.argv[1], num_steps=100);"
        "log.train(10, {'loss': 0.5}, examples=1);"
        "log.validation(10, {'tid2013': {'srcc': 0.75}});"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path])
    assert result.returncode == -signal.SIGKILL
    assert [line["split"] for line in read(tmp_path)] == ["train", "validation"]
    assert scalars(tmp_path)["train/loss"] == [(10, 0.5)]
    assert scalars(tmp_path)["validation/tid2013/srcc"] == [(10, 0.75)]


def test_tags_are_the_names(tmp_path):
    with Log(tmp_path, num_steps=9, console=quiet()) as log:
        log.train(1, {"loss": 1.0, "learning_rate": 0.5}, examples=1)
        log.validation(1, VALIDATION)
    assert sorted(scalars(tmp_path)) == [
        "train/examples_per_second",
        "train/learning_rate",
        "train/loss",
        "train/steps_per_second",
        "validation/synthetic/scenes/2afc",
        "validation/tid2013/plcc",
        "validation/tid2013/srcc",
    ]


def test_no_tensorflow_and_no_torch_even_where_installed(tmp_path):
    for name in ("tensorflow", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from spips_jax.training import logs;"
        "late = [n for n in ('tensorboard', 'matplotlib') if n in sys.modules];"
        "log = logs.Log(sys.argv[1], num_steps=9);"
        "log.train(1, {'loss': 0.5}, examples=1); log.curves(); log.close();"
        "print(late + [n for n in ('tensorflow', 'torch') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path / "run"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    assert len(result.stderr.splitlines()) == 1  # of training, no warning


# What is shown


def test_without_a_terminal_lines_are_plain(tmp_path, clock, capsys):
    with Log(tmp_path, num_steps=2000) as log:
        clock.now += 4
        for step in range(1, 201):
            log.advance(step)
        log.train(200, {"loss": 0.12341}, examples=1)
        clock.now += 400
        log.train(204, {}, examples=1)
        log.validation(204, VALIDATION)
        log.message("saved [bold]step_204[/bold]")
    out, err = capsys.readouterr()
    assert out == ""
    # 1800 steps at 50 a second are 36 s; 1796 at one in 100 s are 179,600 s.
    assert err.splitlines() == [
        "step 200/2000  loss 0.1234  50.0 steps/s  eta 0:00:36",
        "step 204/2000  0.01 steps/s  eta 2 days, 1:53:20",
        "step 204/2000  validation  tid2013 srcc 0.9100 plcc 0.9000,"
        " synthetic/scenes 2afc 0.7000",
        "saved [bold]step_204[/bold]",
    ]


def test_a_terminal_gets_a_bar_with_messages_above(tmp_path, clock):
    screen = io.StringIO()
    console = Console(
        file=screen, force_terminal=True, force_interactive=True, width=120,
        color_system=None,
    )  # fmt: skip
    with Log(tmp_path, num_steps=2000, first_step=100, console=console) as log:
        clock.now += 4
        log.train(300, {"loss": 0.12341}, examples=1)
        log.message("saved [step] 300")
        log.advance(301)
    text = screen.getvalue()
    assert "100/2000" in text
    above, below = text.split("saved [step] 300")
    assert "steps/s  eta" not in above  # no plain line beside the bar
    assert "301/2000 loss 0.1234  50.0 steps/s eta" in below


# Object stores


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands in for `gs://bucket`, which cannot append."""

    def refuse_to_append(original, path, mode):
        assert "a" not in mode
        return original(path, mode)

    monkeypatch.chdir(tmp_path)  # the mock takes gs://bucket for a relative path
    with testing.mock_epath(open=refuse_to_append):
        yield tmp_path / "gs:" / "bucket"


def test_files_are_copied_to_an_object_store(bucket):
    with Log("gs://bucket/run", num_steps=9, console=quiet()) as log:
        log.train(1, {"loss": 0.5}, examples=1)
        log.sync()
        assert [line["step"] for line in read(bucket / "run")] == [1]
        log.train(2, {"loss": 0.25}, examples=1)
        log.train(3, {"loss": 0.75}, examples=1)
        log.curves()
    assert [line["step"] for line in read(bucket / "run")] == [1, 2, 3]
    assert (bucket / "run" / "curves.png").stat().st_size > 1000

    with Log("gs://bucket/run", num_steps=9, first_step=2, console=quiet()) as log:
        log.train(3, {"loss": 0.125}, examples=1)
    expected = [(1, 0.5), (2, 0.25), (3, 0.125)]
    lines = read(bucket / "run")
    assert [(line["step"], line["loss"]) for line in lines] == expected
    assert scalars(bucket / "run")["train/loss"] == expected
    names = sorted(file.name for file in (bucket / "run").iterdir())
    assert names[0] == "curves.png"
    assert names[-1] == "metrics.jsonl"
    assert len(names) == 4  # and an event file of each run


def test_an_error_does_not_keep_lines_from_the_object_store(bucket):
    def fail() -> None:
        with Log("gs://bucket/run", num_steps=9, console=quiet()) as log:
            log.train(1, {"loss": 0.5}, examples=1)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert [line["step"] for line in read(bucket / "run")] == [1]


# Curves


def train_line(step: int, **metrics: float | None) -> dict[str, Any]:
    return {"step": step, "split": "train", "seconds": 0.0, **metrics}


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """The figures that are written."""
    figures = []
    original = FigureCanvasAgg.print_png

    def print_png(self, *args, **kwargs):
        figures.append(self.figure)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", print_png)
    return figures


def test_curves_show_loss_learning_rate_and_validation(tmp_path, drawn):
    rng = np.random.default_rng(0)
    losses = [None if i == 50 else float(rng.random()) for i in range(120)]
    lines = [
        train_line(i, loss=loss, learning_rate=i / 2, norm=1.0)
        for i, loss in enumerate(losses)
    ]
    for step, srcc in ((60, 0.5), (120, 0.75)):
        sets = {"tid2013": {"srcc": srcc}, "bapps": {"2afc": srcc}}
        lines.append({"step": step, "split": "validation", "seconds": 0, "sets": sets})
    write_curves(tmp_path / "curves.png", lines)

    with Image.open(tmp_path / "curves.png") as picture:
        assert 500 < min(picture.size) < max(picture.size) < 4000
    axes = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_title()}
    assert list(axes) == ["loss", "learning rate", "validation SRCC", "validation 2AFC"]
    raw, smooth = (line.get_ydata() for line in axes["loss"].lines)
    values = np.array(losses, float)
    np.testing.assert_array_equal(raw, values)
    # Three values before and after, a fortieth of 120, fewer at the ends.
    means = [np.nanmean(values[max(i - 3, 0) : i + 4]) for i in range(120)]
    np.testing.assert_allclose(smooth, means, rtol=1e-12)  # sums in another order
    for title, label in (("SRCC", "tid2013"), ("2AFC", "bapps")):
        (line,) = axes[f"validation {title}"].lines
        assert line.get_label() == label
        assert line.get_xydata().tolist() == [[60, 0.5], [120, 0.75]]


@pytest.mark.parametrize(
    "lines",
    [
        [train_line(1, loss=1.0)],
        [train_line(1, loss=None)],
        [train_line(i, loss=None) for i in range(100)],
        [train_line(1)],
        [{"step": 0, "split": "validation", "sets": {"tid2013": {"srcc": None}}}],
    ],
    ids=["one point", "no point", "all null", "no loss", "no training"],
)
def test_hardly_anything_can_be_drawn(tmp_path, lines):
    write_curves(tmp_path / "curves.png", lines)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_curves_cover_the_run_before_the_pause(tmp_path, drawn):
    write_run(tmp_path, range(10, 40, 10))
    with Log(tmp_path, num_steps=40, first_step=30, console=quiet()) as log:
        log.train(40, {"loss": 1.0}, examples=1)
        log.curves()
    (curve,) = drawn[0].axes[0].lines
    assert curve.get_xdata().tolist() == [10, 20, 30, 40]


def test_an_empty_log_has_no_curves(tmp_path):
    with Log(tmp_path, num_steps=9, console=quiet()) as log:
        log.curves()
    assert not (tmp_path / "curves.png").exists()


# Trouble


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Log(tmp_path / "file" / "run", num_steps=9, console=quiet())
