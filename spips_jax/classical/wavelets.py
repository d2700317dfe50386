"""HaarPSI: similarity of Haar wavelet coefficients."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    YIQ,
    average_same,
    enlarge,
    magnitude,
    mix,
    of_pairs,
    pad,
    similarity,
)
from spips_jax.classical.linear import linear, there

if TYPE_CHECKING:
    from jaxtyping import Array, Float

CONSTANT = 30 / 255**2
ALPHA = 4.2
SCALES = (1, 2, 3)
HAARPSI_MIN_SIZE = 16
"""The support of the coarsest filter, before halving."""

TOP = float(1 / (1 + np.exp(-ALPHA)))
"""The logistic function of `ALPHA`, which full similarity has."""


@of_pairs(min_size=HAARPSI_MIN_SIZE)
def haarpsi(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Haar wavelet-based perceptual similarity index, `(...)` in [0, 1], higher better.

    Reisenhofer, Bosse, Kutyniok & Wiegand, "A Haar wavelet-based perceptual similarity
    index for image quality assessment", Signal Processing: Image Communication 61,
    2018, eq. 10 to 12 with colour: `l` the logistic function with slope `a` = 4.2,

      HaarPSI = (l^-1(sum_k,p l(HS_k(p)) W_k(p) / sum_k,p W_k(p)))^2

    `HS` is, for rows and columns of the luma Y, the mean similarity `(2xy + c) / (x^2 +
    y^2 + c)`, c = 30 on the scale of 255, of the magnitudes of Haar coefficients at
    scales 1 and 2, and, for colour, of I and Q averaged over 2x2 pixels; `W` is the
    larger magnitude at scale 3, and for colour the mean of these. Images are halved by
    averaging first, and are 0 outside, an odd edge included, as in the authors' code.
    Images without any structure, such as two black ones, have HaarPSI 1; piq's is not
    finite there.
    """
    similar, _ = _sums(reference, distorted)
    return index_of(similar)


def haarpsi_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """Each pixel's share of what HaarPSI lacks, `(..., H, W)`, 0 or more.

    The mean over the image, in [0, 1], goes to 1 - HaarPSI by `haarpsi_quality`, for
    sizes that are even; a value stands for 2x2 pixels.
    """
    _, share = _sums(reference, distorted)
    return enlarge(share / (TOP - 0.5), 2, *reference.shape[-3:-1])


