"""Weight files: safetensors with strict names and shapes, and the folder they live in.

A file holds the float tensors of one `network`: a backbone ("alexnet", ...), LPIPS's
linear heads ("lpips-alexnet", ...), DISTS's two vectors ("dists") or a trained SPIPS
(`spips_jax.model_file`). Tensors are named by their path in the parameter tree, joined
with dots ("conv1_1.kernel"); kernels are HWIO. The header's metadata says which network
it is and where it came from.
"""

from __future__ import annotations

import hashlib
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
from spips_jax.cache import cache_folder
from spips_jax.files import replacing
from spips_jax.images import MIN_SIZE

FORMAT = "spips-jax"
VERSION = "1"

BACKBONE = "backbone"
"""Where a SPIPS network's parameters have those of its backbone."""

PACKAGE = Path(__file__).parent / "models"
"""The trained models that come with the package, and an example pair of images."""

LPIPS_NETWORKS = ("alexnet", "vgg16", "squeezenet")
NETWORKS = (
    *(network for network in backbones.BACKBONES if network != "lite"),
    *(f"lpips-{network}" for network in LPIPS_NETWORKS),
    "dists",
)
"""Networks that others publish, which `weights_convert` converts: all but "lite"."""


class WeightsError(ValueError):
    """Weights that are missing or cannot be used; one line that says what to do."""


def weights_path(network: str) -> Path:
    """Returns where weights are looked for.

    That is where `python -m weights_convert` puts them; those of "lite", which nobody
    else has, come with the package.
    """
    if network not in NETWORKS:
        return PACKAGE / f"spips-{network}.safetensors"
    return cache_folder() / f"{network}.safetensors"


def expected_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in a file of `network`.

    Raises:
      WeightsError: `network` is neither a backbone nor one of `NETWORKS`.
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
    write_tensors(
        path,
        params,
        shapes=expected_shapes(network),
        network=network,
        metadata=metadata,
    )


def write_tensors(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    network: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`write_weights` for tensors whose `shapes` the caller knows."""
    path = Path(path)
    flat = {
        name: np.ascontiguousarray(tensor)
        for name, tensor in traverse_util.flatten_dict(dict(params), sep=".").items()
    }
    check_shapes(path, flat, shapes=shapes, network=network)
    header = {"format": FORMAT, "version": VERSION, "network": network}
    with replacing(path) as partial:
        safetensors.numpy.save_file(
            flat, partial, metadata={**(metadata or {}), **header}
        )


def read_weights(path: str | os.PathLike[str], *, network: str) -> dict[str, Any]:
    """Reads the weights of `network` as a nested dict of float32 NumPy arrays.

    The file of a trained SPIPS will do for a backbone, if it has that in it.

    Raises:
      WeightsError: no such file, not a safetensors file of ours, of another network,
        or a tensor is missing, extra, misshapen or not finite.
    """
    remedy = how_to_get(network)
    flat, metadata = read_tensors(
        path, remedy=remedy, again=f"make one with `{command_for(network, given=True)}`"
    )
    found = metadata.get("network")
    if found == f"spips-{network}":
        flat = {
            name.removeprefix(f"{BACKBONE}."): tensor
            for name, tensor in flat.items()
            if name.startswith(f"{BACKBONE}.")
        }
        if not flat:
            raise WeightsError(f"{path}: has no backbone in it, {network}; {remedy}")
    elif found != network:
        holds = f"holds {found}" if found else "was not written by weights_convert"
        raise WeightsError(f"{path}: {holds}, wanted {network}; {remedy}")
    check_shapes(Path(path), flat, shapes=expected_shapes(network), network=network)
    return traverse_util.unflatten_dict(flat, sep=".")


def read_tensors(
    path: str | os.PathLike[str], *, remedy: str, again: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file: float32 tensors by name, and its metadata.

    Args:
      path: the file.
      remedy: what an error says of a file that is not there.
      again: of one that is damaged.

    Raises:
      WeightsError: no such file, not a whole safetensors file, NaN or inf in it.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}; {remedy}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        flat = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); {again}"
        ) from None
    for name, tensor in flat.items():
        if not np.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor {name} contains NaN or inf")
    return (
        {name: np.asarray(tensor, np.float32) for name, tensor in flat.items()},
        metadata,
    )


def check_shapes(
    path: Path,
    found: Mapping[str, np.ndarray],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    network: str,
) -> None:
    """Raises `WeightsError` unless `found` are the tensors that `shapes` names."""
    for name, shape in shapes.items():
        if name not in found:
            raise WeightsError(f"{path}: tensor {name} {shape} of {network} is missing")
        if found[name].shape != shape:
            raise WeightsError(
                f"{path}: tensor {name} has shape {found[name].shape}, {network} has"
                f" {shape} there"
            )
    for name in found:
        if name not in shapes:
            raise WeightsError(f"{path}: tensor {name} is none of {network}'s")


def digest(params: Mapping[str, Any]) -> str:
    """SHA-256 of a parameter tree: of each tensor's name, shape and float32 bytes."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(
        traverse_util.flatten_dict(dict(params), sep=".").items()
    ):
        array = np.ascontiguousarray(tensor, "<f4")
        sha256.update(f"{name} {array.shape}\n".encode() + array.tobytes())
    return sha256.hexdigest()


def command_for(network: str, *, given: bool = False) -> str:
    """Returns the command that makes the weights of `network`.

    It puts them where `load` looks, but for "lite", which is trained.

    Args:
      network: a backbone or one of `NETWORKS`.
      given: whether to convert a file that the user has, rather than download.
    """
    if network not in NETWORKS:
        return f"python train.py --config=configs/{network}_backbone.py --workdir=DIR"
    source = " --source FILE" if given or network not in backbones.BACKBONES else ""
    return f"python -m weights_convert {network}{source}"


def how_to_get(network: str) -> str:
    """Returns the half sentence that tells how to get the weights of `network`."""
    return f"get it with `{command_for(network)}`"
