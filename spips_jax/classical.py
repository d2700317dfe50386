"""PSNR, SSIM and MS-SSIM: as numbers, and as the quality maps of SPIPS.

Images are float32 `(..., H, W, 3)` in [0, 1], RGB as stored; every function takes a
reference and a distorted one of the same shape and works on the three colour channels,
whose results are averaged. All of it is float32, with no matrix product, so no global
precision setting reaches it. The SSIM arithmetic is dm-pix's, with a faster filter.

The numbers (`psnr`, `ssim`, `ms_ssim`) follow the papers: higher is better. The maps
(`quality_maps`) are SPIPS's `Q = 1 - N(metric)`: in [0, 1], **lower is better**, the
size of the images. Their normalisations N are fixed functions, never a per-image
min-max, which would erase how strong a distortion is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float

FILTER_SIZE = 11
FILTER_SIGMA = 1.5
"""The Gaussian window of Wang et al. 2004, in pixels."""

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


def gaussian_filter(
    images: Float[Array, "*batch h w c"],
    *,
    filter_size: int = FILTER_SIZE,
    filter_sigma: float = FILTER_SIGMA,
) -> Float[Array, "*batch h w c"]:
    """Gaussian blur of `(..., H, W, C)` at the images' size, edges mirrored.

    The mirror repeats the edge pixel, as SciPy's and scikit-image's "reflect" does. H
    and W must be at least `filter_size // 2`. Differentiable in reverse mode.
    """
    offsets = np.arange(filter_size) - filter_size // 2
    window = np.exp(-0.5 * (offsets / filter_sigma) ** 2)
    weights = tuple(float(weight) for weight in window / window.sum())
    for axis in (-3, -2):
        images = _blur(images, weights, axis)
    return images


# The blur is linear, and so is its transpose; each is the other's derivative. JAX would
# derive the same, but XLA takes five times as long to run what it makes of the shifts
# below and three times as long to compile it.


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    """Symmetric weights along one axis, edges mirrored, at the size of `x`."""
    radius = len(weights) // 2
    return _correlate(_pad(x, radius, axis, mode="symmetric"), weights, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur_transpose(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    """The transpose of `_blur`: what the mirror read is added where it was read."""
    radius, length = len(weights) // 2, x.shape[axis]
    spread = _correlate(_pad(x, 2 * radius, axis), weights, axis)
    before, inside, after = (
        jax.lax.slice_in_dim(spread, start, stop, axis=axis)
        for start, stop in (
            (0, radius),
            (radius, radius + length),
            (radius + length, length + 2 * radius),
        )
    )
    before = _pad(jnp.flip(before, axis), (0, length - radius), axis)
    after = _pad(jnp.flip(after, axis), (length - radius, 0), axis)
    return inside + before + after


_blur.defvjp(
    lambda x, weights, axis: (_blur(x, weights, axis), None),
    lambda weights, axis, _, g: (_blur_transpose(g, weights, axis),),
)
_blur_transpose.defvjp(
    lambda x, weights, axis: (_blur_transpose(x, weights, axis), None),
    lambda weights, axis, _, g: (_blur(g, weights, axis),),
)


def _correlate(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    """Weighted sum of the shifts of `x` that lie inside it; `weights` are symmetric."""
    # XLA fuses the sum into one pass: at 256x256 a tenth of the time of dm-pix's own
    # convolutions.
    radius = len(weights) // 2
    length = x.shape[axis] - 2 * radius
    shifted = [
        jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k in range(len(weights))
    ]
    total = weights[radius] * shifted[radius]
    for k in range(radius):
        total = total + weights[k] * (shifted[k] + shifted[-1 - k])
    return total


def _pad(
    x: jax.Array, widths: int | tuple[int, int], axis: int, mode: str = "constant"
) -> jax.Array:
    """`jnp.pad` along one axis."""
    pairs = [(0, 0)] * x.ndim
    pairs[axis] = (widths, widths) if isinstance(widths, int) else widths
    return jnp.pad(x, pairs, mode=mode)


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
    mse = jnp.square(reference - distorted).mean((-3, -2, -1))
    return -10.0 * jnp.log10(jnp.maximum(mse, 10.0 ** (-MAX_PSNR / 10)))


def ssim(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Structural similarity, `(...)` in [-1, 1], higher is better.

    Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004, eq. 13, averaged over all windows that lie inside the image.
    """
    return _mean_inside(_ssim_map(reference, distorted)).mean(-1)


