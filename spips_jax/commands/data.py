"""`spips data`: list the sets, prepare one, show what is in it."""

from __future__ import annotations

import argparse
from typing import Any

from spips_jax.messages import UserError, one_of

_EPILOG = """\
examples:
  spips data list
  spips data prepare synthetic
  spips data prepare tid2013 --manual_dir ~/Downloads
  spips data prepare pair_list --csv scores.csv --name mine
  spips data prepare pair_list --csv elo.csv --name elo --comparable reference
  spips data prepare synthetic --photographs photos/ --name photos
  spips data prepare synthetic --photographs photos/ --name tiles --size 256 --tiles
  spips data show tid2013 --output tid2013.png

exit codes: 0 the set is there; 2 an error in one line or, of prepare, a line for each
pair whose images are bad: the set then has all the others
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "data",
        help="IQA datasets: list them, prepare one, look at one",
        description="IQA datasets: list them, prepare one, look at one.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the sets, and which are prepared")
    _add_data_dir(listing)
    listing.set_defaults(run=_list)

    building = commands.add_parser(
        "prepare",
        help="build a set from its official folder",
        description="Build a set. `spips data list` says where to get each; unpack it"
        " and name the\nfolder with --manual_dir.",
    )
    building.add_argument(
        "set",
        metavar="SET",
        help="a name that `spips data list` gives; pair_list/NAME, synthetic/NAME",
    )
    _add_data_dir(building)
    building.add_argument(
        "--manual_dir",
        metavar="DIR",
        help="folder of the downloaded set, unpacked (default:"
        " DATA_DIR/downloads/manual)",
    )
    building.add_argument(
        "--partial",
        action="store_true",
        help="build what is there, though it is not the whole set, or take a set that"
        " was prepared in part",
    )
    building.add_argument(
        "--overwrite",
        action="store_true",
        help="build a set again that is prepared already",
    )
    building.add_argument("--name", help="pair_list, synthetic: what to call the set")
    building.add_argument("--csv", metavar="FILE", help="pair_list: the list")
    building.add_argument(
        "--direction",
        choices=("mos", "dmos"),
        help="pair_list: whether a higher score is better (mos) or worse (dmos)",
    )
    building.add_argument(
        "--comparable",
        choices=("set", "reference"),
        help="pair_list: which scores compare: any two of the set, or only those of one"
        " reference, as points of a tournament do (default: set)",
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


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="where prepared sets are kept (default: TFDS_DATA_DIR or"
        " ~/tensorflow_datasets)",
    )


def _list(args: argparse.Namespace) -> int:
    from rich.table import Table

    from spips_jax.agreement import OPINIONS
    from spips_jax.commands.tables import console
    from spips_jax.data.sets import BUILDERS, describe, prepared
    from spips_jax.kinds import PROTOCOLS

    there = prepared(args.data_dir)
    partial = []

    def described(name: str) -> tuple[str, str, str]:
        """Of a prepared set: its examples, references, and how much of it is there."""
        try:
            found = describe(name, data_dir=args.data_dir)
        except UserError:
            return "?", "?", "damaged"
        if found.partial:
            partial.append(f"{name} is prepared in part: {found.partial}")
        return f"{found.examples:,}", f"{found.references:,}", found.count

    table = Table(
        "set", "examples", "references", "score", "scores compare", "prepared",
        "get it from",
    )  # fmt: skip
    for name, builder in BUILDERS.items():
        card = getattr(builder, "CARD", None)
        mine = [one for one in there if one.partition("/")[0] == name]
        if card is None:
            rows = []
            for one in mine:
                *counts, part = described(one)
                state = f"{one}, {part}" if part else one
                rows.append((*counts, "", _compare(one, args.data_dir), state))
            for row in rows or [("", "", "", "", "no")]:
                table.add_row(name, *row, "your own files")
            continue
        examples = sum(count for count, _ in card.counts.values())
        references = sum(count for _, count in card.counts.values())
        low, high = card.scale
        table.add_row(
            name,
            f"{examples:,}" if examples else "",
            f"{references:,}" if examples else "",
            f"{card.opinion} {low:g} to {high:g}",
            PROTOCOLS[card.comparable],
            (described(name)[2] or "yes") if mine else "no",
            card.url,
        )
    screen = console(width=200)
    screen.print(table)
    for line in partial:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    for name, opinion in OPINIONS.items():
        screen.print(f"{name}: {opinion.meaning}")
    return 0


def _compare(name: str, data_dir: str | None) -> str:
    """Over what the scores of a user's own prepared set compare, in words."""
    from spips_jax.data import DataError
    from spips_jax.data.sets import protocol
    from spips_jax.kinds import PROTOCOLS

    try:
        return PROTOCOLS[protocol(name, data_dir=data_dir)]
    except DataError:  # of an earlier version; to load it says what to do
        return "unknown"


