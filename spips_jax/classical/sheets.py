"""The classical maps and metrics of images on a canvas: sums over each image.

Every measure comes in two halves: `*_sums` sees a `spips_jax.boxes.Canvas` and returns
sums over the counted part of each image, `(S, ...)`; of an image in pieces they add up.
The second half turns the sums over whole images into the numbers `(...)`, in the ranges
and directions of `spips_jax.classical`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.boxes import BORDER, Boxes, Canvas
from spips_jax.classical.filters import mean_of_channels
from spips_jax.classical.gradients import gmsd_differences, mdsi_reduced_error
from spips_jax.classical.structural import (
    CONTRAST_FLOOR,
    NO_LUMINANCE,
    POWER_FACTORS,
    SSIM_K1,
    moments_inside,
    mse_to_psnr,
    powers,
    ssim_of,
)
from spips_jax.classical.wavelets import TOP, index_of, lacking_and_weight

Sums = dict[str, Any]

_POWERS = np.stack(
    [
        np.pad(powers(max(n, 1)), (0, len(POWER_FACTORS) - max(n, 1)))
        for n in range(len(POWER_FACTORS) + 1)
    ]
)
"""By the number of scales: each scale's power, 0 for those there are not."""


def error_sums(canvas: Canvas, *, names: Sequence[str]) -> Sums:
    """Sums of the errors of maps, for `mean_errors`.

    Args:
      canvas: images `(2, 3, H, W)` in [0, 1].
      names: keys of `ERRORS`.
    """
    sums: Sums = {"count": canvas.boxes.count()}
    if {"ssim", "ms_ssim"} & set(names):
        ssim, contrast = _finest(canvas)
        if "ssim" in names:
            error = jnp.maximum((1.0 - mean_of_channels(ssim)) / 2, 0.0)
            sums["ssim"] = canvas.boxes.sums(error)
        if "ms_ssim" in names:
            sums["ms_ssim"] = canvas.boxes.sums(_ms_ssim_error(canvas, contrast))
    for name in names:
        if name not in sums:
            sums[name] = ERRORS[name].sums(canvas)
    return sums


def mean_errors(sums: Sums, *, names: Sequence[str]) -> dict[str, jax.Array]:
    """The mean error over each image `(...)`, 0 or more, by map; see `error_sums`."""
    return {name: ERRORS[name].mean(sums[name], sums["count"]) for name in names}


def _finest(canvas: Canvas) -> tuple[jax.Array, jax.Array]:
    """SSIM's map and its contrast-structure part where images are, `(3, H, W)`."""
    x, y = canvas.pixels
    moments = moments_inside(x, y)
    maps = [ssim_of(moments, k1=k1) for k1 in (SSIM_K1, NO_LUMINANCE)]
    edge = [(0, 0), (BORDER, BORDER), (BORDER, BORDER)]
    return jnp.pad(maps[0], edge), jnp.pad(maps[1], edge)


def _coarse_terms(canvas: Canvas) -> jax.Array:
    """MS-SSIM's terms of the coarse scales, on their sheet `(3, h, w)`."""
    x, y = canvas.coarse
    scale = np.arange(2, len(POWER_FACTORS) + 1)
    last = canvas.scales[:, None] == scale[None]
    more = jnp.where(last, 0.0, NO_LUMINANCE - SSIM_K1).reshape(-1, 1)
    # Outside the images, too, it must not be 0: 0 / 0 would spoil the sums.
    k1 = SSIM_K1 + canvas.coarse_boxes.spread(more)[None, ..., 0]
    k1 = k1[:, BORDER:-BORDER, BORDER:-BORDER]
    edge = [(0, 0), (BORDER, BORDER), (BORDER, BORDER)]
    return jnp.pad(ssim_of(moments_inside(x, y), k1=k1), edge)


