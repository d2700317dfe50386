"""PSNR, SSIM and MS-SSIM of the three colour channels, whose results are averaged.

The SSIM arithmetic is dm-pix's, with a faster filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    FILTER_SIGMA,
    FILTER_SIZE,
    blur_inside,
    double,
    gaussian_window,
    halve_and_mirror,
    mean,
    mean_of_channels,
    mirror,
    of_pairs,
    to_planes,
)
from spips_jax.classical.linear import there

if TYPE_CHECKING:
    from jaxtyping import Array, Float

POWER_FACTORS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang, Simoncelli & Bovik 2003)."""

BORDER = FILTER_SIZE // 2
"""Pixels that SSIM's window reaches beyond its centre."""

MAX_PSNR = 100.0
"""What `psnr` gives for identical images, in dB; beyond what 8-bit images reach."""

PSNR_EPSILON = 1e-6
"""Squared error at which the PSNR map starts to rise: 60 dB."""

CONTRAST_FLOOR = 1e-4
"""Least contrast-structure term in the MS-SSIM map.

The map raises it to powers far below 1, whose slope is infinite at 0; this bounds the
slope by 300.
"""


SSIM_K1, SSIM_K2 = 0.01, 0.03
NO_LUMINANCE = 1e4
"""SSIM's constants K1 and K2, and a K1 that swallows the luminances: their term becomes
exactly 1 in float32, which leaves the contrast and structure terms."""


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
    similar = _mean_inside(ssim_of(_moments(_pair(reference, distorted))))
    return _by_channel(similar, reference).mean(-1)


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
    pair = _pair(reference, distorted)
    terms = _scale_maps(pair, _moments(pair))
    product = jnp.ones((), jnp.float32)
    for term, power in zip(terms, powers(len(terms)), strict=True):
        inside = _mean_inside(term)
        # The power's slope at 0 is infinite; keep it out of the gradient.
        positive = jnp.where(inside > 0, inside, 1.0)
        product = product * jnp.where(inside > 0, positive**power, 0.0)
    return _by_channel(product, reference).mean(-1)


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


def structural_errors(
    reference: Float[Array, "*batch h w 3"],
    distorted: Float[Array, "*batch h w 3"],
    *,
    names: Sequence[str] = ("ssim", "ms_ssim"),
) -> dict[str, Float[Array, "*batch h w"]]:
    """The maps "ssim" and "ms_ssim", `(..., H, W)` in [0, 1], higher is worse.

    Both from one pass over the images: SSIM's moments are those of MS-SSIM's first
    scale. `(1 - SSIM) / 2`, and `1 - prod_j cs_j^b_j * l_M^b_M`.
    """
    pair = _pair(reference, distorted)
    moments = _moments(pair)
    found = {}
    if "ssim" in names:
        similar = mean_of_channels(_by_channel(ssim_of(moments), reference))
        found["ssim"] = jnp.maximum((1.0 - similar) / 2, 0.0)
    if "ms_ssim" in names:
        # Collapsed coarse to fine, as a sum of logarithms.
        terms = _scale_maps(pair, moments)
        logs = [
            float(power) * jnp.log(jnp.clip(term, CONTRAST_FLOOR, 1.0))
            for term, power in zip(terms, powers(len(terms)), strict=True)
        ]
        total = logs[-1]
        for finer in reversed(logs[:-1]):
            total = finer + double(total, *finer.shape[-2:])
        # 1 - exp(total), never below 0.
        found["ms_ssim"] = mean_of_channels(_by_channel(-jnp.expm1(total), reference))
    return found


def moments_inside(
    x: Float[Array, "*batch h w"], y: Float[Array, "*batch h w"]
) -> Float[Array, "5 *batch h2 w2"]:
    """Means of x, y, x², y² and xy `(5, ..., H - 10, W - 10)`, in units of x and y.

    They are those of SSIM's windows inside planes `(..., H, W)`.
    """
    stacked = jnp.stack([x, y, jnp.square(x), jnp.square(y), x * y])
    return there(blur_inside(stacked, gaussian_window(FILTER_SIZE, FILTER_SIGMA)))


