"""Converts a PyTorch file to ours: read, convert, write and, on request, compare."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from spips_jax.backbones import BACKBONES
from spips_jax.cache import cache_folder, unwritable
from spips_jax.loading import NAMES
from spips_jax.loading import networks as of_model
from spips_jax.messages import UserError, one_of, printable
from spips_jax.outputs import check_files
from spips_jax.weights import (
    PUBLISHED,
    WeightsError,
    read_weights,
    weights_path,
    write_weights,
)
from spips_jax.weights import digest as digest_of
from weights_convert import download, networks, torch_twin, verify

EXIT_DIFFERENT = 1

_ENDINGS = (".pth", ".pt", ".safetensors", ".npz")


def convert(
    network: str,
    source: pathlib.Path | None,
    output: pathlib.Path | None,
    *,
    compare: bool,
    mirror: str | None = None,
) -> int:
    """Converts a network, and those saved with it, and prints what it wrote.

    Args:
      network: one of `spips_jax.weights.PUBLISHED`.
      source: the PyTorch file; by default its author's, downloaded. If it has backbone
        and head of a metric, both are written, whichever of them is `network`.
      output: the file to write; by default where `spips_jax.load` looks for it. Another
        network of `source` goes to the same folder, as NETWORK.safetensors.
      compare: whether also to compare the result with PyTorch.
      mirror: where to download from in place of its author's address.

    Returns:
      0, or `EXIT_DIFFERENT` if the result differs from PyTorch's.

    Raises:
      WeightsError: the file cannot be downloaded, read or converted, or the file of the
        network that was not asked for is there with other weights.
      UserError: an output is an input, or a file of somebody else's.
      OSError: a file cannot be opened or written.
    """
    if network not in PUBLISHED:
        raise WeightsError(one_of("network", network, PUBLISHED))
    if compare and network in BACKBONES:
        torch_twin.require_torch()
    given = [source] if source else []
    own = output is None
    output = output or weights_path(network)
    check_files([output], inputs=given, option="--output", own=own)
    if problem := unwritable(output.parent):  # said before a download
        remedy = "set SPIPS_HOME to a folder that can be, or give --output"
        raise WeightsError(f"{problem}: {remedy if own else 'give another --output'}")
    source = source or download.fetch(network, cache_folder(), mirror=mirror)
    found = networks.open_source(network, source)
    outputs = {network: output}
    for other in found.networks[1:]:
        path = weights_path(other)
        outputs[other] = path if own else output.with_name(path.name)
        inputs = [*given, output]
        check_files([outputs[other]], inputs=inputs, option="--output", own=own)
    if compare and any(one in BACKBONES for one in outputs):
        torch_twin.require_torch()
    # All are read before any is written: a file is converted as a whole or not at all.
    tensors = {one: found.read(one) for one in outputs}
    params = {one: networks.to_flax(one, tensors[one]) for one in outputs}
    there = [
        one
        for one, path in outputs.items()
        if one != network and _is_there(one, path, params[one], source)
    ]
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = f"{source} ({found.prefix:.200}*)" if found.prefix else source
    for one, path in outputs.items():
        if one in there:
            print(printable(f"{one}: {path} has the same weights already"))
            continue
        write_weights(
            path,
            params[one],
            network=one,
            metadata={"source": source.name, "source_sha256": digest},
        )
        count = len(tensors[one])
        print(printable(f"{one}: {count} tensors from {named} written to {path}"))
    if found.left_out:
        some = ", ".join(f"{name!r:.80}" for name in found.left_out[:3])
        count = len(found.left_out)
        print(printable(f"left out: {count} tensors outside {named}, as {some}"))
    if not compare:
        return 0
    return max(_compare(one, tensors[one], path) for one, path in outputs.items())


def convert_for(
    model: str, source: pathlib.Path | None, *, mirror: str | None = None
) -> int:
    """Converts all networks that a metric needs and whose files are missing.

    Args:
      model: one of `spips_jax.NAMES`.
      source: a folder of published files as they are; by default they are downloaded.
      mirror: as of `convert`.

    Returns:
      0.

    Raises:
      WeightsError: as `convert`, or the folder has no file of a network.
      UserError: there is no metric of that name.
    """
    if model not in NAMES:
        raise UserError(one_of("model", model, NAMES))
    needed = [one for one in of_model(model) if one in PUBLISHED]
    if not needed:
        print(f"{model} needs no file")
    for network in needed:
        path = weights_path(network)
        if path.exists():
            read_weights(path, network=network)  # raises if it is damaged
            print(printable(f"{network}: is there, {path}"))
            continue
        file = None if source is None else _found_in(source, network)
        convert(network, file, None, compare=False, mirror=mirror)
    return 0


def _found_in(folder: pathlib.Path, network: str) -> pathlib.Path:
    """The file of a network in a folder: by its author's name, else by its content."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: is no folder: with --for, give one as --source")
    published = pathlib.PurePosixPath(PUBLISHED[network].url).name
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file()
    )
    for path in sorted(files, key=lambda path: path.name != published):
        with contextlib.suppress(WeightsError, OSError):
            networks.open_source(network, path)
            return path
    raise WeightsError(
        f"{folder}: none of its {len(files)} weight files ({', '.join(_ENDINGS)}) has"
        f" {network}: get {PUBLISHED[network].origin}"
    )


def _is_there(
    network: str, path: pathlib.Path, params: Mapping[str, Any], source: pathlib.Path
) -> bool:
    """Whether a file that nobody asked to replace has these weights already.

    Raises:
      WeightsError: it is there and has others, as if a backbone was tuned with its
        head: other models may stand on it.
    """
    if not path.exists():
        return False
    try:
        if digest_of(read_weights(path, network=network)) == digest_of(params):
            return True
    except WeightsError:  # damaged, or of another network
        pass
    raise WeightsError(
        f"{path}: is there, and has not the weights of {network} in {source}, which"
        " would be written as well: move it away, or give --output in another folder"
    )


def _compare(
    network: str, tensors: Mapping[str, np.ndarray], path: pathlib.Path
) -> int:
    """Prints how a written file differs from PyTorch; returns the exit code."""
    differences = verify.verify(network, tensors, path)
    print(verify.table(differences))
    if all(difference.within_tolerance for difference in differences):
        return 0
    print(f"error: {path}: differs from PyTorch", file=sys.stderr)
    return EXIT_DIFFERENT
