"""`spips warm`: compiles ahead what `spips score` would compile when it is needed."""

from __future__ import annotations

import argparse
from typing import Any

DEFAULT = "spips-lite"


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "warm",
        help="compile ahead, for any size of images",
        description="Compile a model's programs for every size of canvas, and keep"
        " them in the cache:\nfolders of images of any size are then scored at once.",
        epilog="examples:\n  spips warm\n  spips warm --model ssim --model spips-lite\n"
        "\nPrograms are kept by version of JAX and of this package and by processor:"
        " repeat it\nafter an upgrade, or when an image for containers is built.\n",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a name that `spips models` lists, or the file of a trained model; may be"
        f" given many times (default: {DEFAULT})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import time

    from spips_jax import packing
    from spips_jax.any_size import AnySize
    from spips_jax.cache import cache_compilations
    from spips_jax.loading import load
    from spips_jax.messages import UserError
    from spips_jax.progress import Bar

    cache_compilations()
    models = dict.fromkeys(args.model or [DEFAULT])
    metrics = [load(model) for model in models]
    for metric in metrics:
        if not AnySize.supports(metric):
            raise UserError(
                f"{metric.name} compiles for each size of images anew, so nothing can"
                " be done ahead: leave it out"
            )
    for metric in metrics:
        begin = time.perf_counter()
        count = len(packing.SIZES)
        with Bar(f"compiling {metric.name}", total=count, shown=True) as progress:
            AnySize(metric).compile(after_each=lambda: progress.advance(1))
        seconds = time.perf_counter() - begin
        print(f"{metric.name}: {count} programs are there, after {seconds:.0f} s")
    return 0
