"""Filters and resampling that the classical metrics share.

Arrays are float32; `gaussian_filter` and `halve` take images `(..., H, W, C)`, the
others planes `(..., H, W)`, which XLA vectorises on CPUs where it does not vectorise
three channels side by side. The one matrix product, in `mean`, states its precision, so
no global setting reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce, wraps
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.images import ImageError, check_images, check_same_size
from spips_jax.messages import UserError

if TYPE_CHECKING:
    from jaxtyping import Array, Float

FILTER_SIZE = 11
FILTER_SIGMA = 1.5
"""The Gaussian window of Wang et al. 2004, in pixels."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in the luma Y of ITU-R BT.601."""

YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Weights of R, G, B in Y, I and Q (NTSC), to the digits of HaarPSI's authors' code
and of piq."""

SCHARR = (3 / 16, 10 / 16)
PREWITT = (1 / 3, 1 / 3)
"""3x3 gradient operators: the weights of the outer and of the middle row."""


Measure = Callable[[jax.Array, jax.Array], jax.Array]
"""From a reference and a distorted image to a number."""


def of_pairs(*, min_size: int = 1) -> Callable[[Measure], Measure]:
    """Makes a function of two images raise where it would give a number that is none.

    That is `ImageError` for images that are not `(..., H, W, 3)`, smaller than
    `min_size`, of different sizes, not floating, not finite or not about [0, 1].
    """

    def checked(measure: Measure) -> Measure:
        @wraps(measure)
        def call(reference: jax.Array, distorted: jax.Array) -> jax.Array:
            check_pair(
                reference, distorted, min_size=min_size, needed_by=measure.__name__
            )
            return measure(reference, distorted)

        return call

    return checked


def check_pair(
    reference: jax.Array, distorted: jax.Array, *, min_size: int, needed_by: str
) -> None:
    """Raises `ImageError` as `of_pairs` says."""
    for name, images in (("reference", reference), ("distorted", distorted)):
        check_images(images, name=name, min_size=min_size, needed_by=needed_by)
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ImageError(
                f"{name} has dtype {images.dtype}: {needed_by} here takes floats in"
                " [0, 1]; divide by 255, or use spips_jax.load, which does"
            )
    check_same_size(reference.shape, distorted.shape)


def gaussian_filter(
    images: Float[Array, "*batch h w c"],
    *,
    filter_size: int = FILTER_SIZE,
    filter_sigma: float = FILTER_SIGMA,
) -> Float[Array, "*batch h w c"]:
    """Gaussian blur of `(..., H, W, C)` at the images' size, edges mirrored.

    The mirror repeats the edge pixel, as SciPy's and scikit-image's "reflect" does.
    Differentiable in reverse mode.

    Args:
      images: H and W are at least `filter_size // 2`.
      filter_size: side of the window in pixels, odd.
      filter_sigma: standard deviation in pixels, above 0.

    Raises:
      UserError: an argument is not as said here.
    """
    weights = gaussian_window(filter_size, filter_sigma)
    shortest = min(images.shape[-3:-1])
    if shortest < filter_size // 2:
        raise UserError(
            f"filter_size is {filter_size}, which needs {filter_size // 2} pixels to"
            f" mirror, and a side of the images is {shortest}: take a smaller one"
        )
    return of_planes(blur(to_planes(images), weights))


def to_planes(images: Float[Array, "*batch h w c"]) -> Float[Array, "*batch c h w"]:
    """From `(..., H, W, C)` to `(..., C, H, W)`."""
    return jnp.moveaxis(images, -1, -3)


def of_planes(planes: Float[Array, "*batch c h w"]) -> Float[Array, "*batch h w c"]:
    """From `(..., C, H, W)` to `(..., H, W, C)`."""
    return jnp.moveaxis(planes, -3, -1)


def mean(
    planes: Float[Array, "*batch h w"], *, edge: int = 0
) -> Float[Array, "*batch"]:
    """The mean of `(..., H, W)` over its positions, `(...)`.

    Args:
      planes: `(..., H, W)`.
      edge: how many rows and columns to leave out on each side.
    """
    # XLA on CPUs computes what a sum adds up, filters and all, once more for each
    # term, on one core and not vectorised: SSIM takes 17 times as long. It does not
    # look into a matrix product.
    for _ in range(2):
        count = planes.shape[-1] - 2 * edge
        weights = np.pad(np.full(count, 1 / count, np.float32), edge)
        planes = jnp.matmul(planes, weights, precision=jax.lax.Precision.HIGHEST)
    return planes


def mean_of_channels(
    planes: Float[Array, "*batch c h w"],
) -> Float[Array, "*batch h w"]:
    """The mean of `(..., C, H, W)` over its channels, `(..., H, W)`."""
    # Not as a sum over an axis, for the reason that `mean` has.
    channels = [planes[..., k, :, :] for k in range(planes.shape[-3])]
    return reduce(jnp.add, channels) / len(channels)


def gaussian_window(size: int, sigma: float) -> tuple[float, ...]:
    """Weights of a Gaussian, which sum to 1; `sigma` in pixels.

    Raises:
      UserError: `size` is not an odd number from 1 on, which alone has a centre, or
        `sigma` is not above 0 and finite.
    """
    if size != int(size) or size < 1 or size % 2 == 0:
        raise UserError(f"filter_size is {size}: take an odd number from 1 on")
    if not 0 < sigma < math.inf:
        raise UserError(f"filter_sigma is {sigma}: take a number above 0, in pixels")
    offsets = np.arange(size) - size // 2
    window = np.exp(-0.5 * (offsets / sigma) ** 2)
    return tuple(float(weight) for weight in window / window.sum())


# Inlined, so that programs are as without it, but one that blurs many planes of a size,
# as SSIM's do, is traced in a quarter less time.
@partial(jax.jit, static_argnums=1, inline=True)
def blur(
    planes: Float[Array, "*batch h w"], weights: tuple[float, ...]
) -> Float[Array, "*batch h w"]:
    """Symmetric weights along rows and columns of `(..., H, W)`, edges mirrored."""
    return _blur(_blur(planes, weights, -2), weights, -1)


# The blur is linear, and so is its transpose; each is the other's derivative. JAX would
# derive the same, but XLA takes ten times as long to run what it makes of the shifts
# below and three times as long to compile it.


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    """Symmetric weights along one axis, edges mirrored, at the size of `x`."""
    radius = len(weights) // 2
    return correlate(_there(_pad(x, radius, axis, mode="symmetric")), weights, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur_transpose(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    """The transpose of `_blur`: what the mirror read is added where it was read."""
    radius, length = len(weights) // 2, x.shape[axis]
    spread = correlate(_there(_pad(x, 2 * radius, axis)), weights, axis)
    before, inside, after = (
        jax.lax.slice_in_dim(spread, start, stop, axis=axis)
        for start, stop in (
            (0, radius),
            (radius, radius + length),
            (radius + length, length + 2 * radius),
        )
    )
    before, after = jnp.flip(before, axis), jnp.flip(after, axis)
    if length < 2 * radius:  # the edges overlap
        before = _pad(before, (0, length - radius), axis)
        after = _pad(after, (length - radius, 0), axis)
        return inside + before + after
    first, middle, last = jnp.split(inside, [radius, length - radius], axis=axis)
    return jnp.concatenate([first + before, middle, last + after], axis=axis)


_blur.defvjp(
    lambda x, weights, axis: (_blur(x, weights, axis), None),
    lambda weights, axis, _, g: (_blur_transpose(g, weights, axis),),
)
_blur_transpose.defvjp(
    lambda x, weights, axis: (_blur_transpose(x, weights, axis), None),
    lambda weights, axis, _, g: (_blur(g, weights, axis),),
)


def _there(x: jax.Array) -> jax.Array:
    """`x`, computed once: XLA pads it anew for each shift of it if it is not told."""
    return jax.lax.optimization_barrier(x)


def correlate(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
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


def halve(images: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c"]:
    """Mean of 2x2 blocks; an odd edge is repeated, so that nothing is lost."""
    return of_planes(halve_planes(to_planes(images)))


def halve_planes(planes: Float[Array, "*batch h w"]) -> Float[Array, "*batch h2 w2"]:
    """`halve` of `(..., H, W)`."""
    for axis in (-2, -1):
        if planes.shape[axis] % 2:
            planes = _pad(planes, (0, 1), axis, mode="edge")
    return average(planes, 2)


def double(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation of `(..., h, w)` to twice the size, cut to a size."""
    for axis, length in ((-2, height), (-1, width)):
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


