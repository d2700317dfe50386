"""Signed facts of a pair of images: was something raised or lowered, and by how much.

A map of differences cannot tell more contrast from less, though people like the one and
not the other. These are four numbers a pair, each 0 for identical images and of the
other sign if the two are swapped. SPIPS lets them scale its score (our choice).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

SIGNED = ("luminance", "contrast", "saturation", "sharpness")

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in the luma Y of ITU-R BT.601."""

FLOOR = 0.02
"""Least contrast, saturation and sharpness, as shares of the range: about five levels
of an 8-bit image. It keeps ratios of flat images finite."""


def signed_changes(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """What changed from `reference` to `distorted`, `(..., H, W, 3)` to `(..., 4)`.

    In the order of `SIGNED`, each about -1 to 1 for visible changes:

    - luminance: difference of the mean of the luma Y, times 4;
    - contrast: log ratio of the standard deviations of Y;
    - saturation: log ratio of the roots of the means of (R - Y)² + (B - Y)²;
    - sharpness: log ratio of the roots of the mean squared gradients of Y.

    Args:
      reference: images in [0, 1].
      distorted: of the same shape.
    """
    mean_x, *energies_x = _moments(reference)
    mean_y, *energies_y = _moments(distorted)
    ratios = [
        0.5 * (jnp.log(y + FLOOR**2) - jnp.log(x + FLOOR**2))
        for x, y in zip(energies_x, energies_y, strict=True)
    ]
    return jnp.stack([4 * (mean_y - mean_x), *ratios], axis=-1)


def _moments(images: jax.Array) -> tuple[jax.Array, ...]:
    """Mean of Y, and mean squares of its deviation, of the chroma, of its gradient."""
    red, green, blue = (images[..., channel] for channel in range(3))
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    mean = luma.mean((-2, -1), keepdims=True)
    chroma = jnp.square(red - luma) + jnp.square(blue - luma)
    across, down = (jnp.square(jnp.diff(luma, axis=axis)) for axis in (-1, -2))
    return (
        mean[..., 0, 0],
        jnp.square(luma - mean).mean((-2, -1)),
        chroma.mean((-2, -1)),
        across.mean((-2, -1)) + down.mean((-2, -1)),
    )
