"""The deep part of SPIPS: from a pair of activations to a map of their difference.

SPIPS (arXiv 2504.17234) compares two groups of a CNN's layers separately, an early
*perceptual* and a late *semantic* stream; each is a `FeatureStream` over its own taps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

NORM_EPSILON = 1e-5
"""Floor of a channel norm: zero features stay zero, gradients stay below 1 / this.

Norms of ImageNet activations are 0.1 to 100, so it moves no distance that counts.
"""


def unit_normalize(activations: jax.Array) -> jax.Array:
    """Divides `(..., C)` by its norm over channels, in float32: `x / |x|`."""
    x = activations.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + NORM_EPSILON**2)


def squared_differences(
    reference: Mapping[str, jax.Array], distorted: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """`(x_c(p) - y_c(p))^2` of every tap, `(..., h, w, C)`, as the streams weigh it."""
    return {tap: jnp.square(x - distorted[tap]) for tap, x in reference.items()}


class FeatureStream(nn.Module):
    """Weighs squared differences of a group of taps, one weight per channel, `w >= 0`.

      D = sum_c w_c (x_c - y_c)^2

    The weights start at 1/C, which makes it the paper's mean squared error; with
    LPIPS's published ones (Zhang et al., arXiv 1801.03924, eq. 1) it is LPIPS. Negative
    weights count as 0. D of rectified features never exceeds 2 max(w).

    Attributes:
      taps: names of the activations that belong to the stream.
    """

    taps: Sequence[str]

    @nn.compact
    def __call__(self, squares: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `{tap: (...)}` for `squares` `(..., C)`: at each position, as a map,
        or of their mean over positions, which is the map's mean.
        """
        differences = {}
        for tap in self.taps:
            channels = squares[tap].shape[-1]
            initial = nn.initializers.constant(1.0 / channels)
            weight = self.param(tap, initial, (channels,), jnp.float32)
            # A product with a vector: on CPUs XLA's sum over the last axis takes half
            # as long again, and the broadcast weight keeps it from fusing.
            differences[tap] = jnp.matmul(
                squares[tap],
                jnp.maximum(weight, 0.0),
                precision=jax.lax.Precision.HIGHEST,
            )
        return differences
