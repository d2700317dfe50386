"""Figures of an evaluation as PNGs: scatter plots, bars, the worst disagreements."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spips_jax.agreement import Logistic
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.report import (
    NONE,
    called,
    part_statistics,
    parts_of,
    title_of,
)
from spips_jax.evaluation.scores import Candidate, declared
from spips_jax.files import replacing
from spips_jax.heatmaps import write_heat_maps
from spips_jax.kinds import PROTOCOLS

_DPI = 120

_MOST_BARS = 60
"""In a figure: 60 of them are 9 inches high."""


def write_scatter(
    path: str | os.PathLike[str],
    dataset: Dataset,
    scores: Mapping[str, np.ndarray],
    one: Mapping[str, Any],
) -> None:
    """Draws opinions over scores, one panel per metric, with the fitted logistic.

    Where the set's protocol does not compare opinions of different references, a line
    above says so of the curves.

    Args:
      path: the PNG, written whole or not at all.
      dataset: pairs whose opinion is one number per image.
      scores: `(N, 1)` by metric, all finite.
      one: what `results_of` says of the set.
    """
    found, main = one["models"], one["main"]
    columns = min(len(scores), 3)
    rows = -(-len(scores) // columns)
    figure = Figure(
        figsize=(3.9 * columns, 3.5 * rows + 0.5), dpi=_DPI, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    kinds = dataset.index["distortion"]
    names = sorted(set(kinds.tolist()))
    # At most ten colours can be told apart; more would mislead.
    coloured = 1 < len(names) <= 10
    for axis in axes[len(scores) :]:
        axis.set_axis_off()
    for axis, (label, values) in zip(axes, scores.items(), strict=False):
        x = values[:, 0].astype(np.float64)
        for number, name in enumerate(names if coloured else [""]):
            chosen = kinds == name if coloured else np.ones(len(x), bool)
            axis.plot(
                x[chosen], opinions[chosen], ".", markersize=3.5, alpha=0.5,
                color=f"C{number}", label=name or None, rasterized=True,
            )  # fmt: skip
        fit = found[label].get("fit_4")
        if fit:
            line = np.linspace(x.min(), x.max(), 300)
            axis.plot(line, Logistic(tuple(fit))(line), color="black", linewidth=1.6)
        value = found[label][main]
        words = [called(one, label)]
        if value is not None:
            words.append(f"{title_of(one, main)} {value['value']:.3f}")
        # The longer titles are wider than a panel.
        axis.set_title((", " if main == "srcc" else "\n").join(words), fontsize=10)
        axis.set_xlabel("score")
        axis.grid(alpha=0.3)
    for axis in axes[::columns]:
        axis.set_ylabel(dataset.opinion.upper())
    if one["comparable"] != "set":
        figure.suptitle(
            f"opinions compare {PROTOCOLS[one['comparable']]}:\nthe protocol does not"
            " support curves over all examples",
            fontsize=9,
        )
    if coloured:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(len(names), 5),
            fontsize=8,
            markerscale=2,
        )
    _save(figure, path)


def write_bars(
    path: str | os.PathLike[str], one: Mapping[str, Any], *, column: str, title: str
) -> None:
    """Draws the main statistic on each distortion or level, one bar per metric.

    Where these are more bars than fit a screen, they are numbers on colours. As in the
    tables, the overall one where no part has one within references.

    Args:
      path: the PNG, written whole or not at all.
      one: what `results_of` says of a set, whose metrics have `parts`.
      column: which parts.
      title: the figure's title, one line.
    """
    models = parts_of(one, column)
    (key, statistic), *_ = part_statistics(one, column)
    parts = list(next(iter(models.values())))
    if len(parts) * len(models) > _MOST_BARS:
        _write_matrix(path, one, column=column, title=title)
        return
    figure = Figure(
        figsize=(8.5, 0.9 + len(parts) * (0.14 + 0.11 * len(models))),
        dpi=_DPI,
        layout="constrained",
    )
    axis = figure.subplots()
    height = 0.8 / len(models)
    places = np.arange(len(parts))
    for number, (label, values) in enumerate(models.items()):
        lengths = [values[part][key] for part in parts]
        bars = places + (number - (len(models) - 1) / 2) * height
        axis.barh(
            bars,
            [np.nan if length is None else length for length in lengths],
            height=height,
            label=called(one, label),
            color=f"C{number}",
        )
        for place, length in zip(bars, lengths, strict=True):
            if length is None:  # a missing bar would be read as 0
                axis.text(0, place, f" {NONE}", va="center", fontsize=6)
    if "human" in one:
        human = one["human"]["parts"][column]
        axis.plot(
            [human[part] for part in parts], places, "k|", markersize=12,
            label="a person",
        )  # fmt: skip
    axis.set_yticks(places, parts, fontsize=8)
    axis.set_ylim(len(parts) - 0.5, -0.5)  # the first on top
    low = axis.get_xlim()[0]
    axis.set_xlim(0.5 if one["main"] == "two_afc" and low >= 0 else min(low, 0), 1)
    axis.set_xlabel(title_of(one, statistic))
    axis.set_title(title, fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9)
    _save(figure, path)


def _write_matrix(
    path: str | os.PathLike[str], one: Mapping[str, Any], *, column: str, title: str
) -> None:
    """What `write_bars` draws, as a table: a row each part, a column each metric."""
    models = parts_of(one, column)
    (key, statistic), *_ = part_statistics(one, column)
    parts = list(next(iter(models.values())))
    shown = {called(one, label): values for label, values in models.items()}
    columns = {
        name: [values[part][key] for part in parts] for name, values in shown.items()
    }
    if "human" in one:
        human = one["human"]["parts"][column]
        columns["a person"] = [human[part] for part in parts]
    table = np.array(list(columns.values()), np.float64).T  # None becomes NaN
    figure = Figure(
        figsize=(2.6 + 0.58 * len(columns), 1.6 + 0.24 * len(parts)),
        dpi=_DPI,
        layout="constrained",
    )
    axis = figure.subplots()
    low = 0.5 if one["main"] == "two_afc" else 0.0
    drawn = axis.imshow(table, cmap="viridis", vmin=low, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(table):
        text = NONE if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)
        dark = not np.isnan(value) and value < (low + 1) / 2
        colour = "white" if dark else "black"
        axis.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set_yticks(range(len(parts)), parts, fontsize=8)
    axis.set_xticks(
        range(len(columns)), list(columns), fontsize=8, rotation=45, ha="right"
    )
    figure.colorbar(drawn, ax=axis, label=title_of(one, statistic), pad=0.01)
    axis.set_title(title, fontsize=11)
    _save(figure, path)


def write_disagreement(
    path: str | os.PathLike[str],
    example: Mapping[str, Any],
    *,
    dataset: Dataset,
    candidate: Candidate,
    scores: Sequence[float],
    title: str,
) -> None:
    """Draws the images of an example side by side, with the maps of the metric.

    Args:
      path: the PNG, written whole or not at all.
      example: an example of the set.
      dataset: the set.
      candidate: the metric.
      scores: of the compared pairs.
      title: the figure's title.
    """
    compared = dataset.kind.compared
    first, _ = compared[0]
    reference = example[first]
    features = candidate.metric.features(
        declared(reference, candidate.value_range), value_range=candidate.value_range
    )
    parts = [
        jax.device_get(
            candidate.metric.explain(
                features,
                declared(example[name], candidate.value_range),
                value_range=candidate.value_range,
            )
        )
        for _, name in compared
    ]
    if len(compared) == 1:
        write_heat_maps(
            path,
            parts[0],
            reference=reference,
            distorted=example[compared[0][1]],
            title=title,
        )
        return
    # A single map is not fused; DISTS, which compares whole images, has no map.
    fused = [
        part.maps.get("fused", next(iter(part.maps.values()), None)) for part in parts
    ]
    _write_choice(
        path,
        [(first, reference)]
        + [
            (f"{name}: {score:.4f}", example[name])
            for (_, name), score in zip(compared, scores, strict=True)
        ],
        [] if any(m is None for m in fused) else [np.asarray(m) for m in fused],
        title=title,
    )


def _write_choice(
    path: str | os.PathLike[str],
    images: Sequence[tuple[str, np.ndarray]],
    maps: Sequence[np.ndarray],
    *,
    title: str,
) -> None:
    """A reference and the images to choose from, each above its map, on one scale."""
    height, width = images[0][1].shape[:2]
    rows = 2 if maps else 1
    panel = 3.2
    figure = Figure(
        figsize=(len(images) * panel, rows * (panel * height / width + 0.35) + 0.5),
        dpi=_DPI,
        layout="constrained",
    )
    axes = figure.subplots(rows, len(images), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (name, image) in zip(axes[0], images, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name, fontsize=10)
    if maps:
        top = max(float(one.max()) for one in maps) or 1.0
        for axis, one in zip(axes[1][1:], maps, strict=True):
            drawn = axis.imshow(one, cmap="inferno", vmin=0, vmax=top)
        figure.colorbar(
            drawn, ax=axes[1][0], location="left", shrink=0.8, label="difference"
        )
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    canvas = FigureCanvasAgg(figure)  # no window system, whatever the user's backend
    with replacing(path) as partial:
        canvas.print_png(partial)
