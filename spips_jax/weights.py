"""Weight files: safetensors with strict names and shapes, and the folder they live in.

A file holds the float tensors of one `network`: a backbone ("alexnet", ...), LPIPS's
linear heads ("lpips-alexnet", ...) or DISTS's two vectors ("dists"). Tensors are named
by their path in the parameter tree, joined with dots ("conv1_1.kernel"); kernels are
HWIO. The header's metadata says which network it is and where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from spips_jax import backbones
from spips_jax.files import replacing
from spips_jax.images import MIN_SIZE

FORMAT = "spips-jax"
VERSION = "1"

LPIPS_NETWORKS = ("alexnet", "vgg16", "squeezenet")
NETWORKS = (
    *backbones.BACKBONES,
    *(f"lpips-{network}" for network in LPIPS_NETWORKS),
    "dists",
)


class WeightsError(ValueError):
    """Weights that are missing or cannot be used; one line that says what to do."""


def cache_folder() -> Path:
    """Returns the folder of downloaded and converted weights.

    The environment variable SPIPS_HOME names it; otherwise ~/.cache/spips_jax.
    """
    home = os.environ.get("SPIPS_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "spips_jax"


def weights_path(network: str) -> Path:
    """Returns where `python -m weights_convert` puts, and `load` looks for, weights."""
    return cache_folder() / f"{network}.safetensors"


def expected_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in a file of `network`.

    Raises:
      WeightsError: `network` is not one of `NETWORKS`.
    """
    if network in backbones.BACKBONES:
        return _flat_shapes(_backbone_shapes(network)[1]["params"])
    if network == "dists":
        channels = {"input": 3, **_channels("vgg16")}
        return {
            f"{vector}.{tap}": (count,)
            for vector in ("alpha", "beta")
            for tap, count in channels.items()
        }
    if network in NETWORKS:
        channels = _channels(network.removeprefix("lpips-"))
        return {f"{tap}.weight": (count,) for tap, count in channels.items()}
    raise WeightsError(f"network {network!r} is not one of {', '.join(NETWORKS)}")


def _backbone_shapes(network: str) -> tuple[Any, Any]:
    """Shapes of a backbone's taps and variables, without computing anything."""
    module = backbones.build(network)
    image = jax.ShapeDtypeStruct((1, MIN_SIZE, MIN_SIZE, 3), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), image)


def _channels(network: str) -> dict[str, int]:
    taps, _ = _backbone_shapes(network)
    return {tap: activation.shape[-1] for tap, activation in taps.items()}


def _flat_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(params, sep=".")
    return {name: tuple(tensor.shape) for name, tensor in flat.items()}


def write_weights(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    *,
    network: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a nested dict of arrays to a safetensors file, whole or not at all.

    Raises:
      WeightsError: a tensor is missing, extra or misshapen for `network`.
    """
    path = Path(path)
    flat = {
        name: np.ascontiguousarray(tensor)
        for name, tensor in traverse_util.flatten_dict(dict(params), sep=".").items()
    }
    _check_shapes(path, {name: x.shape for name, x in flat.items()}, network)
    header = {"format": FORMAT, "version": VERSION, "network": network}
    with replacing(path) as partial:
        safetensors.numpy.save_file(
            flat, partial, metadata={**(metadata or {}), **header}
        )


def read_weights(path: str | os.PathLike[str], *, network: str) -> dict[str, Any]:
    """Reads the weights of `network` as a nested dict of float32 NumPy arrays.

    Raises:
      WeightsError: no such file, not a safetensors file of ours, of another network,
        or a tensor is missing, extra, misshapen or not finite.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}; {how_to_get(network)}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("network")
        flat = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); make one with `python -m"
            f" weights_convert {network} --source FILE`"
        ) from None
    if found != network:
        holds = f"holds {found}" if found else "was not written by weights_convert"
        raise WeightsError(f"{path}: {holds}, wanted {network}; {how_to_get(network)}")
    _check_shapes(path, {name: x.shape for name, x in flat.items()}, network)
    for name, tensor in flat.items():
        if not np.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor {name} contains NaN or inf")
    flat = {name: np.asarray(tensor, np.float32) for name, tensor in flat.items()}
    return traverse_util.unflatten_dict(flat, sep=".")


def _check_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], network: str
) -> None:
    expected = expected_shapes(network)
    for name, shape in expected.items():
        if name not in found:
            raise WeightsError(f"{path}: tensor {name} {shape} of {network} is missing")
        if tuple(found[name]) != shape:
            raise WeightsError(
                f"{path}: tensor {name} has shape {tuple(found[name])}, {network} has"
                f" {shape} there"
            )
    for name in found:
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name} is none of {network}'s")


def command_for(network: str) -> str:
    """Returns the command that puts the weights of `network` where `load` looks."""
    source = "" if network in backbones.BACKBONES else " --source FILE"
    return f"python -m weights_convert {network}{source}"


def how_to_get(network: str) -> str:
    """Returns the half sentence that tells how to get the weights of `network`."""
    return f"get it with `{command_for(network)}`"