def _ms_ssim_error(canvas: Canvas, contrast: jax.Array) -> jax.Array:
    """`ms_ssim_quality_map` of images on a canvas, `(H, W)`."""
    by_scale = jnp.asarray(_POWERS)[canvas.scales]  # (S, 5)

    def log(terms: jax.Array, weights: jax.Array, boxes: Boxes) -> jax.Array:
        weights = boxes.spread(weights[:, None])[None, ..., 0]
        return weights * jnp.log(jnp.clip(terms, CONTRAST_FLOOR, 1.0))

    coarse = log(
        _coarse_terms(canvas), by_scale[:, 1:].reshape(-1), canvas.coarse_boxes
    )
    aligned = [canvas.boxes]
    for _ in range(len(POWER_FACTORS) - 1):
        aligned.append(aligned[-1].halved())
    total: jax.Array | None = None
    for scale in range(len(POWER_FACTORS) - 1, 0, -1):
        boxes = aligned[scale]
        here = _moved(coarse, canvas.coarse_boxes, boxes, scale - 1)
        total = here if total is None else here + total
        total = _double(total, boxes)
    finest = log(contrast, by_scale[:, 0], canvas.boxes)
    total = finest if total is None else finest + total
    return mean_of_channels(-jnp.expm1(total))


def _moved(coarse: jax.Array, sheet: Boxes, boxes: Boxes, scale: int) -> jax.Array:
    """A scale of all images, from the sheet to where the images are, `(3, h, w)`."""
    images = boxes.rows.begin.shape[0]
    begins = [
        span.begin.reshape(images, -1)[:, scale] for span in (sheet.rows, sheet.columns)
    ]
    shifts = jnp.stack(
        [begins[0] - boxes.rows.begin, begins[1] - boxes.columns.begin], axis=-1
    )
    shift = boxes.spread(shifts.astype(jnp.float32)).astype(jnp.int32)
    height, width = boxes.shape
    row = jnp.arange(height, dtype=jnp.int32)[:, None] + shift[..., 0]
    column = jnp.arange(width, dtype=jnp.int32)[None, :] + shift[..., 1]
    place = row * sheet.shape[1] + column
    flat = coarse.reshape(coarse.shape[0], -1)
    found = jnp.take(flat, place.reshape(-1), axis=1, mode="clip")
    return found.reshape(-1, height, width)


def _double(maps: jax.Array, boxes: Boxes) -> jax.Array:
    """`filters.double` of each image: beyond an edge its value goes on."""
    for axis in (-2, -1):
        first, last = (where[axis] for where in (boxes.first(), boxes.last()))
        if axis == -1:  # the rows are doubled already
            first, last = (jnp.repeat(mask, 2, axis=0) for mask in (first, last))
        first, last = first[None], last[None]
        before = jnp.where(first, maps, jnp.roll(maps, 1, axis))
        after = jnp.where(last, maps, jnp.roll(maps, -1, axis))
        pair = [0.75 * maps + 0.25 * before, 0.75 * maps + 0.25 * after]
        axis = maps.ndim + axis
        shape = (*maps.shape[:axis], 2 * maps.shape[axis], *maps.shape[axis + 1 :])
        maps = jnp.stack(pair, axis=axis + 1).reshape(shape)
    return maps


def _squared_sums(canvas: Canvas) -> jax.Array:
    x, y = canvas.pixels
    return canvas.boxes.sums(mean_of_channels(jnp.square(x - y)))


def _gmsd_sums(canvas: Canvas) -> jax.Array:
    """Of 1 - GMS, of which each value stands for 2x2 pixels."""
    return canvas.boxes.sums(gmsd_differences(*canvas.images()))


def _mdsi_sums(canvas: Canvas) -> jax.Array:
    assert canvas.reduced is not None  # `needs` says so
    return canvas.reduced.sums(mdsi_reduced_error(*canvas.reduced.images()))


def _haarpsi_sums(canvas: Canvas) -> Sums:
    lacking, weight = lacking_and_weight(*canvas.images())
    lacking = jnp.maximum(lacking, 0.0)
    half = canvas.boxes.halved()
    return {
        "enlarged": canvas.boxes.sums(lacking),
        "lacking": half.sums(lacking),
        "weight": half.sums(weight),
        "count": half.count(),
    }


def _haarpsi_mean(sums: Sums, count: jax.Array) -> jax.Array:
    share = sums["enlarged"] * sums["count"] / _or_one(sums["weight"]) / count
    return share / (TOP - 0.5)


