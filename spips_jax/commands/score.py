"""`spips score`: scores of image files against their references."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spips_jax.commands.pairs import Pair, find_pairs, make_folder, map_files
from spips_jax.commands.rows import check_ending, writers
from spips_jax.messages import UserError

if TYPE_CHECKING:
    from spips_jax.metric import Metric

DEFAULT = "spips-lite"

_EPILOG = """\
examples:
  spips score --example --maps maps/
  spips score photo.png photo.jpg
  spips score originals/ compressed/ --recursive --output scores.csv
  spips score --pairs pairs.csv --model spips-lite --model ssim --json > scores.jsonl
  spips score originals/ compressed/ --html report.html --maps maps/

Rows come as they are scored: tab-separated in a pipe, a table on a terminal. A pair
that cannot be scored is one line on standard error, and makes the exit code 2; the
others are scored all the same. So does what is in a folder and in no pair, unless
--allow-missing is given.
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "score",
        help="score image files against their references",
        description="Score image files against their references: two files, two"
        " folders matched by file\nname, one reference and a folder, a list, or the"
        " example.",
        epilog=_EPILOG,
    )
    parser.add_argument("reference", nargs="?", metavar="REFERENCE")
    parser.add_argument("distorted", nargs="?", metavar="DISTORTED")
    parser.add_argument(
        "--pairs",
        metavar="CSV",
        help="a CSV file with the columns reference and distorted; relative paths"
        " start at its folder",
    )
    parser.add_argument(
        "--example",
        action="store_true",
        help="score the two images that come with the package",
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="look into the folders in folders; files are matched by relative path",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="exit with 0 although files of folders are in no pair; they are named all"
        " the same",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a name that `spips models` lists, or the file of a trained model; may be"
        f" given many times (default: {DEFAULT})",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="a SPIPS model's uniform head in place of the learned one",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="the backbone's weights (default: the cache; spips-lite has its own)",
    )
    parser.add_argument(
        "--head",
        metavar="FILE",
        help="the second file of an LPIPS or DISTS model (default: the cache)",
    )
    parser.add_argument(
        "--convert-profiles",
        action="store_true",
        help="convert embedded colour profiles to sRGB (default: values as stored, and"
        " a warning where two images' profiles differ)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line and a score"
    )
    parser.add_argument(
        "--provenance",
        action="store_true",
        help="in JSON, say of each score what it depends on: digests of the model and"
        " of the decoded pixels, versions, device, precision; `spips check` compares",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the scores to a file, too: .csv, .json or .jsonl",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write a page with a table to sort, pictures, distributions and, with"
        " --maps, the heat maps; everything is in the one file",
    )
    parser.add_argument(
        "--maps", metavar="DIR", help="write heat maps of the differences, a PNG a pair"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from spips_jax.cache import cache_compilations
    from spips_jax.commands.scoring import score_pairs
    from spips_jax.parallel import check_devices
    from spips_jax.progress import Bar

    models = args.model or [DEFAULT]
    _check_options(args, models)
    found = find_pairs(args)
    pairs = found.pairs
    files = map_files(pairs, args.maps)
    output, page = _outputs(args, pairs)
    check_devices()  # here, so that its absence is not the fault of each pair
    cache_compilations()
    metrics = [load(args, model) for model in models]
    if args.maps is not None:
        make_folder(args.maps)
    sinks = writers(metrics, as_json=args.json, output=output, page=page)
    incomplete = bool(found.problems)
    with Bar("scoring", total=len(pairs), shown=len(pairs) > 1) as progress:
        for line in found.left_out:
            incomplete |= not args.allow_missing
            kind = "warning" if args.allow_missing else "error"
            progress.message(f"{kind}: left out: {line}")
        for problem in found.problems:
            progress.message(f"error: {problem}")
        try:
            with closing(
                score_pairs(
                    metrics,
                    pairs,
                    files,
                    convert_profiles=args.convert_profiles,
                    provenance=args.provenance,
                )
            ) as results:
                for scored in results:
                    for line in scored.errors:
                        incomplete = True
                        progress.message(f"error: {line}")
                    for line in scored.warnings:
                        progress.message(f"warning: {line}")
                    for sink in sinks:
                        sink.write(scored.rows)
                    progress.advance(1)
        finally:
            # After an interruption, too: what was scored is shown.
            progress.close()
            for sink in sinks:
                sink.close()
    return 2 if incomplete else 0


def check_once(models: Sequence[str]) -> None:
    """Raises `UserError` for a model that is named twice."""
    twice = [model for model in models if models.count(model) > 1]
    if twice:
        raise UserError(f"--model {twice[0]} is given twice: once is enough")


def _check_options(args: argparse.Namespace, models: Sequence[str]) -> None:
    """Raises `UserError` for options that do not go with the models."""
    from spips_jax.baselines import BASELINES

    check_once(models)
    for option in ("weights", "head", "maps"):
        if len(models) > 1 and getattr(args, option) is not None:
            raise UserError(
                f"--{option} goes with one model, not with {', '.join(models)}: score"
                " them one at a time"
            )
    file = (args.output or "").lower()
    if args.provenance and not (args.json or file.endswith((".json", ".jsonl"))):
        raise UserError(
            "--provenance is written as JSON alone: give --json, or an --output that"
            " ends in .json or .jsonl"
        )
    (model, *_) = models
    if args.maps is not None and model in BASELINES and not BASELINES[model].has_maps:
        raise UserError(f"--maps: {model} compares whole images, it has no maps")


def _outputs(
    args: argparse.Namespace, pairs: Sequence[Pair]
) -> tuple[Path | None, Path | None]:
    """Checks the files that scores are written to, before any work."""
    from spips_jax.outputs import check_files

    inputs = [image for pair in pairs for image in (pair.reference, pair.distorted)]
    inputs += [file for file in (args.pairs, args.weights, args.head) if file]
    inputs += args.model or []
    found: list[Path | None] = []
    for option, given in (("--output", args.output), ("--html", args.html)):
        path = None if given is None else Path(given).expanduser()
        if path is not None:
            if option == "--output":
                check_ending(path)
            elif path.suffix.lower() not in (".html", ".htm"):
                raise UserError(f"--html {given}: give a name that ends in .html")
            check_files([path], inputs=inputs, option=option)
        found.append(path)
    return found[0], found[1]


def load(args: argparse.Namespace, model: str) -> Metric:
    """Loads one of the metrics that the options name."""
    from spips_jax import loading

    if args.untrained and model not in loading.MODELS:
        loading.check_name(model)
        raise UserError(
            f"--untrained: {model} has no uniform head, only"
            f" {', '.join(loading.MODELS)} have"
        )
    return loading.load(
        model, trained=not args.untrained, weights=args.weights, head=args.head
    )
