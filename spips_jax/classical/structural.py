"""PSNR, SSIM and MS-SSIM of the three colour channels, whose results are averaged.

The SSIM arithmetic is dm-pix's, with a faster filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    FILTER_SIGMA,
    FILTER_SIZE,
    blur,
    correlate,
    double,
    gaussian_window,
    halve_planes,
    mean,
    mean_of_channels,
    of_pairs,
    to_planes,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float

POWER_FACTORS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang, Simoncelli & Bovik 2003)."""

MAX_PSNR = 100.0
"""What `psnr` gives for identical images, in dB; beyond what 8-bit images reach."""

PSNR_EPSILON = 1e-6
"""Squared error at which the PSNR map starts to rise: 60 dB."""

CONTRAST_FLOOR = 1e-4
"""Least contrast-structure term in the MS-SSIM map.

The map raises it to powers far below 1, whose slope is infinite at 0; this bounds the
slope by 300.
"""


SSIM_K1 = 0.01
NO_LUMINANCE = 1e4
"""SSIM's constant K1, and one that swallows the luminances: their term becomes exactly
1 in float32, which leaves the contrast and structure terms."""


@of_pairs()
def psnr(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Peak signal-to-noise ratio `10 log10(1 / MSE)` in dB, `(...)`, higher is better.

    Capped at `MAX_PSNR`, where the gradient is zero, so that identical images have a
    finite value.

    >>> black = jnp.zeros((8, 8, 3))
    >>> round(float(psnr(black, black + 0.1)), 4), float(psnr(black, black))
    (20.0, 100.0)
    """
    return mse_to_psnr(jnp.square(reference - distorted).mean((-3, -2, -1)))


def mse_to_psnr(mse: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`psnr` in dB of mean squared errors `(...)`."""
    return -10.0 * jnp.log10(jnp.maximum(mse, 10.0 ** (-MAX_PSNR / 10)))


@of_pairs(min_size=FILTER_SIZE)
def ssim(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Structural similarity, `(...)` in [-1, 1], higher is better.

    Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004, eq. 13, averaged over all windows that lie inside the image.
    """
    return _mean_inside(_ssim_map(*map(to_planes, (reference, distorted)))).mean(-1)


@of_pairs(min_size=FILTER_SIZE)
def ms_ssim(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Multi-scale structural similarity, `(...)` in [0, 1], higher is better.

    Wang, Simoncelli & Bovik, "Multiscale structural similarity for image quality
    assessment", 2003, eq. 7, the mean of each scale raised to its power; negative means
    count as 0, as in the field's implementations. Uses as many of the five scales as
    leave the window inside the image; their powers are scaled to sum to 1.
    """
    terms = _scale_maps(*map(to_planes, (reference, distorted)))
    product = jnp.ones((), jnp.float32)
    for term, power in zip(terms, powers(len(terms)), strict=True):
        inside = _mean_inside(term)
        # The power's slope at 0 is infinite; keep it out of the gradient.
        positive = jnp.where(inside > 0, inside, 1.0)
        product = product * jnp.where(inside > 0, positive**power, 0.0)
    return product.mean(-1)


def squared_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """The mean over channels of the squared error, `(..., H, W)`."""
    return jnp.square(reference - distorted).mean(-1)


def psnr_quality(error: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """`log1p(e / 1e-6) / log1p(1 / 1e-6)` of squared errors `e`, at a pixel or pooled.

    That is 1 - PSNR / 60 dB, clamped smoothly at 0: in [0, 1], higher is worse.
    """
    quality = jnp.log1p(error / PSNR_EPSILON) / np.log1p(1 / PSNR_EPSILON)
    return quality.astype(jnp.float32)


def ssim_quality_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """`(1 - SSIM) / 2`, `(..., H, W)` in [0, 1], higher is worse."""
    similar = mean_of_channels(_ssim_map(*map(to_planes, (reference, distorted))))
    return jnp.maximum((1.0 - similar) / 2, 0.0)


def _ssim_map(
    reference: jax.Array, distorted: jax.Array, *, k1: float = 0.01, k2: float = 0.03
) -> jax.Array:
    """SSIM at each position of planes `(..., H, W)`, in their shape."""

    def filtered(images: jax.Array) -> jax.Array:
        return blur(images[..., 0], window)[..., None]

    window = gaussian_window(FILTER_SIZE, FILTER_SIGMA)
    shape = reference.shape
    value = dm_pix.ssim(
        *(planes.reshape(-1, *shape[-2:], 1) for planes in (reference, distorted)),
        k1=k1,
        k2=k2,
        return_map=True,
        filter_fn=filtered,
    )
    return value.reshape(shape)


def ssim_inside(
    x: Float[Array, "*batch h w"],
    y: Float[Array, "*batch h w"],
    *,
    k1: Any = SSIM_K1,
) -> Float[Array, "*batch h2 w2"]:
    """SSIM `(..., H - 10, W - 10)` in [-1, 1] at the windows inside `(..., H, W)`.

    `k1` is SSIM's constant K1, or that of each window.
    """

    def filtered(planes: jax.Array) -> jax.Array:
        planes = planes[..., 0]
        for axis in (-2, -1):
            planes = correlate(planes, window, axis)
        return planes

    window = gaussian_window(FILTER_SIZE, FILTER_SIGMA)
    shape = x.shape
    x, y = (planes.reshape(-1, *shape[-2:], 1) for planes in (x, y))
    value = dm_pix.ssim(x, y, k1=k1, return_map=True, filter_fn=filtered)
    return value.reshape(*shape[:-2], *value.shape[-2:])


def _contrast_structure_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """The product of SSIM's contrast and structure terms, of planes `(..., H, W)`."""
    # This k1 swallows the luminances: that term becomes exactly 1 in float32. XLA
    # computes the filters once where the SSIM map of the same images is wanted too.
    return _ssim_map(reference, distorted, k1=1e4)


def _scale_maps(reference: jax.Array, distorted: jax.Array) -> list[jax.Array]:
    """Wang 2003's terms of planes, fine to coarse: cs of each scale, SSIM of the last.

    Each is `(..., h, w)` with half the height and width of the one before, rounded up.
    """
    scales = num_scales(*reference.shape[-2:])
    terms = []
    for _ in range(scales - 1):
        terms.append(_contrast_structure_map(reference, distorted))
        reference, distorted = halve_planes(reference), halve_planes(distorted)
    return [*terms, _ssim_map(reference, distorted)]


def num_scales(height: int, width: int) -> int:
    """How many of MS-SSIM's five scales leave its window inside the image."""
    scales, side = 1, min(height, width)
    while scales < len(POWER_FACTORS) and (side + 1) // 2 >= FILTER_SIZE:
        scales, side = scales + 1, (side + 1) // 2
    return scales


def powers(scales: int) -> np.ndarray:
    """The exponents of so many scales, which sum to 1, `(scales,)` in [0, 1]."""
    powers = np.asarray(POWER_FACTORS[:scales])
    return (powers / powers.sum()).astype(np.float32)


def ms_ssim_quality_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """`1 - prod_j cs_j^b_j * l_M^b_M`, `(..., H, W)` in [0, 1], higher is worse."""
    # Collapsed coarse to fine, as a sum of logarithms.
    terms = _scale_maps(*map(to_planes, (reference, distorted)))
    logs = [
        float(power) * jnp.log(jnp.clip(term, CONTRAST_FLOOR, 1.0))
        for term, power in zip(terms, powers(len(terms)), strict=True)
    ]
    total = logs[-1]
    for finer in reversed(logs[:-1]):
        total = finer + double(total, *finer.shape[-2:])
    return -jnp.expm1(total).mean(-3)  # 1 - exp(total), never below 0


def _mean_inside(maps: jax.Array) -> jax.Array:
    """Mean over the windows inside the image: planes `(..., H, W)` to `(...)`."""
    return mean(maps, edge=FILTER_SIZE // 2)
