"""The deep part of SPIPS: from a pair of activations to what differs between them.

SPIPS (arXiv 2504.17234) compares two groups of a CNN's layers separately, an early
*perceptual* and a late *semantic* stream; each is a `FeatureStream` over its own taps.
Beside the paper's squared differences, which compare two images position by position,
are two statistics of a channel over the whole image: its mean (texture) and its pattern
(structure), after DISTS (Ding et al., arXiv 2004.07728, eq. 5 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spips_jax.boxes import Placed

if TYPE_CHECKING:
    from jaxtyping import Array, Float

NORM_EPSILON = 1e-5
"""Floor of a channel norm: zero features stay zero, gradients stay below 1 / this.

Norms of ImageNet activations are 0.1 to 100, so it moves no distance that counts.
"""

STREAMS = ("perceptual", "semantic", "classical")
"""Of SPIPS, in the order in which the head sees them."""

MOMENT_EPSILON = 1e-3
"""Squared means and variances far below this count as 0: the constants c1 and c2 of
DISTS, which has 1e-6.

A channel that is silent in the reference differs fully once it speaks at all, and the
slope of that is 1 / sqrt(c). With 1e-6 gradients over AlexNet are twice as long where
an image comes out of noise or a flat grey (docs/loss.md); agreement with people is the
same from 1e-6 to 1e-2 (docs/models.md).
"""


def unit_normalize(
    activations: Float[Array, "*batch c"],
) -> Float[Array, "*batch c"]:
    """Divides `(..., C)` by its norm over channels, in float32: `x / |x|`, in [-1, 1].

    After Zhang et al., arXiv 1801.03924, section 3.
    """
    x = activations.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + NORM_EPSILON**2)


def squared_difference(
    reference: Float[Array, "*batch h w c"], distorted: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch h w c"]:
    """`(x_c(p) - y_c(p))^2` of a tap's unit-normalised channels, `(..., h, w, C)`.

    Its sum over channels is in [0, 2] for rectified activations (SPIPS's squared error,
    arXiv 2504.17234; Zhang et al., arXiv 1801.03924, eq. 1).
    """
    return jnp.square(unit_normalize(reference) - unit_normalize(distorted))


def texture_difference(
    reference: Float[Array, "*batch h w c"],
    distorted: Float[Array, "*batch h w c"],
    *,
    epsilon: float = MOMENT_EPSILON,
) -> Float[Array, "*batch c"]:
    """How far the means of a tap's channels are apart, `(..., C)` in [0, 1].

      1 - (2 m_x m_y + c) / (m_x^2 + m_y^2 + c) = (m_x - m_y)^2 / (m_x^2 + m_y^2 + c)

    One minus DISTS's texture term (Ding et al., arXiv 2004.07728, eq. 5), written so
    that it is exactly 0 where the means agree. Two patches of the same texture differ
    little in it, even if no pixel agrees.

    Args:
      reference: activations `(..., h, w, C)`, not negative.
      distorted: activations of the same shape.
      epsilon: `c`, in squared units of the activations.
    """
    means = (tap.mean((-3, -2)) for tap in (reference, distorted))
    return texture_of_means(*means, epsilon=epsilon)


def texture_of_means(
    x: Float[Array, "*at"], y: Float[Array, "*at"], *, epsilon: float = MOMENT_EPSILON
) -> Any:
    """`texture_difference`, `(..., C)` in [0, 1], of channels' means `(..., C)`."""
    return jnp.square(x - y) / (jnp.square(x) + jnp.square(y) + epsilon)


def structure_difference(
    reference: Float[Array, "*batch h w c"],
    distorted: Float[Array, "*batch h w c"],
    *,
    epsilon: float = MOMENT_EPSILON,
) -> Float[Array, "*batch h w c"]:
    """How far the patterns of a tap's channels are apart, `(..., h, w, C)`.

      1/2 ((x - m_x) - (y - m_y))^2 / (v_x + v_y + c)

    Its mean over positions is `1/2 (1 - s)`, in [0, 1], of DISTS's structure term
    `s = (2 cov + c) / (v_x + v_y + c)` (Ding et al., arXiv 2004.07728, eq. 6). The
    variances are those of the whole image.

    Args:
      reference: activations `(..., h, w, C)`.
      distorted: activations of the same shape.
      epsilon: `c`, in squared units of the activations.
    """
    x, y = (tap - _means(tap) for tap in (reference, distorted))
    variances = _means(jnp.square(x)) + _means(jnp.square(y))
    return 0.5 * jnp.square(x - y) / (variances + epsilon)


def tap_sums(reference: Placed, distorted: Placed) -> dict[str, Any]:
    """What the statistics of a tap need: sums over each image of a canvas `(..., C)`,
    in units of the tap.

    Args:
      reference: activations `(1, H, W, C)`.
      distorted: activations at the same places.
    """
    boxes = reference.boxes
    (x,), (y,) = reference.array, distorted.array
    return {
        "squares": boxes.channel_sums(squared_difference(x, y)),
        "moments": boxes.moments(x, y),
    }


def statistics_of_sums(
    sums: Mapping[str, Any], *, epsilon: float = MOMENT_EPSILON
) -> dict[str, jax.Array]:
    """The statistics `(..., C)` in [0, 1] of a tap, from the sums over whole images.

    Args:
      sums: of `tap_sums`.
      epsilon: as in `texture_difference` and `structure_difference`.
    """
    moments = sums["moments"]
    count = moments.count[..., None]
    variances = (moments.xx + moments.yy) / count
    return {
        "squares": sums["squares"] / count,
        "texture": texture_of_means(moments.x, moments.y, epsilon=epsilon),
        "structure": 0.5 * (moments.dd / count) / (variances + epsilon),
    }


def _means(tap: jax.Array) -> jax.Array:
    return tap.mean((-3, -2), keepdims=True)


def resize(
    maps: Float[Array, "*batch h w"], height: int, width: int
) -> Float[Array, "*batch {height} {width}"]:
    """Bilinear interpolation of `(..., h, w)` to `(..., height, width)`, float32.

    Values stay in [lowest, highest] of the map.
    """
    if maps.shape[-2:] == (height, width):
        return maps
    shape = (*maps.shape[:-2], height, width)
    return jax.image.resize(maps, shape, "linear", precision=jax.lax.Precision.HIGHEST)


class FeatureStream(nn.Module):
    """Weighs differences of a group of taps, one weight per channel, `w >= 0`.

      D = sum_c w_c d_c,  for example  d_c = (x_c - y_c)^2

    The weights start at 1/C, which makes it the paper's mean squared error; with
    LPIPS's published ones (Zhang et al., arXiv 1801.03924, eq. 1) it is LPIPS. Negative
    weights count as 0. D of rectified features never exceeds 2 max(w).

    Attributes:
      taps: names of the differences that belong to the stream.
    """

    taps: Sequence[str]

    @nn.compact
    def __call__(self, differences: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `{tap: (...)}` for `{tap: (..., C)}`, for those taps that are given.

        Differences may be those at each position, which gives a map, or their means
        over positions, which give the mean of that map.
        """
        weighed = {}
        for tap in self.taps:
            if tap not in differences:
                continue
            channels = differences[tap].shape[-1]
            initial = nn.initializers.constant(1.0 / channels)
            weight = self.param(tap, initial, (channels,), jnp.float32)
            # A product with a vector: on CPUs XLA's sum over the last axis takes half
            # as long again, and the broadcast weight keeps it from fusing.
            weighed[tap] = jnp.matmul(
                differences[tap],
                jnp.maximum(weight, 0.0),
                precision=jax.lax.Precision.HIGHEST,
            )
        return weighed
