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


def difference_map(
    reference: jax.Array, distorted: jax.Array, weight: jax.Array
) -> jax.Array:
    """`D(p) = sum_c w_c (x_c(p) - y_c(p))^2`, `(..., h, w, C)` to `(..., h, w)`."""
    # A product with a vector: on CPUs XLA's sum over the last axis takes half as long
    # again, and the broadcast weight keeps it from fusing.
    return jnp.matmul(
        jnp.square(reference - distorted), weight, precision=jax.lax.Precision.HIGHEST
    )


class FeatureStream(nn.Module):
    """Difference maps of a group of taps, with one non-negative weight per channel.

    The weights start at 1/C, which makes a map the paper's mean squared error; with
    LPIPS's published ones (Zhang et al., arXiv 1801.03924, eq. 1) it is LPIPS. Negative
    weights count as 0. A map of rectified features never exceeds 2 max(w).

    Attributes:
      taps: names of the activations that belong to the stream.
    """

    taps: Sequence[str]

    @nn.compact
    def __call__(
        self, reference: Mapping[str, jax.Array], distorted: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns `{tap: map (..., h, w)}` of unit-normalised activations, float32."""
        maps = {}
        for tap in self.taps:
            channels = reference[tap].shape[-1]
            initial = nn.initializers.constant(1.0 / channels)
            weight = self.param(tap, initial, (channels,), jnp.float32)
            weight = jnp.maximum(weight, 0.0)
            maps[tap] = difference_map(reference[tap], distorted[tap], weight)
        return maps
