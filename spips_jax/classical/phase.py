"""FSIM and FSIMc: similarity of phase congruency and gradient magnitude."""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    SCHARR,
    YIQ,
    average,
    enlarge,
    factor_for,
    gradient_magnitude,
    hypotenuse,
    mix,
    of_pairs,
    power,
    root,
    shares,
    similarity,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float

SCALES, ORIENTATIONS = 4, 4
ANGLES = tuple(k * math.pi / ORIENTATIONS for k in range(ORIENTATIONS))
MIN_WAVELENGTH = 6
"""Of the finest log-Gabor filter, in pixels; each of the others has twice the last."""

SIGMA_RADIAL = 0.55
"""Spread of a filter over its centre frequency."""

SIGMA_ANGULAR = math.pi / ORIENTATIONS / 1.2
CUTOFF, ORDER = 0.45, 15
"""Of the Butterworth low-pass filter that keeps the corners of the spectrum out."""

NOISE_DEVIATIONS = 2.0
NOISE_SCALE = 1 / 1.7
"""The noise threshold: standard deviations beyond the mean, and a factor by which it
was found too large."""

EPSILON = 1e-6
"""Keeps quotients of responses finite, on the scale of 255: far below one level, above
what float32 makes of a flat image."""

T1 = 0.85
T2, T3, T4 = 160.0, 200.0, 200.0
LAMBDA = 0.03

FSIM_MIN_SIZE = 16
"""Below, not even the second finest filter's wavelength fits into the image; values are
finite from 2 on."""