def mix(
    images: Float[Array, "*batch h w 3"], weights: Sequence[float]
) -> Float[Array, "*batch h w"]:
    """Weighted sum of the colour channels: `(..., H, W, 3)` to `(..., H, W)`."""
    red, green, blue = (weights[k] * images[..., k] for k in range(3))
    return red + green + blue


def similarity(
    x: Float[Array, "*at"], y: Float[Array, "*at"], constant: float
) -> Float[Array, "*at"]:
    """`(2xy + c) / (x² + y² + c)`: 1 where x and y agree, less elsewhere."""
    # The same as the equation; exactly 1 where x equals y.
    return 1.0 - jnp.square(x - y) / (jnp.square(x) + jnp.square(y) + constant)


def root(x: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """Square root; its gradient at 0 and below, where it is not finite, is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def hypotenuse(x: Float[Array, "*at"], y: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """`sqrt(x^2 + y^2)`; its gradient where both are 0 is 0."""
    return root(jnp.square(x) + jnp.square(y))


def power(x: Float[Array, "*at"], exponent: float) -> Float[Array, "*at"]:
    """`x^exponent` of `x` from 0 on; its gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)


def pad(
    planes: jax.Array, before: int, after: int, *, mode: str = "constant"
) -> jax.Array:
    """`jnp.pad` of `(..., H, W)`: rows above and below, as many columns beside them."""
    sides = [(before, after)] * 2
    return jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + sides, mode=mode)


