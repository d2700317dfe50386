"""The command line: read, convert, write, and on request compare with PyTorch."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import safetensors

from spips_jax.backbones import BACKBONES
from spips_jax.cache import cache_folder
from spips_jax.weights import PUBLISHED, WeightsError, weights_path, write_weights
from weights_convert import download, networks, torch_twin, verify

EXIT_DIFFERENT = 1
EXIT_ERROR = 2

_EPILOG = """\
examples:
  python -m weights_convert vgg16
      downloads torchvision's VGG16 and converts it to where spips_jax.load looks
  python -m weights_convert alexnet --source alexnet.npz --output alexnet.safetensors
  python -m weights_convert lpips-alexnet --source lpips/weights/v0.1/alex.pth
  python -m weights_convert squeezenet --verify
      also runs both networks on the same images and prints the differences

exit codes: 0 converted; 1 --verify found a difference; 2 an error, told in one line
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"error: {message} (see --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _Parser(
        prog="python -m weights_convert",
        description="Convert PyTorch weights to safetensors for spips_jax.\n"
        "Needs no PyTorch and runs no code from the files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "network",
        choices=PUBLISHED,
        metavar="NETWORK",
        help=", ".join(PUBLISHED),
    )
    parser.add_argument(
        "--source",
        type=pathlib.Path,
        metavar="FILE",
        help=".pth, .pt, .safetensors or .npz file with the names of torchvision, "
        "LPIPS or DISTS; default: torchvision's, downloaded",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help="default: NETWORK.safetensors in $SPIPS_HOME or ~/.cache/spips_jax",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare with PyTorch (which must be installed), tap by tap; exit with "
        f"1 if a relative difference is over {verify.TOLERANCE:g}",
    )
    args = parser.parse_args(argv)
    try:
        return convert(args.network, args.source, args.output, compare=args.verify)
    except (WeightsError, OSError, safetensors.SafetensorError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("error: interrupted; run it again to go on", file=sys.stderr)
        return EXIT_ERROR


def convert(
    network: str,
    source: pathlib.Path | None,
    output: pathlib.Path | None,
    *,
    compare: bool,
) -> int:
    """Converts one file, prints what it wrote, and returns the exit code."""
    if compare and network in BACKBONES:
        torch_twin.require_torch()
    source = source or download.fetch(network, cache_folder())
    output = output or weights_path(network)
    if output.resolve() == source.resolve():
        raise WeightsError(f"{source}: is the source and the output; name another one")
    tensors = networks.read_source(network, source)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_weights(
        output,
        networks.to_flax(network, tensors),
        network=network,
        metadata={"source": source.name, "source_sha256": digest},
    )
    print(f"{network}: {len(tensors)} tensors of {source} written to {output}")
    if not compare:
        return 0
    differences = verify.verify(network, tensors, output)
    print(verify.table(differences))
    if all(difference.within_tolerance for difference in differences):
        return 0
    print(f"error: {output}: differs from PyTorch", file=sys.stderr)
    return EXIT_DIFFERENT