@of_pairs(min_size=FSIM_MIN_SIZE)
def fsim(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Feature similarity index of the luma, `(...)` in [0, 1], higher is better.

    L. Zhang, L. Zhang, Mou & D. Zhang, "FSIM: a feature similarity index for image
    quality assessment", IEEE TIP 20(8), 2011, eq. 4 to 9: with `S(x, y, t) = (2xy + t)
    / (x^2 + y^2 + t)`, `PC` the phase congruency (`phase_congruency`) and `G` the
    Scharr gradient magnitude of Y (of YIQ, on the scale of 255),

      FSIM = sum S(PC_r, PC_d, 0.85) S(G_r, G_d, 160) PC_m / sum PC_m

    with `PC_m` the larger of both. Images are first reduced by the rounded quotient of
    their shorter side and 256, by averaging blocks; rows and columns left over are
    dropped. Symmetric. A flat image has congruency 1 everywhere, so that two of them
    have FSIM 1 but for their edges, outside of which gradients see 0.

    So it is in piq. The authors' MATLAB code centres the blocks and counts zeros
    outside the image, which is the same for a factor of 1, and of 2 for even sizes;
    rounds quotients of 2.5, 4.5 and so on up, not to the even number; and gives no
    number for flat images.
    """
    return 1.0 - _shares(reference, distorted, chroma=False)[0].mean((-2, -1))


@of_pairs(min_size=FSIM_MIN_SIZE)
def fsimc(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """FSIM with chroma, `(...)` in [0, 1], higher is better.

    Zhang et al. 2011, eq. 12: `fsim`, the similarity at each pixel times `|S(I_r, I_d,
    200) S(Q_r, Q_d, 200)|^0.03`, as in piq. The authors' code takes the real part of
    the power where the product is negative, which differs by a factor of cos(0.03 pi) =
    0.996, and has the weights of I and Q to three digits.
    """
    return 1.0 - _shares(reference, distorted, chroma=True)[0].mean((-2, -1))


def fsim_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """Each pixel's share of 1 - FSIM, `(..., H, W)`, 0 or more.

    The mean over the image is 1 - FSIM where both sides divide by the factor of the
    reduction; else the rows and columns left over, which repeat the last, count too.
    """
    return _error(reference, distorted, chroma=False)


def fsimc_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """Each pixel's share of 1 - FSIMc, `(..., H, W)`, 0 or more; see `fsim_error`."""
    return _error(reference, distorted, chroma=True)


def _error(reference: jax.Array, distorted: jax.Array, *, chroma: bool) -> jax.Array:
    share, factor = _shares(reference, distorted, chroma=chroma)
    return enlarge(share, factor, *reference.shape[-3:-1])


def _shares(
    reference: jax.Array, distorted: jax.Array, *, chroma: bool
) -> tuple[jax.Array, int]:
    """Shares at the reduced size, and the factor of the reduction."""
    factor = factor_for(*reference.shape[-3:-1])
    luma, *colours = (
        [average(255.0 * mix(one, weights), factor) for one in (reference, distorted)]
        for weights in YIQ
    )
    # Not as one batch: the gradient in one image would go through both.
    pc_r, pc_d = (phase_congruency(one) for one in luma)
    g_r, g_d = (gradient_magnitude(one, SCHARR) for one in luma)
    similar = similarity(pc_r, pc_d, T1) * similarity(g_r, g_d, T2)
    if chroma:
        (i_r, i_d), (q_r, q_d) = colours
        product = similarity(i_r, i_d, T3) * similarity(q_r, q_d, T4)
        similar = similar * power(jnp.abs(product), LAMBDA)
    return shares(similar, jnp.maximum(pc_r, pc_d)), factor


def phase_congruency(
    planes: Float[Array, "*batch h w"],
) -> Float[Array, "*batch h w"]:
    """Phase congruency, `(..., H, W)` in [0, 1]: larger where Fourier components of
    all scales are in phase, as at edges and lines, whatever their contrast.

    Kovesi, "Image features from phase congruency", Videre 1(3), 1999, in the form of
    Zhang et al. 2011, eq. 1 to 3: with the responses `(e, o)` of even and odd log-Gabor
    filters of 4 scales at 4 orientations, `A` their amplitudes,

      PC = sum_o max(E_o - T_o, 0) / sum_o,s A_os

    `E` is the sum over scales of the responses' projections on their mean direction
    less their distance from it, and `T` the threshold that noise rarely exceeds,
    estimated from the median energy of the finest scale. The median of an even number
    of values is the lower middle one, as in piq; MATLAB's is the mean of both. The
    image repeats beyond its edges.

    Args:
      planes: luma `(..., H, W)` on the scale of 255.
    """
    height, width = planes.shape[-2:]
    leading = (1,) * (planes.ndim - 2)
    # No filter sees the mean; without it float32 loses less, and flat images are 0.
    spectrum = jnp.fft.fft2(planes - planes.mean((-2, -1), keepdims=True))
    radial, angle = _polar(height, width, planes.dtype)

    def add(
        sums: tuple[jax.Array, jax.Array], at: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        """Adds the energy and the amplitudes of one orientation."""
        orientation, scale = at
        turned = spectrum * _angular(angle, orientation, jnp).reshape(
            *leading, height, width
        )
        responses = [
            jnp.fft.ifft2(turned * one.reshape(*leading, height, width))
            for one in radial
        ]
        even, odd = [x.real for x in responses], [x.imag for x in responses]
        squares = [
            jnp.square(e) + jnp.square(o) for e, o in zip(even, odd, strict=True)
        ]
        sum_even, sum_odd = reduce(jnp.add, even), reduce(jnp.add, odd)
        length = hypotenuse(sum_even, sum_odd) + EPSILON
        along, across = sum_even / length, sum_odd / length
        energy = sum_even * along + sum_odd * across
        for e, o in zip(even, odd, strict=True):
            energy = energy - jnp.abs(e * across - o * along)
        # The energy of noise is the median's: chi-squared with two degrees of freedom.
        threshold = scale * root(_lower_median(squares[0]))
        energy = jnp.maximum(energy - threshold[..., None, None], 0.0)
        amplitude = reduce(jnp.add, [root(one) for one in squares])
        return (sums[0] + energy, sums[1] + amplitude), None

    # A loop, which compiles in less time than its steps written out, and needs half
    # the memory.
    orientations = jnp.asarray(ANGLES, planes.dtype)
    scales = jnp.asarray(_noise_scales(height, width), planes.dtype)
    nothing = jnp.zeros_like(planes)
    (energy, amplitude), _ = jax.lax.scan(
        add, (nothing, nothing), (orientations, scales)
    )
    return (energy + EPSILON) / (amplitude + EPSILON)


def _frequencies(size: int) -> np.ndarray:
    """Frequencies in the order of the Fourier transform; an odd size divides by one
    less than itself, as in the authors' code.
    """
    return np.fft.ifftshift(np.arange(size) - size // 2) / (size - size % 2)


def _polar(
    height: int, width: int, dtype: jnp.dtype
) -> tuple[list[jax.Array], jax.Array]:
    """Radial parts of the filters by scale, and the angle of frequencies, `(H, W)`."""
    # Computed where they are used: as constants they would be part of every program.
    down, across = jax.lax.optimization_barrier(
        (
            jnp.asarray(_frequencies(height), dtype)[:, None],
            jnp.asarray(_frequencies(width), dtype)[None],
        )
    )
    return _polar_of(down, across, jnp)


def _polar_of(down: Any, across: Any, xp: Any) -> tuple[list[Any], Any]:
    """The same of frequencies `(H, 1)` and `(1, W)`, in NumPy or JAX (`xp`)."""
    down, across = xp.broadcast_arrays(down, across)
    squared = down**2 + across**2
    nowhere = squared == 0
    logarithm = 0.5 * xp.log(xp.where(nowhere, 1.0, squared))
    low = 1.0 / (1.0 + xp.exp(2 * ORDER * (logarithm - math.log(CUTOFF))))
    low = xp.where(nowhere, 0.0, low)
    radial = []
    for scale in range(SCALES):
        centre = -math.log(MIN_WAVELENGTH * 2**scale)
        spread = 2 * math.log(SIGMA_RADIAL) ** 2
        radial.append(low * xp.exp(-((logarithm - centre) ** 2) / spread))
    return radial, xp.arctan2(-across, down)


def _angular(angle: Any, orientation: Any, xp: Any) -> Any:
    """The angular part of the filters of one orientation, `(H, W)`."""
    apart = xp.abs(angle - orientation)
    apart = xp.minimum(apart, 2 * math.pi - apart)
    return xp.exp(-(apart**2) / (2 * SIGMA_ANGULAR**2))


@lru_cache(maxsize=64)
def _noise_scales(height: int, width: int) -> tuple[float, ...]:
    """For each orientation the threshold over the root of the median energy."""
    frequencies = _frequencies(height)[:, None], _frequencies(width)[None]
    radial, angle = _polar_of(*frequencies, np)
    # Mean and standard deviation of the Rayleigh distribution.
    beyond = np.sqrt(np.pi / 2) + NOISE_DEVIATIONS * np.sqrt(2 - np.pi / 2)
    scales = []
    for orientation in ANGLES:
        angular = _angular(angle, orientation, np)
        finest = np.sum((angular * radial[0]) ** 2)
        # Of all scales together, the even part: the real part in space. By Parseval
        # its energy is that of noise in the sum of the responses.
        total = angular * np.sum(radial, axis=0)
        even = (total + np.roll(total[::-1, ::-1], 1, (0, 1))) / 2
        noise = np.sum(even**2) / finest / np.log(2)
        scales.append(float(np.sqrt(noise) * beyond * NOISE_SCALE))
    return tuple(scales)


def _lower_median(planes: jax.Array) -> jax.Array:
    """The lower median of non-negative `(..., H, W)`: `(...)`.

    XLA's sort takes longer on CPUs than all else here; the bits of non-negative floats
    are ordered as they are, so each bit of the median takes one count. Its gradient
    goes to the values equal to it, in equal parts.
    """
    floating = jnp.finfo(planes.dtype)
    integer = jnp.int64 if floating.bits == 64 else jnp.int32
    values = jax.lax.stop_gradient(planes)
    bits = jax.lax.bitcast_convert_type(values, integer)
    rank = (planes.shape[-1] * planes.shape[-2] - 1) // 2

    def narrow(step: jax.Array, found: jax.Array) -> jax.Array:
        shift = (floating.bits - 2 - step).astype(integer)
        candidate = found | jnp.left_shift(jnp.ones((), integer), shift)
        # XLA's CPU code counts floats, exact here, four times as fast as integers.
        rows = (bits < candidate[..., None, None]).astype(jnp.float32).sum(-1)
        below = rows.astype(jnp.int32).sum(-1)
        return jnp.where(below <= rank, candidate, found)

    start = jnp.zeros(planes.shape[:-2], integer)
    found = jax.lax.fori_loop(0, floating.bits - 1, narrow, start)
    median = jax.lax.bitcast_convert_type(found, planes.dtype)
    # Equal to it, and with the slope of those that are.
    equal = values == median[..., None, None]
    count = equal.sum((-2, -1), dtype=planes.dtype)
    return jnp.where(equal, planes, 0.0).sum((-2, -1)) / count
