"""Heat maps of a comparison as a PNG that a person can read. Needs matplotlib."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spips_jax.files import replacing
from spips_jax.outputs import SOFTWARE
from spips_jax.streams import STREAMS

FUSED = "fused"
"""The map of the whole score; the others of its unit are those of the streams."""

HIDDEN = 0.2
"""A map whose largest value is below this share of the largest of all has a scale of
its own, unless it is even: on the common one it would be black."""

_COLUMNS = 3
_PANEL = 3.6  # inches


def draw_heat_maps(
    comparison: Any,
    *,
    reference: np.ndarray | None = None,
    distorted: np.ndarray | None = None,
    title: str = "",
) -> bytes:
    """Draws the maps of a comparison, beside its images where they are given, as a PNG.

    Of SPIPS: the map of the whole score, laid over the distorted image where that is
    given, and those of the streams. Of another metric all its maps. Maps share a scale
    that begins at 0, but one that it would hide has its own.

    Args:
      comparison: a `spips_jax.Comparison` of one pair, with maps.
      reference: `(H, W, 3)`, uint8 or floats in [0, 1].
      distorted: likewise.
      title: a line above it all.
    """
    # In the order of the network's; what `jax.jit` returns is sorted by name.
    streams = [name for name in STREAMS if name in comparison.maps]
    whole = FUSED in comparison.maps and bool(streams)
    names = [FUSED, *streams] if whole else list(comparison.maps)
    maps = {name: np.asarray(comparison.maps[name]) for name in names}
    images = {"reference": reference, "distorted": distorted}
    given = {name: image for name, image in images.items() if image is not None}

    height, width = next(iter([*maps.values(), *given.values()])).shape[:2]
    aspect = min(max(height / width, 0.3), 3.0)  # strips get margins, not endless pages
    columns = min(_COLUMNS, len(maps) + len(given))
    rows = -(-(len(maps) + len(given)) // columns)
    note = 0.4 if whole else 0.0
    # A panel has its colour bar at the right, a sixth of its width.
    size = (columns * _PANEL * 1.16, rows * (_PANEL * aspect + 0.4) + 0.45 + note)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # no window system, whatever the user's backend
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes, given.items(), strict=False):
        axis.imshow(_shown(image))
        axis.set_title(name, fontsize=10)
    tops = _scales(maps)
    for axis, (name, values) in zip(axes[len(given) :], maps.items(), strict=False):
        options: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": tops[name]}
        if name == FUSED and whole and distorted is not None:
            axis.imshow(_shown(distorted).mean(-1), cmap="gray")
            # What differs little shows the image, what differs much the colour.
            options["alpha"] = np.clip(values / tops[name], 0, 0.7)
        drawn = axis.imshow(values, **options)
        bar = figure.colorbar(drawn, ax=axis, shrink=0.85, pad=0.02, aspect=25)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
        bar.ax.tick_params(labelsize=7)
        axis.set_title(_title(name, comparison, whole=whole), fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    if whole:
        figure.supxlabel(
            "Each pixel's difference, 0 is none. A stream's number is the score if the"
            " images differed\nin that stream alone; they do not add up to the score.",
            fontsize=8,
        )
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": SOFTWARE})
    return file.getvalue()


def write_heat_maps(path: str | os.PathLike[str], comparison: Any, **more: Any) -> None:
    """Writes what `draw_heat_maps` draws, whole or not at all.

    Args:
      path: the PNG to write.
      comparison: as of `draw_heat_maps`, like the others.
      **more: its options.
    """
    content = draw_heat_maps(comparison, **more)
    with replacing(path) as partial:
        Path(partial).write_bytes(content)


def _shown(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1]."""
    scale = 255 if image.dtype == np.uint8 else 1
    return np.clip(np.asarray(image, np.float32) / scale, 0, 1)


def _scales(maps: dict[str, np.ndarray]) -> dict[str, float]:
    """The value that has the brightest colour, by map."""
    largest = {name: float(values.max()) for name, values in maps.items()}
    top = max(largest.values(), default=0.0) or 1.0
    scales = {}
    for name, values in maps.items():
        hidden = 0 < largest[name] < HIDDEN * top
        even = values.min() > largest[name] / 2
        scales[name] = largest[name] if hidden and not even else top
    return scales


def _title(name: str, comparison: Any, *, whole: bool) -> str:
    if name in comparison.streams:
        return f"{name} alone: {float(comparison.streams[name]):.4f}"
    if name == FUSED and whole:
        return f"the score: {float(comparison.score):.4f}"
    return name
