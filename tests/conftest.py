"""Shared fixtures: random and real weights, metrics on them, photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import spips_jax
from spips_jax import backbones, weights

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)  # so that pmap has something to map

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds real weights or images beside the checkout, or skips."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is not here: shared/{name}")
        return path

    return find


@pytest.fixture(scope="session")
def real_weights(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Converts real PyTorch weights by the command, once a network."""
    from weights_convert.cli import main

    folder = tmp_path_factory.mktemp("weights")
    sources = {
        "alexnet": "weights/alexnet_features.npz",
        "squeezenet": "weights/squeezenet1_1_features.npz",
        "lpips-alexnet": "weights/lpips_v0.1/alex.pth",
        "lpips-squeezenet": "weights/lpips_v0.1/squeeze.pth",
    }

    def convert(network: str) -> Path:
        output = folder / f"{network}.safetensors"
        if not output.exists():
            source = shared(sources[network])
            code = main([network, "--source", str(source), "--output", str(output)])
            assert code == 0
        return output

    return convert


def he_params(network: str, *, seed: int = 0) -> dict:
    """He-initialised parameters, so that activations keep their scale in depth."""
    rng = np.random.default_rng(seed)
    params: dict = {}
    for name, shape in weights.expected_shapes(network).items():
        *path, leaf = name.split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        scale = np.sqrt(2 / np.prod(shape[:-1])) if leaf == "kernel" else 0.1
        node[leaf] = (scale * rng.normal(size=shape)).astype(np.float32)
    return params


@pytest.fixture(scope="session")
def random_params() -> Callable[..., dict]:
    """Makes random parameters of a network as NumPy arrays."""
    return he_params


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a weight file of random numbers, once a backbone."""
    folder = tmp_path_factory.mktemp("random")

    def write(network: str) -> Path:
        path = folder / f"{network}.safetensors"
        if not path.exists():
            weights.write_weights(path, he_params(network), network=network)
        return path

    return write


@pytest.fixture(scope="session")
def random_metric(
    random_weights: Callable[[str], Path],
) -> Callable[..., spips_jax.Metric]:
    """Loads a SPIPS model on random weights, once a network and dtype."""
    loaded: dict = {}

    def load(network: str, dtype: str = "float32") -> spips_jax.Metric:
        key = (network, dtype)
        if key not in loaded:
            loaded[key] = spips_jax.load(
                f"spips-{network}", weights=random_weights(network), dtype=dtype
            )
        return loaded[key]

    return load


@pytest.fixture(params=backbones.BACKBONES)
def network(request: pytest.FixtureRequest) -> str:
    """Each backbone in turn."""
    return request.param


@pytest.fixture
def pair() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes a smooth random image and a noisy copy, float32 in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        *batch, height, width = shape
        y, x = np.mgrid[:height, :width]
        phase = rng.uniform(0, 6, (*batch, 1, 1, 3))
        waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + phase)
        reference = 0.5 + 0.3 * waves + 0.1 * rng.random((*batch, height, width, 3))
        distorted = reference + 0.05 * rng.normal(size=reference.shape)
        clip = [
            np.clip(image, 0, 1).astype(np.float32) for image in (reference, distorted)
        ]
        return clip[0], clip[1]

    return make
