"""Stopped at any moment and started again, a run ends as if it had never stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import narrow
import numpy as np
import pytest
from ml_collections import ConfigDict

from spips_jax import training
from spips_jax.training.loop import CHECKPOINTS

pytestmark = pytest.mark.usefixtures("narrow_alexnet")

STEPS = 80

STOPS = (
    # (the last step that it logged, signal, exit code, when that is)
    (19, signal.SIGKILL, -signal.SIGKILL, "between the two batches of an update"),
    (34, signal.SIGTERM, 143, "on a signal that it saves for"),
    (60, signal.SIGINT, 130, "by Ctrl-C; the checkpoint is then damaged"),
)
"""When a run is stopped, and how."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def config(tiny: Callable[..., ConfigDict]) -> ConfigDict:
    """Two sets, an average and accumulated gradients: all that a state can hold."""
    losses = {"plcc": 1.0, "rank": 1.0}
    return tiny(
        {
            "scenes": training.source("synthetic/scenes", losses, part="training"),
            "choices": training.source("bapps", {"ranker": 1.0}, split="train_cnn"),
        },
        {"scenes": training.held("synthetic/scenes", part="held_out")},
        {
            "num_steps": STEPS,
            "batch_size": 8,
            "optim.accumulate": 2,
            "validate.every": 20,
            "checkpoint.every": 10,
            "checkpoint.keep": 2,
        },
    )


@pytest.fixture(scope="module")
def words(
    config: ConfigDict,
    write_config: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: Any,
) -> Callable[[Path], list[str]]:
    file = write_config(config, tmp_path_factory.mktemp("config") / "config.py")
    flag = f"--config={file}"
    return lambda workdir: [narrow.__file__, "train.py", flag, f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def uninterrupted(
    start: Start, words: Callable[[Path], list[str]], tmp_path_factory: Any
) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = start(words(workdir))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return workdir


def reached(workdir: Path) -> int:
    """The last step in the log; it may be torn."""
    log = workdir / "metrics.jsonl"
    lines = log.read_bytes().splitlines() if log.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue
    return 0


def stop_at(
    process: subprocess.Popen[str], workdir: Path, step: int, number: int
) -> None:
    """Sends a signal when the log has a step, if the run has not ended by then."""
    deadline = time.monotonic() + 120
    while process.poll() is None and reached(workdir) < step:
        assert time.monotonic() < deadline, f"step {step} is not reached"
        time.sleep(0.002)
    process.send_signal(number)


def damage_the_latest(workdir: Path) -> Path:
    """Cuts every file of the last checkpoint in half; returns its folder."""
    latest = workdir / CHECKPOINTS / str(reached(workdir))
    for path in (latest / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return latest


def test_stops_leave_no_trace(
    uninterrupted: Path,
    start: Start,
    words: Callable[[Path], list[str]],
    config: ConfigDict,
    final: Callable[[ConfigDict, Path], dict[str, np.ndarray]],
    curve: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    """Killed, stopped by signals and robbed of a checkpoint, it is the same run."""
    workdir = tmp_path / "run"
    damaged = ""
    for step, number, code, moment in (*STOPS, (STEPS, None, 0, "at its end")):
        process = start(words(workdir))
        if number is not None:
            stop_at(process, workdir, step, number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == code, f"{moment}: {errors}"
        warnings = [line for line in errors.splitlines() if "warning: " in line]
        if damaged:  # it is passed over, and said
            assert len(warnings) == 1
            assert f"checkpoint {damaged} is damaged" in warnings[0]
            damaged = ""
        else:
            assert not warnings
        if number in (signal.SIGTERM, signal.SIGINT):
            assert "which is saved" in errors
            folders = (workdir / CHECKPOINTS).iterdir()
            assert max(int(path.name) for path in folders) == reached(workdir) >= step
        if number == signal.SIGINT:
            damaged = str(damage_the_latest(workdir))
    assert "resuming from step" in errors
    # Every array to the bit, and every line of the log but its times.
    state, wanted = final(config, workdir), final(config, uninterrupted)
    assert state.keys() == wanted.keys()
    for path, value in wanted.items():
        assert value.tobytes() == state[path].tobytes(), path
    lines, told = curve(workdir), curve(uninterrupted)
    assert [line["step"] for line in lines if line["split"] == "train"] == list(
        range(1, STEPS + 1)
    )
    # The window of a mean starts anew where the run does, at a step that is logged.
    assert lines == told
