"""`spips convert`: PyTorch weights to the files that `spips_jax.load` reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_EPILOG = """\
examples:
  spips convert --for lpips-alexnet
      all that a model needs and lacks: AlexNet of torchvision and the head of LPIPS,
      from their authors' addresses, each checked by its SHA-256
  spips convert --for dists --source folder/
      without a network: from a folder with the authors' files as they are
  spips convert vgg16
      downloads torchvision's VGG16 and converts it to where spips_jax.load looks
  spips convert alexnet --source alexnet.npz --output alexnet.safetensors
  spips convert lpips-alexnet --source lpips/weights/v0.1/alex.pth
  spips convert lpips-vgg16 --source lpips_state_dict.pth
      writes both the head and the backbone, vgg16, that the package lpips saves
  spips convert squeezenet --verify
      also runs both networks on the same images and prints the differences

Names may begin with anything, such as module. or model_state_dict._orig_mod. It needs
no PyTorch, but for --verify, and runs no code from the files.

exit codes: 0 converted; 1 --verify found a difference; 2 an error, in one line
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "convert",
        help="convert PyTorch weights",
        description="Convert the PyTorch weights of a backbone, or of the head of LPIPS"
        " or DISTS, to\nsafetensors.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "network",
        nargs="?",
        metavar="NETWORK",
        help="alexnet, squeezenet, vgg16, vgg19, lpips-alexnet, lpips-vgg16,"
        " lpips-squeezenet or dists",
    )
    parser.add_argument(
        "--for",
        dest="model",
        metavar="MODEL",
        help="convert all that a model of `spips models` needs, in place of NETWORK",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="download from there, files with their authors' names",
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="a .pth, .pt, .safetensors or .npz file with the names of torchvision,"
        " LPIPS or DISTS (default: its author's, downloaded); with --for, a folder",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: NETWORK.safetensors in SPIPS_HOME or the"
        " system's place for caches); another network of the source is written beside"
        " it",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare with PyTorch (which must be installed), tap by tap; the exit"
        " code is 1 if a relative difference is over 1e-5",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from spips_jax.messages import UserError

    if (args.network is None) == (args.model is None):
        raise UserError("give a NETWORK, or a model with --for")
    if args.model is not None and (args.output is not None or args.verify):
        raise UserError("--output and --verify go with a NETWORK, not with --for")
    if args.mirror is not None and args.source is not None:
        raise UserError("--mirror and --source are two places: give one of them")
    try:
        from weights_convert.convert import convert, convert_for

        if args.model is not None:
            return convert_for(args.model, args.source, mirror=args.mirror)
        return convert(
            args.network,
            args.source,
            args.output,
            compare=args.verify,
            mirror=args.mirror,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run it again to resume") from None
