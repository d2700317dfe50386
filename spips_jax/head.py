"""The fusion of SPIPS: maps are pooled to a vector, an MLP maps it to the score."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class Attention(nn.Module):
    """Where in the scene to look: logits from the reference's semantic features.

    The global context comes first and the details second (SPIPS, arXiv 2504.17234); a
    linear map of the deepest unit-normalised features is our choice. It starts at
    zero: pooling starts as the plain mean.
    """

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features `(..., h, w, C)` to logits `(..., h, w)`."""
        channels = features.shape[-1]
        weight = self.param("weight", nn.initializers.zeros, (channels,), jnp.float32)
        weight = weight.reshape((1,) * (features.ndim - 1) + (channels,))
        return jnp.sum(features * weight, axis=-1)


def attention_pool(maps: jax.Array, logits: jax.Array) -> jax.Array:
    """Pools maps `(..., H, W)` to `(...)` with weights that sum to 1.

    The weights are the softmax over positions of `logits` `(..., h, w)`, interpolated
    to the maps' size; leading dimensions broadcast.
    """
    height, width = maps.shape[-2:]
    logits = resize(logits, height, width)
    weights = nn.softmax(logits, axis=(-2, -1))
    return jnp.sum(weights * maps, axis=(-2, -1))


def resize(maps: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation of `(..., h, w)` to `(..., height, width)`, float32."""
    if maps.shape[-2:] == (height, width):
        return maps
    shape = (*maps.shape[:-2], height, width)
    return jax.image.resize(maps, shape, "linear", precision=jax.lax.Precision.HIGHEST)


class MonotoneHead(nn.Module):
    """An MLP that never rewards a difference: `f(0) = 0`, increasing in each input.

    One hidden layer beside a linear one, all weights non-negative (negative ones count
    as 0), half of the hidden activations convex and half concave, after Runje &
    Shankaranarayana, "Constrained monotonic neural networks", arXiv 2205.11775; each
    is shifted to pass through the origin. The output layer starts at zero, so the
    untrained head is its linear part, `initial`.

    Attributes:
      initial: weight of each input before any training.
      width: hidden units.
    """

    initial: Sequence[float]
    width: int = 32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `(..., n)`, non-negative, to `(...)`, non-negative."""
        n = len(self.initial)
        batch = (1,) * (inputs.ndim - 1)
        linear = self.param("linear", lambda _: jnp.asarray(self.initial, jnp.float32))
        init, width, dtype = nn.initializers, (self.width,), jnp.float32
        kernel = self.param("kernel", init.uniform(2.0 / n), (n, *width), dtype)
        bias = self.param("bias", init.normal(1.0), width, dtype)
        output = self.param("output", init.zeros, width, dtype)

        linear, kernel, output = (jnp.maximum(w, 0.0) for w in (linear, kernel, output))
        bias = bias.reshape(*batch, self.width)
        hidden = jnp.matmul(inputs, kernel, precision=jax.lax.Precision.HIGHEST)
        sign = jnp.where(jnp.arange(self.width) % 2, -1.0, 1.0)
        sign = sign.reshape(*batch, self.width)
        hidden = sign * (nn.softplus(sign * hidden + bias) - nn.softplus(bias))
        score = jnp.sum(inputs * linear.reshape(*batch, n), axis=-1)
        score = score + jnp.sum(hidden * output.reshape(*batch, self.width), axis=-1)
        return jnp.maximum(score, 0.0)  # rounding can leave softplus differences below
