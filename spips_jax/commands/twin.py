"""`spips twin`: a score here and in PyTorch, or here and on another machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXIT_DIFFERENT = 1

_EPILOG = """\
examples:
  spips twin --model spips-lite
      the images of the package, in JAX and in PyTorch: a row for each stage, from the
      images over every tap, statistic and map to the score and its gradient
  spips twin photo.png photo.jpg --model spips-alexnet --double
      PyTorch in float64: how far float32 is from exact
  spips twin --dump here.safetensors
  spips twin --against there.safetensors
      without PyTorch: all stages of this machine into a file, and compared with those
      of another device, precision or version
  spips twin --model spips-lite --export spips.pt2
      the metric for PyTorch alone: torch.export.load("spips.pt2").module()(x, y),
      images (N, 3, H, W) of the size of the compared ones, any N from 1 on

exit codes: 0 all stages agree; 1 one does not, and the first is named; 2 an error, in
one line
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "twin",
        help="compare with PyTorch, or with another machine, stage by stage",
        description="Compute a score in JAX and, stage by stage, compare it with"
        " PyTorch's or with\nanother machine's.",
        epilog=_EPILOG,
    )
    parser.add_argument("images", nargs="*", type=Path, metavar="REFERENCE DISTORTED")
    parser.add_argument(
        "--model", default="spips-lite", help="a name or a file (default: %(default)s)"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the backbone's file"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the backbone in JAX",
    )
    parser.add_argument(
        "--double", action="store_true", help="PyTorch computes in float64"
    )
    parser.add_argument(
        "--dump", type=Path, metavar="FILE", help="write all stages as safetensors"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with a file of --dump"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the PyTorch metric as .pt2"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import numpy as np

    import spips_jax
    from spips_jax import provenance
    from spips_jax.cache import cache_compilations
    from spips_jax.images import to_unit_range
    from spips_jax.messages import UserError, printable
    from spips_jax.outputs import check_files
    from weights_convert import stages, torch_twin

    if len(args.images) not in (0, 2):
        raise UserError(
            f"{len(args.images)} images are given: give a reference and a distorted"
            " one, or none for the example's"
        )
    if args.double and args.against:
        raise UserError("--double is PyTorch's, and goes without --against")
    given = [path for path in (args.weights, args.against) if path]
    for option, path in (("--dump", args.dump), ("--export", args.export)):
        if path:
            check_files([path], inputs=[*args.images, *given], option=option)
    alone = args.dump is not None or args.against is not None
    if not alone or args.export:
        torch_twin.require_torch("spips twin")
    elsewhere = stages.read(args.against) if args.against else None
    cache_compilations()
    metric = spips_jax.load(args.model, weights=args.weights, dtype=args.dtype)
    pixels = _pixels(args.images)
    images = [np.array(to_unit_range(image))[None] for image in pixels]
    ours = stages.of_jax(metric, *images)
    about = {
        **provenance.of_metric(metric),
        **provenance.of_machine(),
        **provenance.of_images(*pixels),
    }
    if args.dump:
        stages.write(args.dump, ours, about)
        print(printable(f"{len(ours)} stages written to {args.dump}"))
    code = 0
    if elsewhere:
        theirs, told = elsewhere
        for name, values in provenance.differences(about, told).items():
            print(printable(f"{name}: {values}"))
        code = _compare(stages.compare(ours, theirs))
    if alone and not args.export:
        return code
    from weights_convert import torch_spips

    twin = torch_spips.of_network(metric.module, metric.variables["params"])
    if not alone:
        one = twin.double() if args.double else twin
        code = _compare(stages.compare(ours, stages.of_torch(one, *images)))
    if args.export:
        torch_spips.export(twin.float(), args.export, images[0].shape[1:3])
        print(printable(f"written to {args.export}"))
    return code


def _pixels(paths: list[Path]) -> list[Any]:
    """Both images `(H, W, 3)`, as decoded; without paths those of the package."""
    from spips_jax.image_files import read_image
    from spips_jax.weights import PACKAGE

    folder = PACKAGE / "example"
    return [
        read_image(path)
        for path in paths or [folder / "reference.png", folder / "distorted.jpg"]
    ]


def _compare(rows: list[Any]) -> int:
    from weights_convert import stages

    print(stages.table(rows))
    return 0 if all(row.agrees for row in rows) else EXIT_DIFFERENT
