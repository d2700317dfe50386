"""`spips check`: whether this installation gives scores that were written down."""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spips_jax.commands.pairs import Pair
from spips_jax.messages import UserError, printable, some_of

if TYPE_CHECKING:
    from spips_jax.metric import Metric

EXIT_DIFFERENT = 1

_NAMES = ("reference", "distorted", "model")

_EPILOG = """\
examples:
  spips check
      the scores of the package's example, as they were when it was released
  spips score --pairs pairs.csv --json --provenance > scores.jsonl
  spips check scores.jsonl
      the same scores, on another machine: what differs is named, be it a score, the
      model's weights, the decoded pixels, a version or the device

exit codes: 0 all scores agree; 1 one differs; 2 an error, in one line, or a pair that
cannot be scored, a line each
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "check",
        help="recompute scores and compare them",
        description="Recompute the scores that `spips score --json` wrote, on this"
        " machine, and compare them.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="JSON lines with reference, distorted, model and score (default: those of"
        " the release, of the package's example)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        metavar="T",
        help="relative difference that is still the same (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="the .safetensors file of the model that the scores are of, where it is"
        " none that `spips models` lists",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import jax

    from spips_jax import __version__, loading
    from spips_jax.cache import cache_compilations
    from spips_jax.commands import failed
    from spips_jax.weights import PACKAGE

    file = Path(args.file) if args.file else PACKAGE / "example" / "scores.jsonl"
    rows = _read(file)
    given = loading.load(args.model) if args.model else None
    metrics: dict[str, Metric] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        if given is not None and name == given.name:
            metrics[name] = given
            continue
        known = name.removesuffix(loading.UNTRAINED)
        if known not in loading.NAMES:
            raise UserError(
                f"{file}: has scores of {name}, which `spips models` does not list:"
                " give its file with --model"
            )
        metrics[name] = loading.load(known, trained=known == name)
    cache_compilations()
    device = jax.devices()[0]
    print(
        f"spips-jax {__version__}, jax {jax.__version__}, Python"
        f" {platform.python_version()}, {device.platform} ({device.device_kind})"
    )
    agree = missing = 0
    others: dict[str, list[str]] = {}
    for row in rows:
        found = _score(metrics[row["model"]], row, file.parent)
        apart = _differences(found, row)
        for name, values in apart.items():
            others.setdefault(f"{name}: {values}", []).append(row["distorted"])
        if "error" in found:
            missing += 1
            failed(found["error"])
        elif math.isclose(found["score"], row["score"], rel_tol=args.tolerance):
            agree += 1
        else:
            names = printable(f"{row['reference']}, {row['distorted']}")
            why = ""
            if "provenance" in row:
                why = f" ({', '.join(apart) or 'of the same provenance'})"
            print(
                f"{names}: {row['model']} is {found['score']:.8g} here,"
                f" {row['score']:.8g} in {file}{why}"
            )
    for what, images in others.items():
        print(printable(f"{what}, of {some_of(list(dict.fromkeys(images)))}"))
    print(f"{agree} of {len(rows)} scores agree, to {args.tolerance:g} relative")
    if missing:
        return 2
    return 0 if agree == len(rows) else EXIT_DIFFERENT


def _read(file: Path) -> list[dict[str, Any]]:
    """The pairs that were scored."""
    rows = []
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                score = row["score"]
                named = all(isinstance(row[name], str) for name in _NAMES)
                named = named and isinstance(row.get("provenance", {}), dict)
            except (ValueError, KeyError, TypeError, RecursionError):
                named = False
            if not named or not (score is None or isinstance(score, float)):
                raise UserError(
                    f"{file}: line {number} is not what `spips score --json` writes: an"
                    f" object with {', '.join(_NAMES)} and score"
                )
            if score is not None:  # a pair that could not be scored
                rows.append(row)
    if not rows:
        raise UserError(f"{file}: has no score to compare with")
    return rows


def _score(metric: Metric, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Scores a pair again; relative paths start here, or at the file's folder."""
    from spips_jax.commands.scoring import score_pairs

    paths = [row[name] for name in ("reference", "distorted")]
    there = [path if Path(path).exists() else str(folder / path) for path in paths]
    told = "provenance" in row
    (scored,) = score_pairs([metric], [Pair(*there)], [None], provenance=told)
    return scored.rows[0]


def _differences(found: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
    """What of the provenance of a row differs here, where both are told."""
    from spips_jax.provenance import differences

    if not ("provenance" in found and "provenance" in row):
        return {}
    return differences(found["provenance"], row["provenance"])
