"""GMSD and MDSI: similarities of gradient magnitudes, pooled by their spread.

Both take images `(..., H, W, 3)` in [0, 1] and are distances: 0 for images that agree,
larger is worse. Gradients are those of a 3x3 Prewitt operator, with zeros outside the
image, as the authors' MATLAB code has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    LUMA,
    PREWITT,
    average_same,
    derivatives,
    enlarge,
    factor_for,
    gradient_magnitude,
    hypotenuse,
    mix,
    of_pairs,
    root,
    similarity,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float


GMSD_CONSTANT = 170 / 255**2
GMSD_MIN_SIZE = 6
"""Three pixels after halving: one whole window."""

MDSI_LHM = ((0.2989, 0.5870, 0.1140), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))
"""Weights of R, G, B in L, H and M: Ziaei Nafchi et al. 2016, eq. 9."""

MDSI_CONSTANTS = (140 / 255**2, 55 / 255**2, 550 / 255**2)
MDSI_ALPHA = 0.6
"""Share of the gradients' similarity; the rest is the chroma's."""

MDSI_MIN_SIZE = 3


@of_pairs(min_size=GMSD_MIN_SIZE)
def gmsd(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Gradient magnitude similarity deviation, `(...)` from 0 to 0.5, lower is better.

    Xue, Zhang, Mou & Bovik, "Gradient magnitude similarity deviation: a highly
    efficient perceptual image quality index", IEEE TIP 23(2), 2014, eq. 4 to 6: with
    `m` the gradient magnitudes of the luma Y, halved by averaging,

      GMS = (2 m_r m_d + c) / (m_r^2 + m_d^2 + c),  c = 170 on the scale of 255
      GMSD = the standard deviation of GMS over the image

    It ignores colour, and, being a spread, a change that is the same everywhere. An odd
    edge is averaged with zeros, as in the authors' MATLAB code, which rounds Y to whole
    levels first; piq and this do not. Images that agree have gradient 0.
    """
    similar = 1.0 - gmsd_differences(reference, distorted)
    mean = similar.mean((-2, -1), keepdims=True)
    return root(jnp.square(similar - mean).mean((-2, -1)))


def gmsd_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """1 - GMS of `gmsd`, `(..., H, W)` in [0, 1]; a value for each 2x2 block."""
    return enlarge(gmsd_differences(reference, distorted), 2, *reference.shape[-3:-1])


def gmsd_differences(reference: jax.Array, distorted: jax.Array) -> jax.Array:
    """1 - GMS of `gmsd` at half the size, `(..., h, w)` in [0, 1]."""
    x, y = (
        gradient_magnitude(average_same(mix(images, LUMA), 2), PREWITT)
        for images in (reference, distorted)
    )
    return 1.0 - similarity(x, y, GMSD_CONSTANT)


@of_pairs(min_size=MDSI_MIN_SIZE)
def mdsi(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Mean deviation similarity index, `(...)` from 0 up, lower is better.

    Ziaei Nafchi, Shahkolaei, Hedjam & Cheriet, "Mean deviation similarity index:
    efficient and reliable full-reference image quality evaluator", IEEE Access 4, 2016,
    eq. 5 to 12, in its "sum" form: with `S(x, y, c) = (2xy + c) / (x^2 + y^2 + c)`, `g`
    the gradient magnitude of the luma L, `f` that of the mean of both images, and H, M
    two chroma channels,

      GS = S(g_r, g_d, c1) + S(g_d, g_f, c2) - S(g_r, g_f, c2)
      CS = (2 (H_r H_d + M_r M_d) + c3) / (H_r^2 + H_d^2 + M_r^2 + M_d^2 + c3)
      GCS = 0.6 GS + 0.4 CS
      MDSI = mean(|GCS^(1/4) - mean(GCS^(1/4))|)^(1/4)

    The constants are 140, 55 and 550 on the scale of 255. GCS can be negative; its root
    is then complex, as in the authors' code. Images are first reduced by the rounded
    quotient of their shorter side and 256, by averaging, where the edge counts zeros
    outside. It is not symmetric in its images. The fourth root makes gradients large
    near images that agree; where they agree the gradient is 0.
    """
    gcs, _ = _mdsi_similarity(reference, distorted)
    fourth = root(root(jnp.abs(gcs)))
    negative = gcs < 0
    turn = np.sqrt(0.5)  # the fourth root of -1 is (1 + i) / sqrt(2)
    real = fourth * jnp.where(negative, turn, 1.0)
    imaginary = fourth * jnp.where(negative, turn, 0.0)
    real, imaginary = (x - x.mean((-2, -1), keepdims=True) for x in (real, imaginary))
    deviation = hypotenuse(real, imaginary).mean((-2, -1))
    return root(root(deviation))


def mdsi_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """1 - GCS of `mdsi`, and 0 where that is negative, `(..., H, W)`."""
    gcs, factor = _mdsi_similarity(reference, distorted)
    error = jnp.maximum(1.0 - gcs, 0.0)
    return enlarge(error, factor, *reference.shape[-3:-1], skip=(factor - 1) // 2)


def _mdsi_similarity(
    reference: jax.Array, distorted: jax.Array
) -> tuple[jax.Array, int]:
    """GCS at the reduced size, and the factor of the reduction."""
    factor = factor_for(*reference.shape[-3:-1])
    reduced = (
        [average_same(mix(images, weights), factor) for weights in MDSI_LHM]
        for images in (reference, distorted)
    )
    return _gcs(*reduced), factor


def mdsi_reduced_error(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch h w"]:
    """`mdsi_error`, `(..., H, W)`, 0 or more, of images reduced already."""
    planes = (
        [mix(images, weights) for weights in MDSI_LHM]
        for images in (reference, distorted)
    )
    return jnp.maximum(1.0 - _gcs(*planes), 0.0)


def _gcs(reference: list[jax.Array], distorted: list[jax.Array]) -> jax.Array:
    """GCS of L, H and M."""
    (l_r, h_r, m_r), (l_d, h_d, m_d) = reference, distorted
    (x_r, y_r), (x_d, y_d) = (derivatives(luma, PREWITT) for luma in (l_r, l_d))
    # Derivatives are linear: those of the mean image are the mean of both images'.
    g_r, g_d, g_f = (
        hypotenuse(x, y)
        for x, y in ((x_r, y_r), (x_d, y_d), ((x_r + x_d) / 2, (y_r + y_d) / 2))
    )
    c1, c2, c3 = MDSI_CONSTANTS
    gs = similarity(g_r, g_d, c1) + (
        similarity(g_d, g_f, c2) - similarity(g_r, g_f, c2)
    )
    squares = jnp.square(h_r) + jnp.square(h_d) + jnp.square(m_r) + jnp.square(m_d)
    cs = 1.0 - (jnp.square(h_r - h_d) + jnp.square(m_r - m_d)) / (squares + c3)
    return MDSI_ALPHA * gs + (1 - MDSI_ALPHA) * cs
