"""`spips models`: which metrics there are, and where their weights are."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from spips_jax.commands.rows import json_line
from spips_jax.messages import UserError, one_of


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "models",
        help="list the models and where their weights are",
        description="List the metrics: whether they are trained, their taps"
        " (perceptual | semantic),\nwhether their weights are there, and how to get"
        " them. Or print the card of one\nthat comes trained with the package.",
        epilog="examples:\n  spips models\n  spips models spips-lite\n",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the model whose card to print"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line and a model"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from spips_jax.loading import NAMES

    if args.name is not None:
        return _print_card(args.name, as_json=args.json)
    rows = [describe(name) for name in NAMES]
    if args.json:
        for row in rows:
            print(json_line(row))
        return 0
    from rich.table import Table

    from spips_jax.cache import cache_folder
    from spips_jax.commands.tables import console

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
            _state(row, missing),
            f"spips convert --for {row['model']}" if missing else "",
        )
    screen = console(width=180)
    screen.print(table)
    screen.print(f"weights are looked for in {cache_folder()}")
    return 0


def _state(row: dict[str, Any], missing: Sequence[str]) -> str:
    if missing:
        return f"no {', '.join(missing)}"
    if not row["parameters"]:
        return "none needed"
    return "there" if row["files"] else "in the package"


def describe(name: str) -> dict[str, Any]:
    """What `spips models` says of a metric."""
    from spips_jax import backbones, loading, weights

    networks = loading.networks(name)
    shapes = [weights.expected_shapes(network) for network in networks]
    backbone = backbones.BACKBONES[networks[0]] if networks else None
    return {
        "model": name,
        "trained": loading.comes_trained(name) if networks else None,
        "parameters": sum(math.prod(s) for flat in shapes for s in flat.values()),
        "taps": [backbone.perceptual, backbone.semantic] if backbone else [],
        "files": [
            {
                "network": network,
                "file": str(weights.weights_path(network)),
                "there": weights.weights_path(network).is_file(),
                "command": weights.command_for(network),
            }
            for network in networks
            if network in weights.PUBLISHED
        ],
    }


def _print_card(name: str, *, as_json: bool) -> int:
    from spips_jax import model_file, weights
    from spips_jax.loading import NAMES

    if name not in NAMES:
        raise UserError(one_of("model", name, NAMES))
    file = weights.embedded(name)
    if file is None:
        cards = ", ".join(filter(weights.embedded, NAMES))
        raise UserError(f"{name} has no card, only {cards} have: they come trained")
    if as_json:
        print(json_line(model_file.read_card(file)))
    else:
        print(file.with_suffix(".md").read_text(encoding="utf-8"), end="")
    return 0
