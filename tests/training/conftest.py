"""Tiny sets and configs to train on, with a random backbone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from spips_jax import data, training

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where these tests keep compiled programs and pooled sets."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def spips_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keeps what training caches in `home`, and JAX's setting as it was."""
    monkeypatch.setenv("SPIPS_HOME", str(home))
    before = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranks: 5 scenes of 40x40, two distortions at five levels each."""
    root = tmp_path_factory.mktemp("data")
    data.prepare("synthetic", data_dir=root, scenes=5, size=40, kinds=["jpeg", "webp"])
    return root


@pytest.fixture
def tiny_config(tiny_data: Path) -> Callable[..., ConfigDict]:
    """Makes a config of a few steps on `tiny_data`; fields by dotted names."""

    def make(fields: Mapping[str, Any] | None = None) -> ConfigDict:
        config = training.default()
        config.num_steps = 12
        config.batch_size = 8
        config.model.weights = "random"
        config.model.width = 4
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
