"""Weight files: safetensors with strict names and shapes, and the folders they are in.

A file holds the float tensors of one `network`: a backbone ("alexnet", ...), the head
of a baseline ("lpips-alexnet", "dists") or a trained SPIPS (`spips_jax.model_file`).
Tensors are named by their path in the parameter tree, joined with dots
("conv1_1.kernel"); kernels are HWIO. The header's metadata says which network it is and
where it came from.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from spips_jax.backbones import BACKBONES, Published, shapes
from spips_jax.baselines import BASELINES
from spips_jax.cache import cache_folder
from spips_jax.files import replacing
from spips_jax.messages import UserError, one_of
from spips_jax.outputs import SOFTWARE
from spips_jax.process import check_process

FORMAT = SOFTWARE

VERSION = "3"
"""Of the format. Versions 1 and 2 differ in trained models alone: see
`spips_jax.model_file`."""

READABLE = ("1", "2", VERSION)

BACKBONE = "backbone"
"""Where a SPIPS network's parameters have those of its backbone."""

PACKAGE = Path(__file__).parent / "models"
"""The trained models that come with the package, and an example pair of images."""

PUBLISHED: dict[str, Published] = {
    **{name: one.published for name, one in BACKBONES.items() if one.published},
    **{name: one.head.published for name, one in BASELINES.items() if one.head},
}
"""Networks that others publish, which `weights_convert` converts: backbones, then the
heads of baselines."""


class WeightsError(UserError):
    """Weights that are missing or cannot be used; one line that says what to do."""


def embedded(model: str) -> Path | None:
    """Returns the file of a SPIPS model in the package; None where it has none."""
    path = PACKAGE / f"{model}.safetensors"
    return path if path.is_file() else None


def weights_path(network: str) -> Path:
    """Returns where the weights of a network are looked for.

    Those of published networks are in the cache folder, where `spips convert` puts
    them; those of a backbone that is trained here are in the file of its SPIPS model.
    """
    if network not in PUBLISHED:
        return PACKAGE / f"spips-{network}.safetensors"
    return cache_folder() / f"{network}.safetensors"


@functools.cache  # traces the network each time
def expected_shapes(network: str) -> Mapping[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in a file of `network`.

    Raises:
      WeightsError: `network` is neither a backbone nor the head of a baseline.
    """
    if network in BACKBONES:
        _, params = shapes(network)
        return flat_shapes(params)
    head = BASELINES[network].head if network in BASELINES else None
    if head is None:
        raise WeightsError(one_of("network", network, (*BACKBONES, *PUBLISHED)))
    taps, _ = shapes(BASELINES[network].backbone)
    return head.shapes({tap: one.shape[-1] for tap, one in taps.items()})


def flat_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of a parameter tree by the names that its tensors have in a file."""
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
    """Writes a nested dict of arrays to a safetensors file, whole or not at all.

    Args:
      path: the file.
      params: the arrays.
      shapes: the name and shape of every tensor there must be.
      network: what the tensors are of, for the header and errors.
      metadata: more of the header.

    Raises:
      WeightsError: a tensor is missing, extra or misshapen.
    """
    path = Path(path)
    flat = {
        name: np.ascontiguousarray(tensor)
        for name, tensor in traverse_util.flatten_dict(dict(params), sep=".").items()
    }
    check_shapes(path, flat, shapes=shapes, network=network)
    header = {"format": FORMAT, "version": VERSION, "network": network}
    header = {**(metadata or {}), **header}
    try:
        with replacing(path) as partial:
            safetensors.numpy.save_file(flat, partial, metadata=header)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: cannot be written ({error})") from None


def read_weights(path: str | os.PathLike[str], *, network: str) -> dict[str, Any]:
    """Reads the weights of `network` as a nested dict of float32 NumPy arrays.

    A backbone is also read from the file of a trained SPIPS that has it inside.

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
      remedy: the end of the error line for a missing file.
      again: the end of the error line for a damaged file.

    Raises:
      WeightsError: no such file, not a whole safetensors file, NaN or inf in it, a
        format of another version.
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
    version = metadata.get("version")
    if metadata.get("format") == FORMAT and version not in READABLE:
        raise WeightsError(
            f"{path}: has version {version} of the format, this spips-jax reads"
            f" {', '.join(READABLE)}: install a newer one"
        )
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


def read_network(
    network: str, path: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Reads the weights of `network` as JAX arrays.

    Args:
      network: a backbone or one of `PUBLISHED`.
      path: the file; by default where `weights_path` says.

    Raises:
      WeightsError: as `read_weights`.
    """
    path = path or weights_path(network)
    check_process()
    # Not by `jnp.asarray`, which compiles a program for each shape.
    return jax.device_put(read_weights(path, network=network))


def command_for(network: str, *, given: bool = False) -> str:
    """Returns the command that makes the weights of `network`.

    It puts them where `load` looks, unless they are of a backbone that is trained here.

    Args:
      network: a backbone or one of `PUBLISHED`.
      given: whether to convert a file that the user has, rather than download.
    """
    if network not in PUBLISHED:
        return f"spips train --config {network}_backbone --workdir DIR"
    source = " --source FILE" if given or not PUBLISHED[network].url else ""
    return f"spips convert {network}{source}"


def how_to_get(network: str) -> str:
    """Returns the end of an error line: how to get the weights of `network`."""
    return f"get it with `{command_for(network)}`"
