"""The table and the chart of what speed.py measured.

python benchmarks/table.py speed.json --chart speed.png    # again, from its --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import numpy as np

COLUMNS = ("case", "ours", "peer", "its", "ratio", "middle half", "rounds", "of floor")
ROW = "| {:<37} | {:>8} | {:<27} | {:>8} | {:>5} | {:>14} | {:>6} | {:>8} |"
OPERATIONS, BYTES = 2.0 * cases.SIDE**3, 2.0 * cases.COPIED
"""Of the rows `machine/matmul` and `machine/copy`, which reads and writes."""

ALIKE = 0.01
"""By how much numbers that should be the same may differ before a note says so."""


def heading(result: dict[str, Any]) -> str:
    """Where and with what, and the head of the table."""
    versions = ", ".join(f"{name} {what}" for name, what in result["versions"].items())
    machine = f"{result['processor']}, load {result['load']:.1f} at the start"
    head = ROW.format(*COLUMNS)
    rule = "|".join("-" * len(cell) for cell in head.split("|"))
    return f"{result['date']}, {machine}\n{versions}\n\n{head}\n{rule}"


def ratios(row: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Ours over each peer that was measured: of medians, and the middle half.

    The middle half is of the ratios of single rounds.
    """
    mine, *others = row["sides"].items()
    found = {}
    for name, side in others:
        count = min(len(mine[1]["rounds"]), len(side["rounds"]))
        if count:
            ours = np.array(mine[1]["rounds"][:count])
            theirs = np.array(side["rounds"][:count])
            low, high = np.quantile(ours / theirs, [0.25, 0.75])
            found[name] = (float(np.median(ours) / np.median(theirs)), low, high)
    return found


def floor_share(result: dict[str, Any], row: dict[str, Any]) -> float | None:
    """The least time that the machine needs for a row's work, over the time it took.

    The machine's rates are the best that any side reached, in `machine/` rows.
    """
    best = {}
    for other in result["rows"]:
        rounds = [r for side in other["sides"].values() for r in side["rounds"]]
        if other["case"].startswith("machine/") and rounds:
            best[other["case"].partition("/")[2]] = min(rounds)
    ours = next(iter(row["sides"].values()))["rounds"]
    if "work" not in row or not ours or {"matmul", "copy"} - set(best):
        return None
    arithmetic = row["work"]["operations"] * best["matmul"] / OPERATIONS
    memory = row["work"]["bytes"] * best["copy"] / BYTES
    return float(max(arithmetic, memory) / np.median(ours))


def quantity(side: dict[str, Any]) -> str:
    """The median of a side with its unit."""
    if not side["rounds"]:
        return "failed"
    median = float(np.median(side["rounds"]))
    if side["unit"] != "s":
        return f"{median:.0f} {side['unit']}"
    return f"{1e3 * median:.3g} ms" if median < 0.9995 else f"{median:.3g} s"


def lines(result: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    """A row of the table for each peer, or one for none."""
    (_, mine), *others = row["sides"].items()
    share, found = floor_share(result, row), ratios(row)
    share_text = "" if share is None else f"{100 * share:.0f} %"
    for name, side in others or [("", None)]:
        ratio = found.get(name)
        yield ROW.format(
            row["case"],
            quantity(mine),
            name,
            quantity(side) if side else "",
            f"{ratio[0]:.2f}" if ratio else "",
            f"{ratio[1]:.2f} to {ratio[2]:.2f}" if ratio else "",
            len(mine["rounds"]),
            share_text,
        )


def notes(result: dict[str, Any]) -> Iterator[str]:
    """What failed, and what should be the same and is not."""
    for row in result["rows"]:
        mine = next(iter(row["sides"].values()))
        for name, side in row["sides"].items():
            if "error" in side:
                yield f"{row['case']}, {name}: {side['error']}"
            ours, theirs = mine.get("value"), side.get("value")
            if not row["alike"] or ours is None or theirs is None:
                continue
            if abs(theirs - ours) > ALIKE * abs(ours):
                yield f"{row['case']}: ours gives {ours:.5g}, {name} {theirs:.5g}"
        if "floor_error" in row:
            yield f"{row['case']}, its floor: {row['floor_error']}"


def draw(result: dict[str, Any], path: str) -> None:
    """A panel for each kind of work: ratios as points, the middle half as a bar."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    panels: dict[str, list[tuple[str, str, tuple[float, float, float]]]] = {}
    for row in result["rows"]:
        group, *rest = row["case"].split("/")
        networks = ("spips", "lpips", "dists")
        if group in ("score", "gradient"):
            group += " of networks" if rest[0].startswith(networks) else " of others"
        if group in ("machine", "training", "compile"):
            continue  # no peer does the same work
        for peer, ratio in ratios(row).items():
            panels.setdefault(group, []).append((" ".join(rest), peer, ratio))
    names = sorted(panels, key=lambda name: -len(panels[name]))
    if not names:
        print(f"no case has a peer that was measured: {path} is not drawn")
        return
    heights = [0, 0, 0]
    columns: list[list[str]] = [[], [], []]
    for name in names:  # into the shortest column
        place = int(np.argmin(heights))
        columns[place].append(name)
        heights[place] += len(panels[name]) + 5
    figure = Figure(figsize=(19, 0.19 * max(heights) + 1), layout="constrained")
    colours: dict[str, str] = {}
    for column, subfigure in zip(columns, figure.subfigures(1, 3), strict=True):
        if not column:
            continue
        sizes = [len(panels[name]) + 3 for name in column]
        grid = subfigure.subplots(
            len(column), squeeze=False, gridspec_kw={"height_ratios": sizes}
        )
        for name, axes in zip(column, grid[:, 0], strict=True):
            points = panels[name]
            for place, (_, peer, (middle, low, high)) in enumerate(points):
                key = peer.split()[0].rstrip(",")
                colour = colours.setdefault(key, f"C{len(colours)}")
                axes.plot([low, high], [place, place], color=colour, alpha=0.4, lw=4)
                axes.plot(middle, place, "o", color=colour, ms=4)
            labels = [f"{what} / {peer}" for what, peer, _ in points]
            axes.set_yticks(range(len(points)), labels, fontsize=7)
            axes.set_ylim(len(points) - 0.3, -0.7)
            axes.axvline(1, color="black", lw=0.8)
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            limits = [value for _, _, three in points for value in (*three, 1.0)]
            powers = range(
                int(np.floor(np.log2(min(limits)))),
                int(np.ceil(np.log2(max(limits)))) + 1,
            )
            step = 1 + len(powers) // 7  # labels must not overlap; 1 has one
            shown = [2.0**power for power in powers if power % step == 0]
            axes.set_xticks(shown)
            axes.set_xticklabels(f"{x:g}" if x >= 1 else f"1/{1 / x:g}" for x in shown)
            axes.grid(axis="x", alpha=0.3)
            axes.set_title(name, fontsize=9, loc="left")
    figure.suptitle(
        f"ours / peer; left of 1 ours takes less ({result['processor']},"
        f" {result['date']})"
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints and draws again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", help="what speed.py --json wrote")
    parser.add_argument("--chart", metavar="FILE")
    args = parser.parse_args()
    result = json.loads(Path(args.result).read_text())
    print(heading(result))
    for row in result["rows"]:
        print("\n".join(lines(result, row)))
    print("\n".join(notes(result)))
    if args.chart:
        draw(result, args.chart)


if __name__ == "__main__":
    main()
