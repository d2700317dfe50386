"""Converts a PyTorch file to ours: read, convert, write and, on request, compare."""

from __future__ import annotations

import hashlib
import pathlib
import sys

from spips_jax.backbones import BACKBONES
from spips_jax.cache import cache_folder, unwritable
from spips_jax.messages import one_of
from spips_jax.outputs import check_files
from spips_jax.weights import PUBLISHED, WeightsError, weights_path, write_weights
from weights_convert import download, networks, torch_twin, verify

EXIT_DIFFERENT = 1


def convert(
    network: str,
    source: pathlib.Path | None,
    output: pathlib.Path | None,
    *,
    compare: bool,
) -> int:
    """Converts one file and prints what it wrote.

    Args:
      network: one of `spips_jax.weights.PUBLISHED`.
      source: the PyTorch file; by default torchvision's, downloaded.
      output: the file to write; by default where `spips_jax.load` looks for it.
      compare: whether also to compare the result with PyTorch.

    Returns:
      0, or `EXIT_DIFFERENT` if the result differs from PyTorch's.

    Raises:
      WeightsError: the file cannot be downloaded, read or converted.
      OSError: a file cannot be opened or written.
    """
    if network not in PUBLISHED:
        raise WeightsError(one_of("network", network, PUBLISHED))
    if compare and network in BACKBONES:
        torch_twin.require_torch()
    own = output is None
    output = output or weights_path(network)
    check_files([output], inputs=[source] if source else [], option="--output", own=own)
    if problem := unwritable(output.parent):  # said before a download
        remedy = "set SPIPS_HOME to a folder that can be, or give --output"
        raise WeightsError(f"{problem}: {remedy if own else 'give another --output'}")
    source = source or download.fetch(network, cache_folder())
    tensors = networks.read_source(network, source)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_weights(
        output,
        networks.to_flax(network, tensors),
        network=network,
        metadata={"source": source.name, "source_sha256": digest},
    )
    print(f"{network}: {len(tensors)} tensors from {source} written to {output}")
    if not compare:
        return 0
    differences = verify.verify(network, tensors, output)
    print(verify.table(differences))
    if all(difference.within_tolerance for difference in differences):
        return 0
    print(f"error: {output}: differs from PyTorch", file=sys.stderr)
    return EXIT_DIFFERENT
