"""`python -m spips_jax.data`: list the sets, prepare one, show what is in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import track
from rich.table import Table

from spips_jax.agreement import OPINIONS
from spips_jax.data.builder import DataError
from spips_jax.data.sets import BUILDERS, load, prepare, prepared
from spips_jax.data.sheet import choose, write_sheet

EXIT_ERROR = 2

_EPILOG = """\
examples:
  python -m spips_jax.data list
  python -m spips_jax.data prepare synthetic
  python -m spips_jax.data prepare tid2013 --manual_dir ~/Downloads
  python -m spips_jax.data prepare pair_list --csv scores.csv --name mine
  python -m spips_jax.data prepare synthetic --photographs photos/ --name photos
  python -m spips_jax.data prepare synthetic --photographs photos/ --name tiles \
      --size 256 --tiles --sample 2
  python -m spips_jax.data show tid2013 --output tid2013.png
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m spips_jax.data",
        description="IQA datasets: what there is, preparing them, looking at them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the sets, and which are prepared")
    _add_data_dir(listing)
    listing.set_defaults(run=_list)

    building = commands.add_parser(
        "prepare",
        help="build a set from its official folder",
        description="Build a set. `list` says where each is to be had; unpack it and"
        " name the folder with --manual_dir.",
    )
    building.add_argument("set", metavar="SET", help="a name that `list` gives")
    _add_data_dir(building)
    building.add_argument(
        "--manual_dir",
        metavar="DIR",
        help="where the downloaded set lies, unpacked (default:"
        " DATA_DIR/downloads/manual)",
    )
    building.add_argument(
        "--partial",
        action="store_true",
        help="build what is there, though it is not the whole set",
    )
    building.add_argument(
        "--overwrite", action="store_true", help="build anew a set that is there"
    )
    building.add_argument("--name", help="pair_list, synthetic: what to call the set")
    building.add_argument("--csv", metavar="FILE", help="pair_list: the list")
    building.add_argument(
        "--direction",
        choices=("mos", "dmos"),
        help="pair_list: whether a higher score is better (mos) or worse (dmos)",
    )
    building.add_argument(
        "--photographs", metavar="DIR", help="synthetic: a folder of images"
    )
    building.add_argument(
        "--size", type=int, help="synthetic: side of the square cut from each"
    )
    building.add_argument(
        "--tiles",
        action="store_true",
        help="synthetic: cut each into all the whole squares of --size",
    )
    building.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="synthetic: N distortions for each photograph or tile, drawn (default:"
        " all)",
    )
    building.add_argument(
        "--kinds", nargs="+", metavar="KIND", help="synthetic: only these distortions"
    )
    building.set_defaults(run=_prepare)

    show = commands.add_parser("show", help="draw a contact sheet of a prepared set")
    show.add_argument("set", metavar="SET", help="a name, or pair_list/NAME")
    _add_data_dir(show)
    show.add_argument("--split", default="", help="a split (default: all)")
    show.add_argument(
        "--count", type=int, default=16, help="examples (default: %(default)s)"
    )
    show.add_argument("--output", metavar="PNG", help="default: SET.png, here")
    show.set_defaults(run=_show)
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="where prepared sets are kept (default: TFDS_DATA_DIR or"
        " ~/tensorflow_datasets)",
    )


def _list(args: argparse.Namespace) -> int:
    there = prepared(args.data_dir)
    table = Table("set", "examples", "references", "score", "prepared", "get it from")
    for name, builder in BUILDERS.items():
        card = getattr(builder, "CARD", None)
        mine = [one for one in there if one.partition("/")[0] == name]
        if card is None:
            table.add_row(name, "", "", "", ", ".join(mine) or "no", "your own files")
            continue
        examples = sum(count for count, _ in card.counts.values())
        references = sum(count for _, count in card.counts.values())
        low, high = card.scale
        table.add_row(
            name,
            f"{examples:,}" if examples else "",
            f"{references:,}" if examples else "",
            f"{card.opinion} {low:g} to {high:g}",
            "yes" if mine else "no",
            card.url,
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160  # nothing is cut where the output goes to a file
    console.print(table)
    for name, opinion in OPINIONS.items():
        console.print(f"{name}: {opinion.meaning}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {}
    if args.set == "pair_list":
        if not (args.csv and args.name):
            raise DataError("a pair list needs --csv FILE and --name NAME")
        options = {"csv_file": args.csv, "config": args.name}
        if args.direction:
            options["direction"] = args.direction
    elif args.set == "synthetic":
        if args.photographs and not args.name:
            raise DataError("a set of your own photographs needs --name NAME")
        options = {
            "config": args.name or "scenes",
            "photographs": args.photographs,
            "size": args.size,
            "tiles": args.tiles,
            "kinds": args.kinds or (),
            "sample": args.sample,
        }
    folder = prepare(
        args.set,
        data_dir=args.data_dir,
        manual_dir=args.manual_dir,
        partial=args.partial,
        overwrite=args.overwrite,
        progress=_with_progress,
        **options,
    )
    print(folder)
    return 0


def _with_progress(rows: Sequence[Any], split: str) -> Iterator[Any]:
    console = Console(stderr=True)
    yield from track(
        rows, split, console=console, transient=True, disable=not console.is_terminal
    )


def _show(args: argparse.Namespace) -> int:
    if args.count < 1:
        raise DataError(f"--count {args.count}: show one example at least")
    dataset = load(args.set, data_dir=args.data_dir, split=args.split)
    output = args.output or f"{args.set.replace('/', '-')}.png"
    write_sheet(output, dataset, choose(dataset, args.count))
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