def ms_ssim(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Multi-scale structural similarity, `(...)` in [0, 1], higher is better.

    Wang, Simoncelli & Bovik, "Multiscale structural similarity for image quality
    assessment", 2003, eq. 7, the mean of each scale raised to its power; negative means
    count as 0, as in the field's implementations. Uses as many of the five scales as
    leave the window inside the image; their powers are scaled to sum to 1.
    """
    terms = _scale_maps(reference, distorted)
    product = jnp.ones((), jnp.float32)
    for term, power in zip(terms, _powers(len(terms)), strict=True):
        mean = _mean_inside(term)
        # The power's slope at 0 is infinite; keep it out of the gradient.
        positive = jnp.where(mean > 0, mean, 1.0)
        product = product * jnp.where(mean > 0, positive**power, 0.0)
    return product.mean(-1)


@dataclass(frozen=True, kw_only=True)
class QualityMap:
    """A classical map of SPIPS: all that the network knows of it.

    Attributes:
      error: maps two images `(..., H, W, 3)` in [0, 1] to what is averaged over the
        image, `(..., H, W)`, 0 or more, 0 where they agree.
      quality: maps an error, of a pixel or the mean of an image, to [0, 1]; increasing,
        0 at 0.
      min_size: smallest height and width, in pixels.
    """

    error: Callable[[jax.Array, jax.Array], jax.Array]
    quality: Callable[[jax.Array], jax.Array] = lambda error: error
    min_size: int = 1


def quality_maps(
    reference: Float[Array, "*batch h w 3"],
    distorted: Float[Array, "*batch h w 3"],
    *,
    names: Sequence[str] = ("psnr", "ssim", "ms_ssim"),
) -> dict[str, Float[Array, "*batch h w"]]:
    """The classical maps of SPIPS (arXiv 2504.17234, `Q = 1 - N(metric map)`).

    Args:
      reference: images `(..., H, W, 3)` in [0, 1].
      distorted: images of the same shape.
      names: keys of `MAPS`.

    Returns:
      The maps named, each `(..., H, W)` in [0, 1] for images in [0, 1], 0 where the
      images agree, higher is worse. With `e` the mean over channels of the squared
      error:

      - psnr: `log1p(e / 1e-6) / log1p(1 / 1e-6)`, that is 1 - PSNR / 60 dB, clamped
        smoothly at 0 (our choice);
      - ssim: `(1 - SSIM) / 2`;
      - ms_ssim: `1 - prod_j cs_j^b_j * l_M^b_M` (Wang et al. 2003, eq. 7) per pixel,
        the coarse scales interpolated to the images' size (our choice).
    """
    chosen = {name: MAPS[name] for name in names}
    return {
        name: map_.quality(map_.error(reference, distorted))
        for name, map_ in chosen.items()
    }


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


def _ssim_quality_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    return jnp.maximum((1.0 - _ssim_map(reference, distorted).mean(-1)) / 2, 0.0)


def _ssim_map(
    reference: jax.Array, distorted: jax.Array, *, k1: float = 0.01, k2: float = 0.03
) -> jax.Array:
    """SSIM per pixel and channel, `(..., H, W, 3)`."""
    shape = reference.shape  # dm-pix takes one leading dimension at most
    value = dm_pix.ssim(
        reference.reshape(-1, *shape[-3:]),
        distorted.reshape(-1, *shape[-3:]),
        k1=k1,
        k2=k2,
        return_map=True,
        filter_fn=gaussian_filter,
    )
    return value.reshape(shape)


def _contrast_structure_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """The product of SSIM's contrast and structure terms, `(..., H, W, 3)`."""
    # This k1 swallows the luminances: that term becomes exactly 1 in float32. XLA
    # computes the filters once where the SSIM map of the same images is wanted too.
    return _ssim_map(reference, distorted, k1=1e4)


def _scale_maps(reference: jax.Array, distorted: jax.Array) -> list[jax.Array]:
    """Wang 2003's terms per pixel, fine to coarse: cs of each scale, SSIM of the last.

    Each is `(..., h, w, 3)` with half the height and width of the one before, rounded
    up.
    """
    scales = num_scales(*reference.shape[-3:-1])
    terms = []
    for _ in range(scales - 1):
        terms.append(_contrast_structure_map(reference, distorted))
        reference, distorted = halve(reference), halve(distorted)
    return [*terms, _ssim_map(reference, distorted)]


def num_scales(height: int, width: int) -> int:
    """How many of MS-SSIM's five scales leave its window inside the image."""
    scales, side = 1, min(height, width)
    while scales < len(POWER_FACTORS) and (side + 1) // 2 >= FILTER_SIZE:
        scales, side = scales + 1, (side + 1) // 2
    return scales


def _powers(scales: int) -> np.ndarray:
    powers = np.asarray(POWER_FACTORS[:scales])
    return (powers / powers.sum()).astype(np.float32)


def halve(images: jax.Array) -> jax.Array:
    """Mean of 2x2 blocks; an odd edge is repeated, so that nothing is lost."""
    for axis in (-3, -2):
        if images.shape[axis] % 2:
            images = _pad(images, (0, 1), axis, mode="edge")
    *batch, h, w, c = images.shape
    return images.reshape(*batch, h // 2, 2, w // 2, 2, c).mean((-4, -2))


def _double(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation to twice the size, cut to `height` and `width`."""
    for axis, length in ((-3, height), (-2, width)):
        padded = _pad(maps, 1, axis, mode="edge")
        size = maps.shape[axis]
        before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        axis = maps.ndim + axis
        pair = [0.75 * maps + 0.25 * before, 0.75 * maps + 0.25 * after]
        shape = (*maps.shape[:axis], 2 * size, *maps.shape[axis + 1 :])
        maps = jnp.stack(pair, axis=axis + 1).reshape(shape)
        maps = jax.lax.slice_in_dim(maps, 0, length, axis=axis)
    return maps


def _ms_ssim_quality_map(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """1 - product over scales, collapsed coarse to fine as a sum of logarithms."""
    terms = _scale_maps(reference, distorted)
    logs = [
        float(power) * jnp.log(jnp.clip(term, CONTRAST_FLOOR, 1.0))
        for term, power in zip(terms, _powers(len(terms)), strict=True)
    ]
    total = logs[-1]
    for finer in reversed(logs[:-1]):
        total = finer + _double(total, *finer.shape[-3:-1])
    return -jnp.expm1(total).mean(-1)  # 1 - exp(total), never below 0


MAPS: dict[str, QualityMap] = {
    # PSNR's is averaged before the logarithm: a mean of logarithms cannot tell a few
    # large errors from many small ones.
    "psnr": QualityMap(error=squared_error, quality=psnr_quality),
    "ssim": QualityMap(error=_ssim_quality_map, min_size=FILTER_SIZE),
    "ms_ssim": QualityMap(error=_ms_ssim_quality_map, min_size=FILTER_SIZE),
}
"""The classical maps that `Spips` can take, by name."""


def _mean_inside(maps: jax.Array) -> jax.Array:
    """Mean over the windows inside the image: `(..., H, W, C)` to `(..., C)`."""
    edge = FILTER_SIZE // 2
    return maps[..., edge:-edge, edge:-edge, :].mean((-3, -2))
