"""Facts of a pair of images that scale its score: what changed everywhere at once.

A map of differences has no sign: it cannot tell more contrast, which people like, from
less. Facts are three signed numbers for a pair, of changes that an image has as a
whole, each 0 for identical images. They know nothing else of the scene: a fact of the
reference alone would let a head undo how hard a scene is, which helps on sets whose
scores compare only within a reference, and misleads everywhere else. That they scale
the score is our choice; arXiv 2504.17234 has no such facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from spips_jax.boxes import Canvas
from spips_jax.classical.filters import LUMA, mean, mix

if TYPE_CHECKING:
    from jaxtyping import Array, Float

FACTS = ("luminance", "contrast", "saturation")

FLOOR = 0.02
"""Least contrast and saturation, as shares of the range: about five levels of an 8-bit
image. It keeps ratios of flat images finite."""


def facts(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch 3"]:
    """The facts of a pair, `(..., H, W, 3)` to `(..., 3)`, in the order of `FACTS`.

    With Y the luma, m its mean and d = Y - m, each about -1 to 1 for visible changes:

    - luminance: 4 (m_y - m_x);
    - contrast: log((max(mean(d_x d_y), 0) + f) / (mean(d_x²) + f)), the logarithm of
      the slope of the regression of one luma on the other: noise leaves it alone,
      which raises the standard deviation;
    - saturation: half the log ratio of the means of (R - Y)² + (B - Y)², f added to
      both;

    f = `FLOOR`².

    Args:
      reference: images in [0, 1], x.
      distorted: images of the same shape, y.
    """
    mean_x, deviation_x, chroma_x = _moments(reference)
    mean_y, deviation_y, chroma_y = _moments(distorted)
    shared = mean(deviation_x * deviation_y)
    variance = mean(jnp.square(deviation_x))
    return _facts(mean_x, mean_y, variance, shared, chroma_x, chroma_y)


def _facts(
    mean_x: jax.Array,
    mean_y: jax.Array,
    variance: jax.Array,
    shared: jax.Array,
    chroma_x: jax.Array,
    chroma_y: jax.Array,
) -> jax.Array:
    contrast = _log_ratio(variance, shared)
    saturation = 0.5 * _log_ratio(chroma_x, chroma_y)
    return jnp.stack([4 * (mean_y - mean_x), contrast, saturation], axis=-1)


def fact_sums(canvas: Canvas) -> dict[str, Any]:
    """What `facts_of_sums` needs: sums over each image of a canvas `(..., C)`, in units
    of images in [0, 1].
    """
    images = canvas.images()
    luma = mix(images, LUMA)
    chroma = _chroma(images, luma)
    x, y = luma[..., None]
    return {
        "luma": canvas.boxes.moments(x, y),
        "chroma": canvas.boxes.sums(chroma).T,
    }


def facts_of_sums(sums: dict[str, Any]) -> Float[Array, "*batch 3"]:
    """`facts` in units of `(..., 3)` from the sums over whole images."""
    luma, chroma = sums["luma"], sums["chroma"]
    x, y, xx, yy, dd = (
        one[..., 0] for one in (luma.x, luma.y, luma.xx, luma.yy, luma.dd)
    )
    shared = (xx + yy - dd) / 2
    return _facts(
        x,
        y,
        xx / luma.count,
        shared / luma.count,
        chroma[..., 0] / luma.count,
        chroma[..., 1] / luma.count,
    )


def _chroma(images: jax.Array, luma: jax.Array) -> jax.Array:
    return jnp.square(images[..., 0] - luma) + jnp.square(images[..., 2] - luma)


def _log_ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """log(y / x), with a floor under both; negative values count as 0."""
    floor = FLOOR**2
    return jnp.log(jnp.maximum(y, 0.0) + floor) - jnp.log(x + floor)


def _moments(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean of Y, its deviation at each pixel, and the mean square of the chroma."""
    luma = mix(images, LUMA)
    average = mean(luma)
    deviation = luma - average[..., None, None]
    return average, deviation, mean(_chroma(images, luma))
