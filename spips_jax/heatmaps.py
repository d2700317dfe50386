"""Heat maps of a comparison as a PNG that a person can read. Needs matplotlib."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spips_jax.files import replacing
from spips_jax.outputs import SOFTWARE
from spips_jax.spips import STREAMS, Comparison


def write_heat_maps(
    path: str | os.PathLike[str],
    *,
    reference: np.ndarray,
    distorted: np.ndarray,
    comparison: Comparison,
    title: str,
) -> None:
    """Draws both images and the maps of their difference on one colour scale.

    Args:
      path: the PNG to write, whole or not at all.
      reference: `(H, W, 3)`, uint8 or floats in [0, 1].
      distorted: likewise.
      comparison: of these two, from `Metric.explain`. Of SPIPS, its streams and their
        fusion are drawn, in the unit of the score; of another metric all maps.
      title: a line above it all.
    """
    names = [name for name in (*STREAMS, "fused") if name in comparison.maps]
    if len(names) < len(STREAMS) + 1:
        names = list(comparison.maps)
    maps = {name: np.asarray(comparison.maps[name]) for name in names}
    # One scale for all, from 0, so that the colours of two maps can be compared.
    top = max((float(m.max()) for m in maps.values()), default=0.0) or 1.0

    columns = 3
    rows = -(-(2 + len(maps)) // columns)
    height, width = reference.shape[:2]
    aspect = min(max(height / width, 0.3), 3.0)  # strips get margins, not endless pages
    panel = 3.6  # inches
    figure = Figure(
        figsize=(columns * panel + 0.9, rows * (panel * aspect + 0.35) + 0.5),
        dpi=120,
        layout="constrained",
    )
    canvas = FigureCanvasAgg(figure)  # no window system, whatever the user's backend
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, name, image in zip(
        axes, ("reference", "distorted"), (reference, distorted), strict=False
    ):
        axis.imshow(image if image.dtype == np.uint8 else image.clip(0, 1))
        axis.set_title(name, fontsize=10)
    drawn = None
    for axis, (name, values) in zip(axes[2:], maps.items(), strict=False):
        drawn = axis.imshow(values, cmap="inferno", vmin=0, vmax=top)
        part = {**comparison.streams, "fused": comparison.score}.get(name)
        label = name if part is None else f"{name} {float(part):.4f}"
        axis.set_title(label, fontsize=10)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=axes.tolist(), shrink=0.8, pad=0.01)
        bar.set_label("difference at each pixel, 0 is none")
    figure.suptitle(title, fontsize=11)

    with replacing(path) as partial:
        canvas.print_png(partial, metadata={"Software": SOFTWARE})
