"""The fusion of SPIPS: an MLP maps the pooled differences of a pair to its score."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.facts import FACTS


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

      exp(tanh(2 sum_g o_g · (tanh(W_g r_g + b_g) - tanh(b_g))) / 2), in (0.60, 1.65)
      r = s³ / (s² + t²), for each fact s

    over the groups g of `TOGETHER`. It lets a raised contrast count for less than a
    lowered one, and leaves what the head promises: a score of 0 stays 0, and a larger
    difference in any map, the facts being the same, never improves it. It is 1 where
    all facts are 0, and nearly so where they are small: blur and coding change an
    image's contrast and colours a little, and differently in each scene, which must not
    decide between scenes. The output layers `o` start at zero: the untrained factor is
    1. Our choice; arXiv 2504.17234 has no such facts.

    Attributes:
      width: hidden units of each group.
    """

    width: int = 16

    @nn.compact
    def __call__(self, facts: jax.Array) -> jax.Array:
        """Maps `(..., 3)`, as `spips_jax.facts` makes them, to `(...)`."""
        large = facts * jnp.square(facts) / (jnp.square(facts) + SMALL**2)
        total = jnp.zeros(facts.shape[:-1], jnp.float32)
        for group in TOGETHER:
            chosen = large[..., np.array([FACTS.index(fact) for fact in group])]
            total = total + _Odd(self.width, name="_".join(group))(chosen)
        return jnp.exp(GAIN * jnp.tanh(total / GAIN))


class _Odd(nn.Module):
    """`o · (tanh(W r + b) - tanh(b))`, 0 at 0, from `(..., n)` to `(...)`."""

    width: int

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        batch, width = (1,) * (values.ndim - 1), (self.width,)
        init, dtype = nn.initializers, jnp.float32
        kernel_shape = (values.shape[-1], self.width)
        kernel = self.param("kernel", init.normal(0.75), kernel_shape, dtype)
        bias = self.param("bias", init.zeros, width, dtype).reshape(*batch, -1)
        output = self.param("output", init.zeros, width, dtype)
        hidden = jnp.matmul(values, kernel, precision=jax.lax.Precision.HIGHEST)
        return _weighted(jnp.tanh(hidden + bias) - jnp.tanh(bias), output)


TOGETHER = (("luminance",), ("contrast", "saturation"))
"""Facts that share hidden units. Distortions change contrast and colours together, each
in its own proportion. Light has units of its own: shared ones, trained on sets in which
no image became lighter or darker, did something with it all the same."""

GAIN = 0.5
"""Logarithm of the largest factor. With 1, held-out scenes are ranked no better."""

SMALL = 0.05
"""t of `Gain`: facts well below it hardly count. A contrast lowered by a twentieth is
just visible."""


def _weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum over the last axis of values `(..., n)` times weights `(n,)`."""
    return jnp.sum(values * weights.reshape((1,) * (values.ndim - 1) + (-1,)), axis=-1)