def haarpsi_quality(error: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """1 - HaarPSI of errors, at a pixel or their mean; errors above 1 count as 1."""
    return 1.0 - index_of(jnp.minimum(error, 1.0) * (TOP - 0.5))


def index_of(lacking: jax.Array) -> jax.Array:
    """HaarPSI in [0, 1] `(...)` from how much the mean of `l(HS)` is below `l(1)`."""
    # The difference of logarithms, taken from its value for images that agree: exact
    # there, where l(1) / (1 - l(1)) in float32 is not.
    change = jnp.log1p(-lacking / TOP) - jnp.log1p(lacking / (1 - TOP))
    return jnp.square(1.0 + change / ALPHA)


def _sums(reference: jax.Array, distorted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much the weighted mean of `l(HS)` lacks `(...)`, and each pixel's share of
    it at half the size, `(..., h, w)`, whose mean it is.
    """
    lacking, weight = lacking_and_weight(reference, distorted)
    total = weight.mean((-2, -1), keepdims=True)
    share = jnp.maximum(lacking / jnp.where(total > 0, total, 1.0), 0.0)
    return share.mean((-2, -1)), share


def lacking_and_weight(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> tuple[Float[Array, "*batch h2 w2"], Float[Array, "*batch h2 w2"]]:
    """At half the size `(..., h, w)`: how much `l(HS)` is below its largest value,
    weighted and summed over the three kinds of structure, 0 or more but for rounding;
    and the sum of these weights, 0 or more.
    """
    # Both images at once: half as much to compile.
    images = jnp.stack([reference, distorted])
    y, i, q = (average_same(mix(images, weights), 2) for weights in YIQ)
    weights, similarities = [], []
    # Written once, and so are the gradients that its transpose sums.
    coefficients = jnp.moveaxis(there(_coefficients(y)), -3, 0)
    for fine, middle, coarse in (coefficients[:3], coefficients[3:]):
        similarities.append((_similar(fine) + _similar(middle)) / 2)
        weights.append(jnp.maximum(magnitude(coarse[0]), magnitude(coarse[1])))
    chroma = [_similar(_quads(planes)) for planes in (i, q)]
    similarities.append((chroma[0] + chroma[1]) / 2)
    weights.append((weights[0] + weights[1]) / 2)
    lacking = [
        weight * (TOP - jax.nn.sigmoid(ALPHA * similar))
        for weight, similar in zip(weights, similarities, strict=True)
    ]
    return lacking[0] + lacking[1] + lacking[2], weights[0] + weights[1] + weights[2]


def _similar(pair: jax.Array) -> jax.Array:
    """Similarity of the magnitudes of two coefficients `(2, ...)`."""
    magnitudes = magnitude(pair)
    return similarity(magnitudes[0], magnitudes[1], CONSTANT)


def _coefficients_of(planes: jax.Array) -> jax.Array:
    """Haar coefficients of `(..., H, W)`, `(..., 6, H, W)`: by rows at scales 1 to 3,
    then by columns.

    At scale j they are the difference of the sums over the two halves of a square of
    `2^j` pixels, divided by `2^j`. The square starts `2^(j-1) - 1` before its pixel,
    as in MATLAB's `conv2(..., "same")`.
    """
    height, width = planes.shape[-2:]

    def window(x: jax.Array, row: int, column: int) -> jax.Array:
        return x[..., row : row + height, column : column + width]

    rows, columns = [], []
    square = pad(planes, 3, 4)  # sums over squares of `half` pixels
    for scale in SCALES:
        half, start = 2 ** (scale - 1), 4 - 2 ** (scale - 1)
        wide, tall = _longer(square, half, -1), _longer(square, half, -2)
        rows.append(
            (window(wide, start, start) - window(wide, start + half, start))
            / (2 * half)
        )
        columns.append(
            (window(tall, start, start) - window(tall, start, start + half))
            / (2 * half)
        )
        square = _longer(wide, half, -2)
    return jnp.stack([*rows, *columns], axis=-3)


def _coefficients_transpose(g: jax.Array) -> jax.Array:
    """A Haar filter turned round is itself with the other sign, a pixel earlier."""
    total = []
    for number, axis in enumerate([-2] * len(SCALES) + [-1] * len(SCALES)):
        half = 2 ** (SCALES[number % len(SCALES)] - 1)
        sums = pad(g[..., number, :, :], half, half - 1)
        step = 1
        while step < 2 * half:
            sums = _longer(sums, step, -3 - axis)
            sums = _longer(sums, step, axis) if step < half else sums
            step *= 2
        end = sums.shape[axis]
        first = jax.lax.slice_in_dim(sums, 0, end - half, axis=axis)
        second = jax.lax.slice_in_dim(sums, half, end, axis=axis)
        total.append((second - first) / (2 * half))
    return reduce(jnp.add, total)


def _longer(x: jax.Array, step: int, axis: int) -> jax.Array:
    """Sums over twice the length from sums over `step` pixels."""
    end = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, end - step, axis=axis)
    return first + jax.lax.slice_in_dim(x, step, end, axis=axis)


_coefficients = linear(_coefficients_of, _coefficients_transpose)


def _quads(planes: jax.Array) -> jax.Array:
    """Mean of a pixel and its neighbours to the right and below, 0 outside."""
    height, width = planes.shape[-2:]
    padded = pad(planes, 0, 1)
    return (
        (padded[..., :height, :width] + padded[..., 1:, :width])
        + (padded[..., :height, 1:] + padded[..., 1:, 1:])
    ) / 4
