"""Filters and resampling that the classical metrics share.

Arrays are float32; `gaussian_filter` and `halve` take images `(..., H, W, C)`, the
others planes `(..., H, W)`, which XLA vectorises on CPUs where it does not vectorise
three channels side by side. The one matrix product, in `mean`, states its precision, so
no global setting reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce, wraps
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.linear import linear, there
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


def blur(
    planes: Float[Array, "*batch h w"], weights: tuple[float, ...]
) -> Float[Array, "*batch h w"]:
    """Symmetric weights along rows and columns of `(..., H, W)`, edges mirrored."""
    return blur_inside(mirror(planes, len(weights) // 2), weights)


def mirror(
    planes: Float[Array, "*batch h w"], border: int
) -> Float[Array, "*batch h2 w2"]:
    """`(..., H, W)` with a border of so many pixels, the edge pixel repeated."""
    return _mirror(_mirror(planes, border, -2), border, -1)


def blur_inside(
    planes: Float[Array, "*batch h w"], weights: tuple[float, ...]
) -> Float[Array, "*batch h2 w2"]:
    """Symmetric weights along rows and columns of `(..., H, W)`, where they fit in."""
    return _inside(_inside(planes, weights, -2), weights, -1)


def _inside_of(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    return correlate(there(x), weights, axis)


def _around_of(x: jax.Array, weights: tuple[float, ...], axis: int) -> jax.Array:
    return correlate(_pad(there(x), len(weights) - 1, axis), weights, axis)


_inside = linear(_inside_of, _around_of)


def _mirror_of(x: jax.Array, border: int, axis: int) -> jax.Array:
    return _pad(x, border, axis, mode="symmetric")


def _mirror_transpose(x: jax.Array, border: int, axis: int) -> jax.Array:
    """What the mirror read is added where it was read."""
    length = x.shape[axis] - 2 * border
    before, inside, after = (
        jax.lax.slice_in_dim(x, start, stop, axis=axis)
        for start, stop in (
            (0, border),
            (border, border + length),
            (border + length, length + 2 * border),
        )
    )
    before, after = jnp.flip(before, axis), jnp.flip(after, axis)
    if length < 2 * border:  # the edges overlap
        before = _pad(before, (0, length - border), axis)
        after = _pad(after, (length - border, 0), axis)
        return inside + before + after
    first, middle, last = jnp.split(inside, [border, length - border], axis=axis)
    return jnp.concatenate([first + before, middle, last + after], axis=axis)


_mirror = linear(_mirror_of, _mirror_transpose)


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


SMALL = 256
"""Sides up to so many pixels are resampled by matrix products, which compile faster
than shifts, and run as fast."""


def double(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation of `(..., h, w)` to twice the size, cut to a size."""
    return _double(_double(maps, height, -2), width, -1)


def _double(x: jax.Array, length: int, axis: int) -> jax.Array:
    if length <= SMALL:
        return _product(_doubling(x.shape[axis], length), x, axis)
    return _double_by_shifts(there(x), length, axis, x.shape[axis])


@cache
def _doubling(size: int, length: int) -> np.ndarray:
    """The matrix `(length, size)` of `double` along an axis."""
    identity = np.eye(size, dtype=np.float32)
    before, after = identity[[0, *range(size - 1)]], identity[[*range(1, size), -1]]
    pair = [0.75 * identity + 0.25 * before, 0.75 * identity + 0.25 * after]
    return np.stack(pair, axis=1).reshape(2 * size, size)[:length]


def halve_and_mirror(planes: jax.Array, border: int) -> jax.Array:
    """`mirror` of `halve_planes` of `(..., H, W)`."""
    if max(planes.shape[-2:]) > SMALL // 2:
        return mirror(halve_planes(planes), border)
    for axis in (-2, -1):
        planes = _product(_halving(planes.shape[axis], border), planes, axis)
    return planes


@cache
def _halving(length: int, border: int) -> np.ndarray:
    """The matrix `(length / 2 + 2 border, length)` of `halve_and_mirror`."""
    padded = np.arange(length + length % 2).clip(max=length - 1)
    identity = np.eye(length, dtype=np.float32)[padded]
    halves = (identity[::2] + identity[1::2]) / 2
    return np.pad(halves, [(border, border), (0, 0)], mode="symmetric")


def _product(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """A linear map along one of the last two axes."""
    equation = "ij,...jk->...ik" if axis == -2 else "ij,...kj->...ki"
    return jnp.einsum(equation, matrix, x, precision=jax.lax.Precision.HIGHEST)


def _doubled(x: jax.Array, length: int, axis: int, size: int) -> jax.Array:
    padded = _pad(x, 1, axis, mode="edge")
    before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
    axis = x.ndim + axis
    pair = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    doubled = jnp.stack(pair, axis=axis + 1).reshape(shape)
    return jax.lax.slice_in_dim(doubled, 0, length, axis=axis)


def _doubled_transpose(g: jax.Array, length: int, axis: int, size: int) -> jax.Array:
    axis = g.ndim + axis
    g = _pad(g, (0, 2 * size - length), axis)
    shape = (*g.shape[:axis], size, 2, *g.shape[axis + 1 :])
    even, odd = jnp.split(g.reshape(shape), 2, axis=axis + 1)
    even, odd = even.squeeze(axis + 1), odd.squeeze(axis + 1)
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    # An even position reads the one before, an odd one that after; at the edges itself.
    first, last = cut(even, 0, 1), cut(odd, size - 1, size)
    to_before = jnp.concatenate([cut(even, 1, size), last], axis=axis)
    to_after = jnp.concatenate([first, cut(odd, 0, size - 1)], axis=axis)
    return 0.75 * (even + odd) + 0.25 * (to_before + to_after)


_double_by_shifts = linear(_doubled, _doubled_transpose)


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


FLAT = 1e-5
"""Derivatives of images in [0, 1] up to this are rounding: they have no direction.

A step of 8-bit images is 4e-3; sums over 8x8 pixels in another order differ by 2e-6.
"""


def magnitude(x: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """`|x|` of derivatives; its gradient up to `FLAT` is 0."""
    return _flat_to_none(jnp.abs(x))


def _flat_to_none(size: jax.Array) -> jax.Array:
    """Sizes of derivatives, without a gradient where they are rounding."""
    return jnp.where(size > FLAT, size, jax.lax.stop_gradient(size))


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
    """Root of the sum of the squared `derivatives`, `(..., H, W)`, 0 or more.

    Its gradient up to `FLAT` is 0.
    """
    return _flat_to_none(hypotenuse(*derivatives(planes, operator)))


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