def _pair(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """Both images as planes `(2, N, H, W)`, for which there is less to compile.

    Leading dimensions and channels are one axis: XLA takes twice as long for the
    gradient of more axes, even of length 1.
    """
    planes = to_planes(jnp.stack([reference, distorted]))
    return planes.reshape(2, -1, *planes.shape[-2:])


def _by_channel(found: jax.Array, images: jax.Array) -> jax.Array:
    """From what was found of `_pair`, `(N, ...)`, to `(..., 3, ...)`."""
    return found.reshape(*images.shape[:-3], 3, *found.shape[1:])


def _moments(pair: jax.Array) -> jax.Array:
    """Those of windows at each position, edges mirrored."""
    return moments_inside(*there(mirror(pair, BORDER)))


def ssim_of(
    moments: Float[Array, "5 *batch h w"], *, k1: Any = SSIM_K1
) -> Float[Array, "*batch h w"]:
    """SSIM `(..., H, W)` in [-1, 1] from the moments of windows `(5, ..., H, W)`.

    Args:
      moments: of `moments_inside`.
      k1: SSIM's constant K1, or that of each window `(1, H, W)`.
    """
    # Its gradient computes it anew: a dozen planes less to keep.
    return there(jax.checkpoint(partial(_ssim_of, k1=k1))(moments))


def _ssim_of(moments: jax.Array, k1: Any) -> jax.Array:
    shape = moments.shape[1:]
    return _dm_pix_ssim(moments.reshape(5, -1, *shape[-2:]), k1).reshape(shape)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _dm_pix_ssim(moments: jax.Array, k1: Any) -> jax.Array:
    following = iter([one[..., None] for one in moments])
    # dm-pix filters x, y, x², y² and xy in this order.
    value = dm_pix.ssim(
        moments[0][..., None],
        moments[1][..., None],
        k1=k1 if isinstance(k1, float) else k1[..., None],
        return_map=True,
        filter_fn=lambda _: next(following),
    )
    return value[..., 0]


@_dm_pix_ssim.defjvp
def _(k1: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The slope of the equation itself.

    dm-pix keeps variances from falling below 0 and the covariance below their geometric
    mean. Rounding alone crosses these bounds, in windows that are flat, and beyond them
    the slope of the bounds is another than that of SSIM.
    """
    _, slope = jax.jvp(partial(_equation, k1=k1), primals, tangents)
    return _dm_pix_ssim(*primals, k1), slope


def _equation(moments: jax.Array, k1: Any) -> jax.Array:
    """Wang et al. 2004, eq. 13."""
    x, y, xx, yy, xy = moments
    c1, c2 = k1**2, SSIM_K2**2
    similar = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
    squares = jnp.square(x) + jnp.square(y)
    return similar / ((squares + c1) * (xx + yy - squares + c2))


def _scale_maps(pair: jax.Array, moments: jax.Array) -> list[jax.Array]:
    """Wang 2003's terms of planes, fine to coarse: cs of each scale, SSIM of the last.

    Each is `(..., h, w)` with half the height and width of the one before, rounded up.
    """
    scales = num_scales(*pair.shape[-2:])
    if scales == 1:
        return [ssim_of(moments)]
    pyramid: list[jax.Array] = []
    sizes: list[tuple[int, int]] = []
    for _ in range(scales - 1):
        pyramid.append(halve_and_mirror(pair, BORDER))
        pair = pyramid[-1][..., BORDER:-BORDER, BORDER:-BORDER]
        sizes.append((pair.shape[-2], pair.shape[-1]))
    coarse = moments_inside(*_sheet(pyramid))
    k1 = np.full((1, *coarse.shape[-2:]), NO_LUMINANCE, np.float32)
    places = _places(sizes)
    (top, left), (height, width) = places[-1], sizes[-1]
    k1[:, top : top + height, left : left + width] = SSIM_K1
    terms = ssim_of(coarse, k1=k1)
    return [
        ssim_of(moments, k1=NO_LUMINANCE),
        *(
            terms[..., top : top + height, left : left + width]
            for (top, left), (height, width) in zip(places, sizes, strict=True)
        ),
    ]


def _places(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where `_sheet` puts planes of these sizes and their borders."""
    top, left = 0, sizes[0][1] + 2 * BORDER
    places = [(0, 0)]
    for height, _ in sizes[1:]:
        places.append((top, left))
        top += height + 2 * BORDER
    return places


def _sheet(planes: Sequence[jax.Array]) -> jax.Array:
    """Planes of several sizes on one: the others in a column beside the first.

    One program then filters them all, which halves the time to compile.
    """
    first, *others = planes
    if not others:
        return first
    width = others[0].shape[-1]
    beside = jnp.concatenate(
        [_padded(one, one.shape[-2], width) for one in others], axis=-2
    )
    height = max(first.shape[-2], beside.shape[-2])
    return jnp.concatenate(
        [
            _padded(first, height, first.shape[-1]),
            _padded(beside, height, width),
        ],
        axis=-1,
    )


def _padded(planes: jax.Array, height: int, width: int) -> jax.Array:
    """With zeros below and to the right."""
    missing = [(0, height - planes.shape[-2]), (0, width - planes.shape[-1])]
    return jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + missing)


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


def _mean_inside(maps: jax.Array) -> jax.Array:
    """Mean over the windows inside the image: planes `(..., H, W)` to `(...)`."""
    return mean(maps, edge=BORDER)