def _or_one(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, total, 1.0)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of images on a canvas, in two halves.

    Attributes:
      sums: of a canvas, over each image.
      mean: of such sums, and of the number of pixels `(...)`: the measure `(...)`.
      needs: which parts of a canvas beside the images: "coarse", "reduced".
    """

    sums: Callable[[Canvas], Any]
    mean: Callable[[Any, jax.Array], jax.Array] = lambda sums, count: sums / count
    needs: frozenset[str] = frozenset()


ERRORS: dict[str, Measure] = {
    "psnr": Measure(sums=_squared_sums),
    "ssim": Measure(sums=lambda canvas: error_sums(canvas, names=["ssim"])["ssim"]),
    "ms_ssim": Measure(
        sums=lambda canvas: error_sums(canvas, names=["ms_ssim"])["ms_ssim"],
        needs=frozenset({"coarse"}),
    ),
    "gmsd": Measure(sums=_gmsd_sums),
    "mdsi": Measure(sums=_mdsi_sums, needs=frozenset({"reduced"})),
    "haarpsi": Measure(sums=_haarpsi_sums, mean=_haarpsi_mean),
}
"""The mean errors of maps that can be had on canvases, by their names in `MAPS`."""


def _psnr(sums: jax.Array, count: jax.Array) -> jax.Array:
    return mse_to_psnr(sums / count)


def _ssim_sums(canvas: Canvas) -> Sums:
    inside = canvas.boxes.inner(BORDER)
    ssim, _ = _finest(canvas)
    return {"sums": inside.sums(ssim).T, "count": inside.count()}


def _ssim(sums: Sums, count: jax.Array) -> jax.Array:
    return (sums["sums"] / sums["count"][..., None]).mean(-1)


def _ms_ssim_sums(canvas: Canvas) -> Sums:
    """By image, scale and channel."""
    images = len(canvas.scales)
    fine, coarse = (
        boxes.inner(BORDER) for boxes in (canvas.boxes, canvas.coarse_boxes)
    )
    _, contrast = _finest(canvas)
    first = fine.sums(contrast).T.reshape(images, 1, 3)
    rest = coarse.sums(_coarse_terms(canvas)).T.reshape(images, -1, 3)
    counts = [fine.count()[:, None], coarse.count().reshape(images, -1)]
    # Powers, not the number of scales: in sums over the pieces of an image they are a
    # multiple of what they are.
    return {
        "sums": jnp.concatenate([first, rest], axis=1),
        "count": jnp.concatenate(counts, axis=1),
        "powers": jnp.asarray(_POWERS)[canvas.scales],
    }


def _ms_ssim(sums: Sums, count: jax.Array) -> jax.Array:
    means = sums["sums"] / jnp.maximum(sums["count"], 1.0)[..., None]
    exponents = sums["powers"] / sums["powers"].sum(-1, keepdims=True)
    exponents = jnp.broadcast_to(exponents[..., None], means.shape)
    means = jnp.where(exponents > 0, means, 1.0)
    positive = jnp.where(means > 0, means, 1.0)
    return jnp.where(means > 0, positive**exponents, 0.0).prod(-2).mean(-1)


def _gmsd_moments(canvas: Canvas) -> Any:
    half = canvas.boxes.halved()
    differences = gmsd_differences(*canvas.images())[..., None]
    return half.moments(differences, jnp.zeros_like(differences))


def _gmsd(moments: Any, count: jax.Array) -> jax.Array:
    return jnp.sqrt(moments.xx[..., 0] / moments.count)


def _haarpsi(sums: Sums, count: jax.Array) -> jax.Array:
    return index_of(sums["lacking"] / _or_one(sums["weight"]))


METRICS: dict[str, Measure] = {
    "psnr": Measure(sums=_squared_sums, mean=_psnr),
    "ssim": Measure(sums=_ssim_sums, mean=_ssim),
    "ms_ssim": Measure(sums=_ms_ssim_sums, mean=_ms_ssim, needs=frozenset({"coarse"})),
    "gmsd": Measure(sums=_gmsd_moments, mean=_gmsd),
    "haarpsi": Measure(sums=_haarpsi_sums, mean=_haarpsi),
}
"""The metrics that can be had on canvases, by the names of their functions."""
