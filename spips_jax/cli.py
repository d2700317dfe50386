"""The `spips` command: `spips score` and `spips models`.

Results go to standard output, as a table or as JSON lines; progress and errors go to
standard error, an error in one line. A pair that cannot be scored never stops the
others; it makes the exit code 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax

from spips_jax import backbones, baselines, images, metric, model_file, weights
from spips_jax.cache import cache_compilations, cache_folder
from spips_jax.calibration import Calibration
from spips_jax.spips import Features

EXIT_ERROR = 2

_EPILOG = """\
examples:
  spips score --example --maps maps/
  spips score photo.png photo.jpg
  spips score originals/ compressed/ --maps maps/
  spips score --pairs pairs.csv --model lpips-alexnet --json > scores.jsonl
  spips models
"""


class CommandError(Exception):
    """A wrong call of the command; one line that says what to do."""


@dataclass(frozen=True)
class Pair:
    """Two image files, as they were named."""

    reference: str
    distorted: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        try:
            return args.run(args)
        except ModuleNotFoundError as error:
            if error.name not in ("PIL", "rich", "matplotlib"):
                raise
            raise CommandError(
                f"{error.name} is not installed: install spips-jax with the extra [cli]"
            ) from None
    except (CommandError, weights.WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away, as `| head` does; keep Python from flushing into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spips",
        description="Score how far images are from their references, as people see it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser(
        "score",
        help="score image files against their references",
        description="Score image files against their references: two files, two"
        " folders matched by file name, one reference and a folder, a list, or the"
        " example.",
    )
    score.add_argument("reference", nargs="?", metavar="REFERENCE")
    score.add_argument("distorted", nargs="?", metavar="DISTORTED")
    score.add_argument(
        "--pairs",
        metavar="CSV",
        help="a CSV file with the columns reference and distorted, paths from its"
        " folder",
    )
    score.add_argument(
        "--example",
        action="store_true",
        help="score the two images that come with the package",
    )
    score.add_argument(
        "--model",
        default="spips-lite",
        metavar="NAME",
        help="a name that `spips models` lists, or the file of a trained model"
        " (default: %(default)s)",
    )
    score.add_argument(
        "--untrained",
        action="store_true",
        help="a SPIPS model's uniform head in place of what it learned",
    )
    score.add_argument(
        "--weights",
        metavar="FILE",
        help="the backbone's weights (default: the cache; spips-lite has its own)",
    )
    score.add_argument(
        "--head",
        metavar="FILE",
        help="the second file of an LPIPS or DISTS model (default: the cache)",
    )
    score.add_argument(
        "--json", action="store_true", help="print one JSON object a line and a pair"
    )
    score.add_argument(
        "--maps", metavar="DIR", help="write heat maps of the differences, a PNG a pair"
    )
    score.set_defaults(run=_score)

    models = commands.add_parser(
        "models",
        help="list the models and where their weights are",
        description="List the models, whether they are trained, their taps (perceptual"
        " | semantic), whether their weights are there, and how to get them; or print"
        " the card of one that comes trained with the package.",
    )
    models.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="of which to print how it was made and how good it is",
    )
    models.add_argument(
        "--json", action="store_true", help="print one JSON object a line and a model"
    )
    models.set_defaults(run=_models)
    return parser


# spips score


def _score(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if args.maps is not None and args.model == "dists":
        raise CommandError("--maps: dists compares whole images, it has no maps")
    pairs, problems = _find_pairs(args)
    model = _load(args)
    map_files = _map_files(pairs, args.maps)
    cache_compilations()
    for problem in problems:
        errors.print(f"error: {problem}")

    rows: list[dict[str, Any]] = []
    failed = len(problems)
    progress = Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=len(pairs) < 2 or not errors.is_terminal,
        transient=True,
    )
    try:
        with progress:
            task = progress.add_task("scoring", total=len(pairs))
            for row in _rows(model, pairs, map_files):
                if "error" in row:
                    failed += 1
                    errors.print(f"error: {row['error']}")
                if args.json:
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                rows.append(row)
                progress.advance(task)
    finally:
        # After an interruption, too: what was scored is shown.
        if not args.json:
            _print_table(rows, model)
    return EXIT_ERROR if failed else 0


def _rows(
    model: metric.Metric, pairs: Sequence[Pair], map_files: Sequence[Path | None]
) -> Iterator[dict[str, Any]]:
    """Scores pairs one by one; a pair that fails has "error" and no score."""
    seen: tuple[str, Features] | None = None
    calibration = model.calibration
    for pair, map_file in zip(pairs, map_files, strict=True):
        row: dict[str, Any] = {
            "reference": pair.reference,
            "distorted": pair.distorted,
            "model": model.name,
            "score": None,
        }
        if calibration is not None:
            row[calibration.opinion] = None
        try:
            # A reference often meets several images in a row: it is run once.
            if seen is None or seen[0] != pair.reference:
                reference = images.read_image(pair.reference)
                seen = (pair.reference, model.features(reference))
            row |= _compare(model, seen[1], pair, map_file)
            if calibration is not None:
                row[calibration.opinion] = float(calibration(row["score"]))
        except (images.ImageError, OSError) as error:
            row["error"] = " ".join(str(error).split())
        yield row


def _compare(
    model: metric.Metric, features: Features, pair: Pair, map_file: Path | None
) -> dict[str, Any]:
    distorted = images.read_image(pair.distorted)
    try:
        if map_file is None:
            return {"score": _finite(float(model(features, distorted)), pair)}
        parts = model.explain(features, distorted)
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
        title=f"{model.name} {score:.4f}",
    )
    streams = {stream: float(value) for stream, value in parts.streams.items()}
    return {"score": score, **streams, "maps": str(map_file)}


def _finite(score: float, pair: Pair) -> float:
    """JSON has no NaN, and 8-bit images no way to one but through bad weights."""
    if not math.isfinite(score):
        raise images.ImageError(f"{pair.distorted}: the score is {score}, not a number")
    return score


def _print_table(rows: Sequence[dict[str, Any]], model: metric.Metric) -> None:
    from rich.console import Console
    from rich.table import Table

    scored = [row for row in rows if row["score"] is not None]
    console = Console(highlight=False, markup=False)
    if not scored:
        return
    calibration = model.calibration
    opinion = [calibration.opinion] if calibration is not None else []
    if not console.is_terminal:  # for cut, awk and spreadsheets
        print("reference", "distorted", model.name, *opinion, sep="\t")
        for row in scored:
            numbers = [f"{row[key]:.6f}" for key in ("score", *opinion)]
            print(row["reference"], row["distorted"], *numbers, sep="\t")
        return
    table = Table()
    for column in ("reference", "distorted"):
        table.add_column(column, overflow="fold")  # names in full, over several lines
    for column in (model.name, *opinion):
        table.add_column(column, justify="right")
    for row in scored:
        cells = [row["reference"], row["distorted"], f"{row['score']:.4f}"]
        if calibration is not None:
            cells.append(_opinion(row[calibration.opinion], calibration))
        table.add_row(*cells)
    console.print(table)
    direction = (
        "higher is better"
        if model.higher_is_better
        else "lower is better, 0 is identical"
    )
    if calibration is None:
        console.print(direction)
        return
    console.print(f"{model.name}: {direction}")
    for line in _legend(calibration):
        console.print(line)


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


# Which pairs


def _find_pairs(args: argparse.Namespace) -> tuple[list[Pair], list[str]]:
    """The pairs that were asked for, and a line for each that cannot be."""
    given = (args.reference is not None, args.pairs is not None, args.example)
    if sum(given) > 1:
        raise CommandError(
            "give REFERENCE and DISTORTED, --pairs or --example, only one of them"
        )
    if args.example:
        folder = weights.PACKAGE / "example"
        pair = Pair(str(folder / "reference.png"), str(folder / "distorted.jpg"))
        return [pair], []
    if args.pairs is not None:
        return _pairs_of_list(Path(args.pairs))
    if args.reference is None or args.distorted is None:
        raise CommandError("give REFERENCE and DISTORTED, --pairs CSV or --example")
    reference, distorted = Path(args.reference), Path(args.distorted)
    if not distorted.is_dir():
        if reference.is_dir():
            raise CommandError(
                f"{reference} is a folder, {distorted} is not: give two files, two"
                " folders, or a reference and a folder"
            )
        return [Pair(args.reference, args.distorted)], []
    return _pairs_of_folders(reference, distorted)


def _pairs_of_list(path: Path) -> tuple[list[Pair], list[str]]:
    pairs, problems = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in ("reference", "distorted"):
                if column not in (reader.fieldnames or ()):
                    raise CommandError(
                        f"{path}: line 1 names the columns {reader.fieldnames}: one"
                        f" must be {column}"
                    )
            for row in reader:
                if row["reference"] and row["distorted"]:
                    folder = path.parent
                    pairs.append(
                        Pair(
                            str(folder / row["reference"]),
                            str(folder / row["distorted"]),
                        )
                    )
                else:
                    problems.append(
                        f"{path}: line {reader.line_num}: reference or distorted is"
                        " empty"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"{path}: cannot be read as a CSV file: {reason}") from None
    if not pairs and not problems:
        raise CommandError(f"{path}: lists no pair")
    return pairs, problems


def _pairs_of_folders(reference: Path, distorted: Path) -> tuple[list[Pair], list[str]]:
    """Matches by file name, then by file name without its ending."""
    found = _image_files(distorted)
    if not found:
        raise CommandError(f"{distorted}: holds no image file")
    if not reference.is_dir():
        return [Pair(str(reference), str(path)) for path in found], []
    references = _image_files(reference)
    by_name = {path.name: path for path in references}
    by_stem: dict[str, list[Path]] = {}
    for path in references:
        by_stem.setdefault(path.stem, []).append(path)
    pairs, problems = [], []
    for path in found:
        alike = by_stem.get(path.stem, [])
        if path.name in by_name:
            pairs.append(Pair(str(by_name[path.name]), str(path)))
        elif len(alike) == 1:
            pairs.append(Pair(str(alike[0]), str(path)))
        elif alike:
            names = " and ".join(other.name for other in alike)
            problems.append(f"{path}: both {names} in {reference} could be meant")
        else:
            problems.append(f"{path}: no image of this name in {reference}")
    return pairs, problems


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    endings = Image.registered_extensions()
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def _map_files(pairs: Sequence[Pair], folder: str | None) -> list[Path | None]:
    """A file name for the heat maps of each pair, all different."""
    if folder is None:
        return [None] * len(pairs)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{folder}: cannot be made: {error.strerror}") from None
    names: set[str] = set()
    files: list[Path | None] = []
    for pair in pairs:
        stem = name = Path(pair.distorted).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.add(name)
        files.append(Path(folder) / f"{name}.png")
    return files


# Models


_NAMES = (*metric.MODELS, *baselines.BASELINES)


def _load(args: argparse.Namespace) -> metric.Metric:
    name, head = args.model, args.head
    if name not in _NAMES and not name.endswith(".safetensors"):
        raise CommandError(
            f"model {name!r} is not one of {', '.join(_NAMES)}, nor a .safetensors file"
        )
    if args.untrained and name not in metric.MODELS:
        raise CommandError(
            f"--untrained: {name} has no uniform head, only"
            f" {', '.join(metric.MODELS)} have"
        )
    try:
        if name in baselines.BASELINES:
            return baselines.load(name, weights=args.weights, head=head)
        if head is not None:
            raise CommandError(f"--head {head}: {name} has no second file")
        return metric.load(name, trained=not args.untrained, weights=args.weights)
    except weights.WeightsError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from None


def _models(args: argparse.Namespace) -> int:
    if args.name is not None:
        return _print_card(args.name, as_json=args.json)
    rows = [_describe(name) for name in _NAMES]
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "trained", show_lines=False)
    table.add_column("parameters", justify="right")
    table.add_column("taps", overflow="fold")
    table.add_column("weights")
    table.add_column("get them with", overflow="fold")
    for row in rows:
        missing = [file["network"] for file in row["files"] if not file["there"]]
        table.add_row(
            row["model"],
            {True: "yes", False: "no", None: ""}[row["trained"]],
            f"{row['parameters']:,}",
            " | ".join(" ".join(taps) for taps in row["taps"]),
            _state(row["model"], missing),
            "\n".join(weights.command_for(network) for network in missing),
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 180  # nothing is cut where the output goes to a file
    console.print(table)
    console.print(f"weights are looked for in {cache_folder()}")
    return 0


def _state(name: str, missing: Sequence[str]) -> str:
    if missing:
        return f"no {', '.join(missing)}"
    if name in baselines.CLASSICAL:
        return "none needed"
    return "there" if _files(name) else "in the package"


def _print_card(name: str, *, as_json: bool) -> int:
    if name not in _NAMES:
        raise CommandError(f"model {name!r} is not one of {', '.join(_NAMES)}")
    file = model_file.embedded(name)
    if file is None:
        cards = ", ".join(filter(model_file.embedded, _NAMES))
        raise CommandError(f"{name} has no card, only {cards} have: they come trained")
    if as_json:
        print(json.dumps(model_file.read_card(file), ensure_ascii=False))
    else:
        print(file.with_suffix(".md").read_text(encoding="utf-8"), end="")
    return 0


def _networks(name: str) -> tuple[str, ...]:
    """The networks that a model is made of, the backbone first."""
    if name in baselines.CLASSICAL:
        return ()
    if name == "dists":
        return ("vgg16", name)
    if name in baselines.LPIPS:
        return (baselines.LPIPS[name], name)
    return (metric.MODELS[name],)


def _files(name: str) -> tuple[str, ...]:
    """Those of its networks that are files in the cache folder."""
    return tuple(network for network in _networks(name) if network in weights.NETWORKS)


def _describe(name: str) -> dict[str, Any]:
    """What `spips models` tells of a model."""
    networks = _networks(name)
    shapes = [weights.expected_shapes(network) for network in networks]
    backbone = backbones.build(networks[0]) if networks else None
    trained = name not in metric.MODELS or model_file.embedded(name) is not None
    return {
        "model": name,
        "trained": trained if networks else None,
        "parameters": sum(math.prod(s) for flat in shapes for s in flat.values()),
        "taps": [backbone.perceptual, backbone.semantic] if backbone else [],
        "files": [
            {
                "network": network,
                "file": str(weights.weights_path(network)),
                "there": weights.weights_path(network).is_file(),
                "command": weights.command_for(network),
            }
            for network in _files(name)
        ],
    }
