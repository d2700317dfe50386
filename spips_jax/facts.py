"""Facts of a pair of images that scale its score: signed changes, and texture.

A map of differences has no sign: it cannot tell more contrast, which people like, from
less. Nor does it show whether the scene hides a difference, as grass hides noise
(visual masking). Facts are seven numbers for a pair: signed changes, each 0 for
identical images and of opposite sign if the two are swapped, and how much texture the
reference has. That they scale the score is our choice; arXiv 2504.17234 says only that
the scene comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spips_jax.classical.filters import LUMA, gaussian_filter, halve, mix

if TYPE_CHECKING:
    from jaxtyping import Array, Float

SIGNED = ("luminance", "contrast", "saturation", "sharpness", "fineness")
SCENE = ("fine_texture", "coarse_texture")
FACTS = (*SIGNED, *SCENE)

FLOOR = 0.02
"""Least contrast, saturation and sharpness, as shares of the range: about five levels
of an 8-bit image. It keeps ratios of flat images finite."""

BAND_FLOOR = 1e-5
"""Least mean square of a band: about one level of an 8-bit image."""

BAND_MIDDLE = 1e-3
"""A typical mean square of a band of a photograph, where its texture is 0."""


def facts(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch 7"]:
    """The facts of a pair, `(..., H, W, 3)` to `(..., 7)`, in the order of `FACTS`.

    The signed changes from `reference` to `distorted`, each about -1 to 1 for visible
    ones:

    - luminance: difference of the mean of the luma Y, times 4;
    - contrast: log ratio of the standard deviations of Y;
    - saturation: log ratio of the roots of the means of (R - Y)² + (B - Y)²;
    - sharpness: log ratio of the roots of the mean squared gradients of Y;
    - fineness: log ratio of the roots of the mean squares of Y's finest band, less that
      of the band two octaves below: noise raises it, blur lowers it.

    The texture of the reference, each about -1 to 1 for photographs:

    - fine_texture, coarse_texture: decadic logarithms of the mean squares of these two
      bands, 0 at 1e-3.

    A band is the difference between Y and Y blurred by a Gaussian of 5 pixels, sigma 1;
    the blurred Y is then halved, as in the Laplacian pyramid (Burt & Adelson, 1983).

    Args:
      reference: images in [0, 1].
      distorted: images of the same shape.
    """
    mean_x, *energies_x = _moments(reference)
    mean_y, *energies_y = _moments(distorted)
    bands_x, bands_y = _bands(reference), _bands(distorted)
    contrast, saturation, sharpness = (
        _log_ratio(x, y, FLOOR**2) for x, y in zip(energies_x, energies_y, strict=True)
    )
    fine, coarse = (
        _log_ratio(x, y, BAND_FLOOR) for x, y in zip(bands_x, bands_y, strict=True)
    )
    texture = [jnp.log10((band + BAND_FLOOR) / BAND_MIDDLE) for band in bands_x]
    luminance = 4 * (mean_y - mean_x)
    return jnp.stack(
        [luminance, contrast, saturation, sharpness, fine - coarse, *texture], axis=-1
    )


def _log_ratio(x: jax.Array, y: jax.Array, floor: float) -> jax.Array:
    """log(rms_y / rms_x) of two mean squares x and y, with a floor under both."""
    return 0.5 * (jnp.log(y + floor) - jnp.log(x + floor))


def _moments(images: jax.Array) -> tuple[jax.Array, ...]:
    """Mean of Y, and mean squares of its deviation, of the chroma, of its gradient."""
    luma = mix(images, LUMA)
    mean = luma.mean((-2, -1), keepdims=True)
    chroma = jnp.square(images[..., 0] - luma) + jnp.square(images[..., 2] - luma)
    across, down = (jnp.square(jnp.diff(luma, axis=axis)) for axis in (-1, -2))
    return (
        mean[..., 0, 0],
        jnp.square(luma - mean).mean((-2, -1)),
        chroma.mean((-2, -1)),
        across.mean((-2, -1)) + down.mean((-2, -1)),
    )


def _bands(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean squares of the finest band of Y and of the one two octaves below."""
    energies = []
    level = mix(images, LUMA)[..., None]
    for _ in range(3):
        blurred = gaussian_filter(level, filter_size=5, filter_sigma=1.0)
        energies.append(jnp.square(level - blurred).mean((-3, -2, -1)))
        level = halve(blurred)
    return energies[0], energies[2]
