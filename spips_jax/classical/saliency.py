"""VSI: similarity of visual saliency, gradient magnitude and chroma."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    SCHARR,
    average,
    enlarge,
    factor_for,
    gradient_magnitude,
    mix,
    of_pairs,
    pad,
    power,
    root,
    shares,
    similarity,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float

LMN = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))
"""Weights of R, G, B in L, M and N."""

XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.9642119944211994, 1.0, 0.8251882845188288)
"""X, Y, Z of the illuminant D50, which the authors' code takes with sRGB."""

SIDE = 256
"""Side of the square on which saliency is computed, whatever the image's shape."""

OMEGA, SIGMA_RADIAL = 0.021, 1.34
"""Centre frequency and bandwidth of SDSP's log-Gabor filter."""

SIGMA_CENTRE = 145.0
SIGMA_COLOUR = 0.001

C1 = 1.27
C2, C3 = 386.0, 130.0
ALPHA, BETA = 0.40, 0.02

VSI_MIN_SIZE = 3
"""One window of the gradients; values are finite from 2 on."""


@of_pairs(min_size=VSI_MIN_SIZE)
def vsi(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Visual saliency-induced index, `(...)` in [0, 1], higher is better.

    L. Zhang, Shen & Li, "VSI: a visual saliency-induced index for perceptual image
    quality assessment", IEEE TIP 23(10), 2014, eq. 5 to 9: with `S(x, y, c) = (2xy + c)
    / (x^2 + y^2 + c)`, `VS` the saliency (`sdsp`), `G` the Scharr gradient magnitude
    of L, and M, N chroma, on the scale of 255,

      VSI = sum S(VS_r, VS_d, 1.27) S(G_r, G_d, 386)^0.4
                [S(M_r, M_d, 130) S(N_r, N_d, 130)]^0.02 VS_m / sum VS_m

    with `VS_m` the larger of both; of a negative product the power's real part counts.
    All maps are first reduced by the rounded quotient of the image's shorter side and
    256, by averaging, edges repeated. Symmetric. Images without any saliency, such as
    flat ones, have VSI 1 whatever their colours.

    So it is in piq. In the authors' MATLAB code the maps are 0 outside the image,
    blocks start a pixel later for an even factor, quotients of 2.5, 4.5 and so on are
    rounded up, not to the even number, and flat images give no number.
    """
    return 1.0 - _shares(reference, distorted)[0].mean((-2, -1))


def vsi_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """Each pixel's share of 1 - VSI, `(..., H, W)`, 0 or more.

    The mean over the image is 1 - VSI where the factor of the reduction is 1. Else the
    first blocks lie in part outside the image, and it is off by some 1e-5 to 1e-4.
    """
    share, factor = _shares(reference, distorted)
    height, width = reference.shape[-3:-1]
    return enlarge(share, factor, height, width, skip=factor // 2)


def _shares(reference: jax.Array, distorted: jax.Array) -> tuple[jax.Array, int]:
    """Shares at the reduced size, and the factor of the reduction."""
    factor = factor_for(*reference.shape[-3:-1])
    # Not as one batch: the gradient in one image would go through both.
    vs_r, vs_d = (_reduce(sdsp(one), factor) for one in (reference, distorted))
    (l_r, l_d), (m_r, m_d), (n_r, n_d) = (
        [_reduce(255.0 * mix(one, weights), factor) for one in (reference, distorted)]
        for weights in LMN
    )
    g_r, g_d = (gradient_magnitude(luma, SCHARR) for luma in (l_r, l_d))
    chroma = similarity(m_r, m_d, C3) * similarity(n_r, n_d, C3)
    turned = jnp.where(chroma < 0, math.cos(math.pi * BETA), 1.0)
    similar = (
        similarity(vs_r, vs_d, C1)
        * similarity(g_r, g_d, C2) ** ALPHA
        * (turned * power(jnp.abs(chroma), BETA))
    )
    return shares(similar, jnp.maximum(vs_r, vs_d)), factor


def _reduce(planes: jax.Array, factor: int) -> jax.Array:
    sides = factor // 2, (factor - 1) // 2
    return average(pad(planes, *sides, mode="edge"), factor)


def sdsp(images: Float[Array, "*batch h w 3"]) -> Float[Array, "*batch h w"]:
    """Saliency by simple priors, `(..., H, W)` in [0, 1]; larger is more salient.

    L. Zhang, Gu & Li, "SDSP: a novel saliency detection method by combining simple
    priors", ICIP 2013: the product of three priors, that what stands out by frequency
    (a log-Gabor filter of CIELAB), what lies at the centre and what has warm colours is
    salient, scaled to [0, 1] for each image. It is computed on a square of 256 pixels;
    images are brought to it by bilinear interpolation between pixels' centres without
    smoothing, and saliency back from corner to corner, as in piq. The authors' MATLAB
    code smooths as it reduces, goes back between centres too, and has the white to
    four digits. A flat image has saliency 0.

    Args:
      images: `(..., H, W, 3)` in [0, 1].
    """
    height, width = images.shape[-3:-1]
    for axis, size in ((-3, height), (-2, width)):
        at = np.maximum((np.arange(SIDE) + 0.5) * size / SIDE - 0.5, 0.0)
        images = _interpolate(images, at, axis)
    lab = jnp.stack(_lab(images))
    lab = lab - lab.mean((-2, -1), keepdims=True)  # the filter does not see it

    spectrum = jnp.fft.rfft2(lab)
    gabor = jnp.asarray(_log_gabor(), lab.dtype)
    gabor = gabor.reshape((1,) * (lab.ndim - 2) + gabor.shape)
    filtered = jnp.fft.irfft2(spectrum * gabor, s=(SIDE, SIDE))
    frequency = root(jnp.square(filtered).sum(0))

    offsets = np.arange(SIDE) - SIDE / 2 + 1
    bell = np.exp(-(offsets**2) / SIGMA_CENTRE**2)
    middle = jnp.asarray(bell, lab.dtype)
    leading = (1,) * (lab.ndim - 3)
    centre = middle.reshape(*leading, SIDE, 1) * middle.reshape(*leading, 1, SIDE)

    warmth = jnp.square(_stretch(lab[1])) + jnp.square(_stretch(lab[2]))
    colour = -jnp.expm1(-warmth / SIGMA_COLOUR**2)
    saliency = frequency * centre * colour
    for axis, size in ((-2, height), (-1, width)):
        at = np.arange(size) * ((SIDE - 1) / (size - 1))
        saliency = _interpolate(saliency, at, axis)
    return _stretch(saliency)


def _stretch(planes: jax.Array) -> jax.Array:
    """Scales `(..., H, W)` to [0, 1]; flat ones to 0."""
    low, high = (
        end(planes, axis=(-2, -1), keepdims=True) for end in (jnp.min, jnp.max)
    )
    span = high - low
    return (planes - low) / jnp.where(span > 0, span, 1.0)


def _interpolate(x: jax.Array, at: np.ndarray, axis: int) -> jax.Array:
    """Linear interpolation at positions along an axis."""
    size = x.shape[axis]
    if len(at) == size and np.array_equal(at, np.arange(size)):
        return x
    at = np.minimum(at, size - 1)
    before = np.floor(at).astype(np.int32)
    after = np.minimum(before + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = len(at)
    share = jnp.asarray(at - before, x.dtype).reshape(shape)
    first, second = (
        jnp.take(x, index, axis=axis, mode="clip", indices_are_sorted=True)
        for index in (before, after)
    )
    # Exact where both are equal: flat images stay flat.
    return first + share * (second - first)


def _lab(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CIELAB's L, a, b of sRGB images in [0, 1]."""
    dark = images <= 0.04045
    bright = jnp.where(dark, 1.0, images)
    linear = jnp.where(dark, images / 12.92, ((bright + 0.055) / 1.055) ** 2.4)
    roots = []  # by power: XLA's cube root takes seven times as long on CPUs
    for weights, white in zip(XYZ, WHITE, strict=True):
        value = mix(linear, weights) / white
        small = value <= 0.008856
        large = jnp.where(small, 1.0, value)
        roots.append(jnp.where(small, (903.3 * value + 16) / 116, large ** (1 / 3)))
    x, y, z = roots
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _log_gabor() -> np.ndarray:
    """The filter in the frequency domain, of the half that real images have."""
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    radius = np.hypot(down, across)
    inside = (radius > 0) & (radius <= 0.5)
    logarithm = np.log(np.where(inside, radius, 1.0) / OMEGA)
    return np.where(inside, np.exp(-(logarithm**2) / (2 * SIGMA_RADIAL**2)), 0.0)