_OPTIONS = {
    "pair_list": ("name", "csv", "direction", "comparable"),
    "synthetic": ("name", "photographs", "size", "tiles", "sample", "kinds"),
}
"""The options of sets that are made from one's own files; others have --manual_dir."""


def _prepare(args: argparse.Namespace) -> int:
    from spips_jax.commands import EXIT_ERROR, failed
    from spips_jax.data.sets import BUILDERS, prepare
    from spips_jax.progress import tracked_rows

    base = args.set.partition("/")[0]
    if base not in BUILDERS:
        raise UserError(one_of("set", base, BUILDERS))
    bad: list[str] = []

    def problem(line: str) -> None:
        bad.append(line)
        failed(line)

    folder = prepare(
        args.set,
        data_dir=args.data_dir,
        manual_dir=args.manual_dir,
        partial=args.partial,
        overwrite=args.overwrite,
        progress=tracked_rows,
        problem=problem,
        **_options(args, base),
    )
    print(folder)
    if bad:
        failed(f"{folder}: lacks the {len(bad):,} above, and has all others")
        return EXIT_ERROR
    return 0


def _options(args: argparse.Namespace, base: str) -> dict[str, Any]:
    """The options of a set's builder; raises for those that are of other sets."""
    every = sorted({name for names in _OPTIONS.values() for name in names})
    mine = _OPTIONS.get(base, ("manual_dir",))
    for name in (*every, "manual_dir"):
        if getattr(args, name) not in (None, False) and name not in mine:
            raise UserError(
                f"{base} takes no --{name}: its options are"
                f" {', '.join(f'--{one}' for one in mine)}"
            )
    named = args.set.partition("/")[2] or args.name
    options: dict[str, Any] = {"config": args.name} if args.name is not None else {}
    if base == "pair_list":
        if not (args.csv and named):
            raise UserError("a pair list needs --csv FILE and --name NAME")
        options["csv_file"] = args.csv
        for name in ("direction", "comparable"):
            if value := getattr(args, name):
                options[name] = value
    elif base == "synthetic":
        if args.photographs and not named:
            raise UserError("a set of your own photographs needs --name NAME")
        options |= {
            "photographs": args.photographs,
            "size": args.size,
            "tiles": args.tiles,
            "kinds": args.kinds or (),
            "sample": args.sample,
        }
    return options


def _show(args: argparse.Namespace) -> int:
    from spips_jax.data.sets import canonical, load
    from spips_jax.data.sheet import choose, write_sheet
    from spips_jax.outputs import check_files

    if args.count < 1:
        raise UserError(f"--count {args.count}: show one example at least")
    dataset = load(args.set, data_dir=args.data_dir, split=args.split)
    output = args.output or f"{canonical(args.set).replace('/', '-')}.png"
    check_files([output], option="--output")
    write_sheet(output, dataset, choose(dataset, args.count))
    print(output)
    return 0
