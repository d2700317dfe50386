"""`spips score`: scores of image files against their references."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spips_jax.commands.pairs import Pair, find_pairs, make_folder, map_files
from spips_jax.messages import UserError, one_line

if TYPE_CHECKING:
    from spips_jax.calibration import Calibration
    from spips_jax.metric import Metric
    from spips_jax.spips import Features

_EPILOG = """\
examples:
  spips score --example --maps maps/
  spips score photo.png photo.jpg
  spips score originals/ compressed/ --maps maps/
  spips score --pairs pairs.csv --model lpips-alexnet --json > scores.jsonl

A pair that cannot be scored is one line on standard error, and makes the exit code 2;
the others are scored all the same.
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
        "--model",
        default="spips-lite",
        metavar="NAME",
        help="a name that `spips models` lists, or the file of a trained model"
        " (default: %(default)s)",
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
        "--json", action="store_true", help="print one JSON object a line and a pair"
    )
    parser.add_argument(
        "--maps", metavar="DIR", help="write heat maps of the differences, a PNG a pair"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from spips_jax.baselines import BASELINES
    from spips_jax.cache import cache_compilations
    from spips_jax.parallel import check_devices
    from spips_jax.progress import Bar

    pairs, problems = find_pairs(args)
    if (
        args.maps is not None
        and args.model in BASELINES
        and not BASELINES[args.model].has_maps
    ):
        raise UserError(f"--maps: {args.model} compares whole images, it has no maps")
    files = map_files(pairs, args.maps)
    check_devices()  # here, so that its absence is not the fault of each pair
    metric = load(args)
    if args.maps is not None:
        make_folder(args.maps)
    cache_compilations()
    failed = len(problems)
    rows: list[dict[str, Any]] = []
    with Bar("scoring", total=len(pairs), shown=len(pairs) > 1) as progress:
        for problem in problems:
            progress.message(f"error: {problem}")
        try:
            for row in score_pairs(metric, pairs, files):
                if "error" in row:
                    failed += 1
                    progress.message(f"error: {row['error']}")
                if args.json:
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                rows.append(row)
                progress.advance(1)
        finally:
            # After an interruption, too: what was scored is shown.
            progress.close()
            if not args.json:
                _print_table(rows, metric)
    return 2 if failed else 0


def load(args: argparse.Namespace) -> Metric:
    """Loads the metric that the options name."""
    from spips_jax import loading

    if args.untrained and args.model not in loading.MODELS:
        loading.check_name(args.model)
        raise UserError(
            f"--untrained: {args.model} has no uniform head, only"
            f" {', '.join(loading.MODELS)} have"
        )
    return loading.load(
        args.model, trained=not args.untrained, weights=args.weights, head=args.head
    )


def score_pairs(
    metric: Metric, pairs: Sequence[Pair], map_files: Sequence[Path | None]
) -> Iterator[dict[str, Any]]:
    """Scores pairs one by one; a pair that fails has "error" and no score."""
    from spips_jax import images

    seen: tuple[str, Features] | None = None
    calibration = metric.calibration
    for pair, map_file in zip(pairs, map_files, strict=True):
        row: dict[str, Any] = {
            "reference": pair.reference,
            "distorted": pair.distorted,
            "model": metric.name,
            "score": None,
        }
        if calibration is not None:
            row[calibration.opinion] = None
        try:
            # A reference often meets several images in a row: it is run once.
            if seen is None or seen[0] != pair.reference:
                reference = images.read_image(pair.reference)
                seen = (pair.reference, metric.features(reference))
            row |= _compare(metric, seen[1], pair, map_file)
            if calibration is not None:
                row[calibration.opinion] = float(calibration(row["score"]))
        except (UserError, OSError) as error:
            row["error"] = one_line(error)
        yield row


def _compare(
    metric: Metric, features: Features, pair: Pair, map_file: Path | None
) -> dict[str, Any]:
    import jax

    from spips_jax import images

    distorted = images.read_image(pair.distorted)
    try:
        if map_file is None:
            return {"score": _finite(float(metric(features, distorted)), pair)}
        parts = metric.explain(features, distorted)
    except images.ImageError as error:
        raise images.ImageError(
            f"{pair.reference}, {pair.distorted}: {error}"
        ) from None
    score = _finite(float(parts.score), pair)
    from spips_jax.heatmaps import write_heat_maps

    write_heat_maps(
        map_file,
        reference=jax.device_get(features.image),
        distorted=distorted,
        comparison=jax.device_get(parts),
        title=f"{metric.name} {score:.4f}",
    )
    streams = {stream: float(value) for stream, value in parts.streams.items()}
    return {"score": score, **streams, "maps": str(map_file)}


def _finite(score: float, pair: Pair) -> float:
    """JSON has no NaN, and 8-bit images no way to one but through bad weights."""
    if not math.isfinite(score):
        raise UserError(f"{pair.distorted}: the score is {score}, not a number")
    return score


def _print_table(rows: Sequence[dict[str, Any]], metric: Metric) -> None:
    from rich.table import Table

    from spips_jax.commands.tables import console

    scored = [row for row in rows if row["score"] is not None]
    screen = console()
    if not scored:
        return
    calibration = metric.calibration
    opinion = [calibration.opinion] if calibration is not None else []
    if not screen.is_terminal:  # for cut, awk and spreadsheets
        print("reference", "distorted", metric.name, *opinion, sep="\t")
        for row in scored:
            numbers = [f"{row[key]:.6f}" for key in ("score", *opinion)]
            print(row["reference"], row["distorted"], *numbers, sep="\t")
        return
    table = Table()
    for column in ("reference", "distorted"):
        table.add_column(column, overflow="fold")  # names in full, over several lines
    for column in (metric.name, *opinion):
        table.add_column(column, justify="right")
    for row in scored:
        cells = [row["reference"], row["distorted"], f"{row['score']:.4f}"]
        if calibration is not None:
            cells.append(_opinion(row[calibration.opinion], calibration))
        table.add_row(*cells)
    screen.print(table)
    direction = (
        "higher is better"
        if metric.higher_is_better
        else "lower is better, 0 is identical"
    )
    if calibration is None:
        screen.print(direction)
        return
    screen.print(f"{metric.name}: {direction}")
    for line in _legend(calibration):
        screen.print(line)


def _opinion(value: float, calibration: Calibration) -> str:
    """An opinion to read, to a thousandth of its scale or so."""
    if calibration.opinion == "preference":
        return f"{100 * value:.0f} %"
    low, high = calibration.scale
    return f"{value:.{max(0, 3 - math.ceil(math.log10(high - low)))}f}"


def _legend(calibration: Calibration) -> list[str]:
    """What opinions and scores mean, in lines."""
    low, high = calibration.scale
    what = {
        "mos": f"what people would say, from {low:g} (worst) to {high:g} (best)",
        "dmos": f"what people would say, from {low:g} (best) to {high:g} (worst)",
        "preference": "how many people would prefer the reference, 50 % being chance",
    }[calibration.opinion]
    rows = [
        (f"{a:.4f} to {b:.4f}" if math.isfinite(b) else f"{a:.4f} and more", words)
        for words, a, b in calibration.legend()
    ]
    width = max(len(scores) for scores, _ in rows)
    return [
        f"{calibration.opinion}: {what}",
        f"fitted to {calibration.examples:,} examples of {calibration.dataset}, RMSE"
        f" {_opinion(calibration.rmse, calibration)}",
        *(f"  {scores:<{width}}  {words}" for scores, words in rows),
    ]