def derivatives(
    planes: Float[Array, "*batch h w"], operator: tuple[float, float]
) -> tuple[Float[Array, "*batch h w"], Float[Array, "*batch h w"]]:
    """Derivatives across and down by a 3x3 operator, `(..., H, W)` each, edges 0.

    They are in units of the planes; the sum of an operator's weights is 1.

    Args:
      planes: `(..., H, W)`.
      operator: `SCHARR` or `PREWITT`.
    """
    outer, middle = operator
    padded = pad(planes, 1, 1)
    # One direction after the other: the gradient of nine shifts at once takes XLA ten
    # times as long on CPUs.
    across = padded[..., 2:] - padded[..., :-2]
    across = outer * (across[..., :-2, :] + across[..., 2:, :]) + (
        middle * across[..., 1:-1, :]
    )
    down = padded[..., 2:, :] - padded[..., :-2, :]
    down = outer * (down[..., :-2] + down[..., 2:]) + middle * down[..., 1:-1]
    return across, down


def gradient_magnitude(
    planes: Float[Array, "*batch h w"], operator: tuple[float, float]
) -> Float[Array, "*batch h w"]:
    """Root of the sum of the squared `derivatives`, `(..., H, W)`, 0 or more."""
    return hypotenuse(*derivatives(planes, operator))


def average(
    planes: Float[Array, "*batch h w"], factor: int
) -> Float[Array, "*batch h2 w2"]:
    """Mean of blocks of `factor` x `factor`; rows and columns left over are dropped."""
    if factor == 1:
        return planes
    height, width = (side - side % factor for side in planes.shape[-2:])
    planes = planes[..., :height, :width]
    # On CPUs a tenth of the time of a mean over blocks, which XLA does not vectorise.
    rows = [planes[..., k::factor, :] for k in range(factor)]
    planes = reduce(jnp.add, rows)
    columns = [planes[..., k::factor] for k in range(factor)]
    return reduce(jnp.add, columns) / factor**2


def factor_for(height: int, width: int) -> int:
    """By how much FSIM, VSI and MDSI reduce images: the shorter side over 256."""
    return max(1, round(min(height, width) / 256))


def average_same(
    planes: Float[Array, "*batch h w"], factor: int
) -> Float[Array, "*batch h2 w2"]:
    """`average`, edges 0, where the first block is centred on the first pixel.

    That is MATLAB's `conv2(x, ones(f) / f^2, "same")` sampled at `1:f:end`: for a
    factor of 2 the same as `average`, but an odd edge is kept, averaged with zeros.
    """
    if factor == 1:
        return planes
    return average(pad(planes, (factor - 1) // 2, factor // 2), factor)


def shares(
    similar: Float[Array, "*batch h w"], weight: Float[Array, "*batch h w"]
) -> Float[Array, "*batch h w"]:
    """Each pixel's share of what a weighted mean of similarities lacks of 1, its mean.

    All are 0 where no pixel has any weight.
    """
    total = weight.mean((-2, -1), keepdims=True)
    return weight * (1.0 - similar) / jnp.where(total > 0, total, 1.0)


def enlarge(
    maps: Float[Array, "*batch h w"],
    factor: int,
    height: int,
    width: int,
    *,
    skip: int = 0,
) -> Float[Array, "*batch {height} {width}"]:
    """Undoes `average` for a map: each value fills its block, the last also beyond.

    Args:
      maps: `(..., h, w)`.
      factor: side of the blocks.
      height: of what is returned.
      width: likewise.
      skip: how many rows and columns of the first blocks lie outside the image:
        `(factor - 1) // 2` for `average_same`.
    """
    for axis, size in ((-2, height), (-1, width)):
        if factor > 1:
            maps = jnp.repeat(maps, factor, axis=axis)
        missing = skip + size - maps.shape[axis]
        if missing > 0:
            maps = _pad(maps, (0, missing), axis, mode="edge")
        maps = jax.lax.slice_in_dim(maps, skip, skip + size, axis=axis)
    return maps
