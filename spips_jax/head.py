"""The fusion of SPIPS: an MLP maps the pooled differences of a pair to its score."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


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
        # Inputs are mostly below 0.2: with such weights the units bend where they are.
        kernel = self.param("kernel", init.uniform(16.0 / n), (n, *width), dtype)
        bias = self.param("bias", init.normal(1.0), width, dtype)
        output = self.param("output", init.zeros, width, dtype)

        linear, kernel, output = (jnp.maximum(w, 0.0) for w in (linear, kernel, output))
        bias = bias.reshape(*batch, self.width)
        hidden = jnp.matmul(inputs, kernel, precision=jax.lax.Precision.HIGHEST)
        sign = jnp.where(jnp.arange(self.width) % 2, -1.0, 1.0)
        sign = sign.reshape(*batch, self.width)
        hidden = sign * (nn.softplus(sign * hidden + bias) - nn.softplus(bias))
        score = _weighted(inputs, linear) + _weighted(hidden, output)
        return jnp.maximum(score, 0.0)  # rounding can leave softplus differences below


class FreeHead(nn.Module):
    """An MLP in which a larger difference may improve the score, for comparison.

      |u q + o tanh(W q + b) - o tanh(b)|

    Like `MonotoneHead` it is 0 at 0 and never negative, and untrained it is its linear
    part.

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
        # Not the monotone head's names, whose parameters are held at 0 or above.
        linear = self.param(
            "free_linear", lambda _: jnp.asarray(self.initial, jnp.float32)
        )
        init, width, dtype = nn.initializers, (self.width,), jnp.float32
        kernel = self.param("free_kernel", init.normal(8.0 / n), (n, *width), dtype)
        bias = self.param("bias", init.normal(1.0), width, dtype)
        output = self.param("free_output", init.zeros, width, dtype)
        bias = bias.reshape(*batch, self.width)
        hidden = jnp.matmul(inputs, kernel, precision=jax.lax.Precision.HIGHEST)
        hidden = jnp.tanh(hidden + bias) - jnp.tanh(bias)
        return jnp.abs(_weighted(inputs, linear) + _weighted(hidden, output))


class Gain(nn.Module):
    """A positive factor of the score, from the facts of a pair.

      exp(tanh(2 o · tanh(W s + b)) / 2), in (0.60, 1.65)

    It lets a raised contrast count for less than a lowered one, and noise for less
    where the scene hides it, and leaves what the head promises: a score of 0 stays 0,
    and a larger difference in any map, the facts being the same, never improves it. The
    output layer `o` starts at zero: the untrained factor is 1. Our choice; arXiv
    2504.17234 has no such facts.

    Attributes:
      width: hidden units.
    """

    width: int = 16

    @nn.compact
    def __call__(self, facts: jax.Array) -> jax.Array:
        """Maps `(..., n)`, as `spips_jax.facts` makes them, to `(...)`."""
        n = facts.shape[-1]
        batch = (1,) * (facts.ndim - 1)
        init, dtype = nn.initializers, jnp.float32
        kernel = self.param("kernel", init.normal(0.75), (n, self.width), dtype)
        bias = self.param("bias", init.zeros, (self.width,), dtype)
        output = self.param("output", init.zeros, (self.width,), dtype)
        hidden = jnp.matmul(facts, kernel, precision=jax.lax.Precision.HIGHEST)
        hidden = jnp.tanh(hidden + bias.reshape(*batch, self.width))
        return jnp.exp(GAIN * jnp.tanh(_weighted(hidden, output) / GAIN))


GAIN = 0.5
"""Logarithm of the largest factor. With 1 agreement is no better on held-out scenes,
and mostly worse on whole groups of distortions that were left out."""


def _weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum over the last axis of values `(..., n)` times weights `(n,)`."""
    return jnp.sum(values * weights.reshape((1,) * (values.ndim - 1) + (-1,)), axis=-1)
