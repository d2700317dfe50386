"""Shared by tests of whole runs: tiny sets, configs, processes that train."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import narrow
import numpy as np
import pytest
from checkpoint_cases import save
from ml_collections import ConfigDict
from PIL import Image

from spips_jax import backbones, data, training, weights
from spips_jax.training import setup
from spips_jax.training.checkpoint import Checkpoints
from spips_jax.training.loop import CHECKPOINTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _spips_home(spips_home: None) -> None:
    """Every test here keeps what it caches in `home`."""


@pytest.fixture
def narrow_alexnet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AlexNet with few channels in AlexNet's place: see `narrow.py`."""
    table = dict(backbones.BACKBONES)
    narrow.replace_alexnet(table)
    monkeypatch.setitem(backbones.BACKBONES, "alexnet", table["alexnet"])
    weights.expected_shapes.cache_clear()
    yield
    weights.expected_shapes.cache_clear()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranks: 5 scenes of 40x40, two distortions at five levels each."""
    root = tmp_path_factory.mktemp("data")
    data.prepare("synthetic", data_dir=root, scenes=5, size=40, kinds=["jpeg", "webp"])
    return root


@pytest.fixture
def tiny_config(tiny_data: Path) -> Callable[..., ConfigDict]:
    """Makes a config of a few steps on `tiny_data`; fields by dotted names.

    Of the classical maps it has the one that compiles at once.
    """

    def make(fields: Mapping[str, Any] | None = None) -> ConfigDict:
        config = training.default()
        config.num_steps = 12
        config.batch_size = 8
        config.model.weights = "random"
        config.model.width = 4
        config.model.classical = "psnr"
        config.data.data_dir = str(tiny_data)
        config.data.train.scenes = training.source(
            "synthetic/scenes", {"plcc": 1.0, "rank": 1.0, "l1": 0.1}, part="training"
        )
        config.data.validation.scenes = training.held(
            "synthetic/scenes", part="held_out"
        )
        config.optim.warmup_steps = 2
        config.validate.every = 6
        config.checkpoint.every = 4
        config.log.every = 2
        config.update_from_flattened_dict(dict(fields or {}))
        return config

    return make


@pytest.fixture
def command(home: Path) -> tuple[list[str], dict[str, str]]:
    """`train.py` as a program: its first words, and its environment."""
    environment = {**os.environ, "SPIPS_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return [sys.executable, str(ROOT / "train.py")], environment


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets: 50 ranked images of 5 scenes, 16 forced choices of two splits."""
    root = tmp_path_factory.mktemp("sets")
    kinds = ["jpeg", "gaussian_blur"]
    data.prepare("synthetic", data_dir=root, scenes=5, size=40, kinds=kinds)
    scenes = data.load("synthetic/scenes", data_dir=root)
    for split, shares in (("train", (0.0, 0.5, 1.0)), ("val", (0.2, 0.6, 1.0))):
        folder = root / "manual" / "2afc" / split / "cnn"
        for name in ("ref", "p0", "p1", "judge"):
            (folder / name).mkdir(parents=True)
        for number in range(8):
            # Levels of one distortion; every group of five is another one.
            first, second = (5 * number + level for level in (number % 4, 4))
            for name, image in (
                ("ref", scenes[first]["reference"]),
                ("p0", scenes[first]["distorted"]),
                ("p1", scenes[second]["distorted"]),
            ):
                Image.fromarray(image).save(folder / name / f"{number:06}.png")
            share = np.array([shares[number % 3]], np.float32)
            np.save(folder / "judge" / f"{number:06}.npy", share)
    data.prepare("bapps", data_dir=root, manual_dir=root / "manual", partial=True)
    return root


@pytest.fixture(scope="session")
def tiny(sets: Path) -> Callable[..., ConfigDict]:
    """Makes configs of a few steps on the tiny sets, on a random backbone.

    Of the classical maps they have the one that compiles at once.
    """

    def make(
        train: Mapping[str, ConfigDict],
        validation: Mapping[str, ConfigDict],
        fields: Mapping[str, Any],
    ) -> ConfigDict:
        config = training.default()
        config.update_from_flattened_dict(
            {
                "model.weights": "random",
                "model.classical": "psnr",
                "data.data_dir": str(sets),
                "optim.warmup_steps": 2,
                "validate.batch_size": 8,
                "log.every": 1,
                **fields,
            }
        )
        config.data.train.update(train)
        config.data.validation.update(validation)
        return config

    return make


@pytest.fixture(scope="session")
def write_config() -> Callable[[ConfigDict, Path], Path]:
    """Writes a config as a file for `train.py --config`."""

    def write(config: ConfigDict, path: Path) -> Path:
        path.write_text(
            "import json\n\nfrom ml_collections import ConfigDict\n\n\n"
            "def get_config():\n"
            f"    return ConfigDict(json.loads({config.to_json()!r}))\n"
        )
        return path

    return write


@pytest.fixture(scope="session")
def final() -> Callable[[ConfigDict, Path], dict[str, np.ndarray]]:
    """Reads the arrays of a run's last checkpoint, by their paths."""
    states: dict[str, Any] = {}

    def read(config: ConfigDict, workdir: Path) -> dict[str, np.ndarray]:
        text = config.to_json()
        if text not in states:
            model = setup.build_model(config)
            tx = setup.build_optimizer(config)
            states[text] = setup.build_state(config, model, tx)
        like = states[text]
        with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
            found = checkpoints.latest(like)
        assert found is not None
        assert found.step == config.num_steps
        leaves, _ = jax.tree_util.tree_flatten_with_path(found.state)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    return read


@pytest.fixture(scope="session")
def curve() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads `metrics.jsonl` without what depends on the machine's speed."""

    def read(workdir: Path) -> list[dict[str, Any]]:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        timing = ("seconds", "steps_per_second", "examples_per_second")
        return [
            {name: x for name, x in json.loads(line).items() if name not in timing}
            for line in lines
        ]

    return read


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 to 3, the first the best; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, range(1, 4), metrics={1: 0.9, 2: 0.7, 3: 0.8})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints in `saved`, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))
