"""A contact sheet: examples of a set with their scores, as one PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spips_jax.agreement import OPINIONS
from spips_jax.data.dataset import Dataset
from spips_jax.files import replacing
from spips_jax.kinds import PROTOCOLS
from spips_jax.outputs import SOFTWARE


def choose(dataset: Dataset, count: int) -> list[int]:
    """Returns up to `count` positions that span the set's opinions, best first.

    They are evenly spaced in rank, as far as each can be of another reference and kind
    of distortion than those before: as many of both are shown as there is room for.
    """
    order = np.argsort(dataset.index[dataset.opinion], kind="stable")
    if OPINIONS[dataset.opinion].higher_is_better:
        order = order[::-1]
    columns = [
        dataset.index[name]
        for name in ("reference_id", "distortion")
        if name in dataset.index
    ]
    shown: list[set[Any]] = [set() for _ in columns]
    chosen: list[int] = []
    for part in np.array_split(order, min(count, len(order))):
        new = [
            sum(
                column[at] not in seen
                for column, seen in zip(columns, shown, strict=True)
            )
            for at in part
        ]
        # The middle of the part where none brings more than another; ends stay ends.
        best = [place for place, gain in enumerate(new) if gain == max(new)]
        if not chosen and new[0] == max(new):
            place = 0
        elif len(chosen) == min(count, len(order)) - 1 and new[-1] == max(new):
            place = len(part) - 1
        else:
            place = best[len(best) // 2]
        chosen.append(int(part[place]))
        for column, seen in zip(columns, shown, strict=True):
            seen.add(column[part[place]])
    return chosen


def write_sheet(
    path: str | os.PathLike[str],
    dataset: Dataset,
    positions: Sequence[int],
    *,
    columns: int = 4,
) -> None:
    """Writes a PNG with the examples at `positions`, `columns` in a row.

    Every example shows its images side by side, its id, distortion and opinion.
    Needs Matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    examples = [dataset[position] for position in positions]
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    height, width, _ = examples[0][dataset.images[0]].shape
    cell = 2.2 * len(dataset.images)
    figure = Figure(
        figsize=(
            columns * cell,
            rows * (2.2 * height / width + 0.5) + 0.8,
        ),
        dpi=100,
        layout="constrained",
    )
    figure.suptitle(
        f"{dataset.name}: {len(dataset)} examples, {len(dataset.references)} references"
        f"\n{dataset.opinion}: {OPINIONS[dataset.opinion].meaning}"
        f"\nscores compare {PROTOCOLS[dataset.comparable]}",
        fontsize=11,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example in zip(grid.flat, examples, strict=False):
        axes.imshow(_side_by_side([example[name] for name in dataset.images]))
        axes.set_title(_caption(dataset, example), fontsize=8)
    FigureCanvasAgg(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": SOFTWARE})


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Joins images with a white gap between them."""
    gap = np.full((images[0].shape[0], max(2, images[0].shape[1] // 32), 3), 255)
    parts = [part for image in images for part in (image, gap)][:-1]
    return np.concatenate(parts, axis=1).astype(np.uint8)


def _caption(dataset: Dataset, example: dict[str, Any]) -> str:
    name = example["id"]
    if len(name) > 32:
        name = "…" + name[-31:]
    opinion = f"{dataset.opinion} {example[dataset.opinion]:.4g}"
    if dataset.opinion == "level":
        return f"{name}\n{opinion}"
    return f"{name} {example['distortion']}\n{opinion}"
