"""The same training on one device, on four and in two processes."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narrow
import numpy as np
import pytest
from ml_collections import ConfigDict

from spips_jax import training
from spips_jax.training import config as config_lib
from spips_jax.training import setup

pytestmark = pytest.mark.usefixtures("narrow_alexnet")

TWO_PROCESSES = "2 x 2"
DEVICES = {"1": 1, "4": 4, TWO_PROCESSES: 2}
"""Devices of each process, by layout."""

RUNS = {
    "1": ("mixed", "images"),
    "4": ("mixed",),
    TWO_PROCESSES: ("images",),
}
"""What is trained in each layout. Two processes of two devices are four devices."""

TRAINER = """
import json, sys
from pathlib import Path
from ml_collections import ConfigDict
from spips_jax import training

for name, config in json.loads(Path(sys.argv[1]).read_text()).items():
    training.train(ConfigDict(config), Path(sys.argv[2]) / name)
"""


@pytest.fixture(scope="module")
def configs(tiny: Callable[..., ConfigDict]) -> dict[str, ConfigDict]:
    """Cropped images and a tuned backbone; two sets of pooled features, accumulated."""
    scenes = training.held("synthetic/scenes", part="held_out")
    losses = {"plcc": 1.0, "rank": 1.0, "l1": 1.0}
    pooled = training.source("synthetic/scenes", losses, part="training")
    cropped = training.source(
        "synthetic/scenes", {"plcc": 1.0, "rank": 1.0}, crop=32, flip=True
    )
    choices = training.source("bapps", {"ranker": 1.0}, split="train_cnn")
    return {
        "images": tiny(
            {"scenes": cropped},
            {"scenes": scenes},
            {
                "num_steps": 4,
                "batch_size": 16,
                "model.trainable": "backbone/conv5,semantic,head,gain",
                "validate.every": 2,
            },
        ),
        "mixed": tiny(
            {"scenes": pooled, "choices": choices},
            {"scenes": scenes, "choices": training.held("bapps", split="val_cnn")},
            {
                "num_steps": 8,
                "batch_size": 8,
                "optim.accumulate": 2,
                "validate.every": 4,
            },
        ),
    }


def coordinator() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass(frozen=True)
class Trained:
    """Every run in every layout, and what the processes of each layout said."""

    folder: Path
    errors: dict[str, list[str]]

    def workdir(self, layout: str, run: str) -> Path:
        return self.folder / layout / run


@pytest.fixture(scope="module")
def trained(
    configs: dict[str, ConfigDict],
    start: Callable[..., subprocess.Popen[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    folder = tmp_path_factory.mktemp("devices")
    program = folder / "trainer.py"
    program.write_text(TRAINER)
    said = {}
    for layout, devices in DEVICES.items():
        text = json.dumps(
            {name: config_lib.as_dict(configs[name]) for name in RUNS[layout]}
        )
        (folder / layout).mkdir()
        (folder / layout / "configs.json").write_text(text)
        words = [
            narrow.__file__,
            program,
            folder / layout / "configs.json",
            folder / layout,
        ]
        address = coordinator() if layout == TWO_PROCESSES else ""
        processes = [
            start(words, devices=devices, coordinator=address, process=process)
            for process in range(2 if address else 1)
        ]
        said[layout] = [process.communicate(timeout=300)[1] for process in processes]
        for process, errors in zip(processes, said[layout], strict=True):
            assert process.returncode == 0, errors
    return Trained(folder, said)


@pytest.mark.parametrize(
    ("layout", "run"),
    [(layout, run) for layout, runs in RUNS.items() for run in runs if layout != "1"],
)
def test_the_number_of_devices_does_not_matter(
    trained: Trained,
    configs: dict[str, ConfigDict],
    final: Callable[[ConfigDict, Path], dict[str, np.ndarray]],
    curve: Callable[[Path], list[dict[str, Any]]],
    layout: str,
    run: str,
) -> None:
    """Losses and parameters within 1e-5, for the same global batches.

    The gain's within 1e-4: nothing changed in the whole of these images, so what it
    learns from them is rounding, which Adam divides by its own size.
    """
    one, other = (trained.workdir(name, run) for name in ("1", layout))
    lines, theirs = curve(one), curve(other)
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, configs[run].num_steps + 1))
    assert len(lines) == len(theirs)
    for line, their in zip(lines, theirs, strict=True):
        assert line.keys() == their.keys()
        if line["split"] == "train":
            np.testing.assert_allclose(their["loss"], line["loss"], atol=1e-5, rtol=0)
    state, their_state = (final(configs[run], where) for where in (one, other))
    for path, value in state.items():
        if path.startswith((".params", ".average")):
            atol = 1e-4 if "gain/" in path else 1e-5
            np.testing.assert_allclose(
                their_state[path], value, atol=atol, rtol=0, err_msg=path
            )


@pytest.mark.parametrize("run", RUNS["1"])
def test_every_trained_part_moved(
    trained: Trained,
    configs: dict[str, ConfigDict],
    final: Callable[[ConfigDict, Path], dict[str, np.ndarray]],
    run: str,
) -> None:
    """Otherwise the same parameters on all devices say nothing."""
    before = setup.build_model(configs[run]).trained
    after = final(configs[run], trained.workdir("1", run))
    moved: dict[str, float] = {}
    for path, value in before.items():
        part = path.partition("/")[0]
        change = np.abs(after[f".params['{path}']"] - value).max()
        moved[part] = max(moved.get(part, 0.0), float(change))
    # Five times the tolerances above.
    assert moved.pop("gain") > 5e-4
    assert min(moved.values()) > 5e-5, moved
