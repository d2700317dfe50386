"""A metric that compiles in no time, for tests of what is around metrics."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

import spips_jax
from spips_jax.spips import Comparison, Features


class Weighted(nn.Module):
    """A network as the metric's are, and small: a weighted sum of squares."""

    higher_is_better = False
    min_size = 1

    def extract(self, images: jax.Array) -> Features:
        return Features(image=images, taps={"images": images})

    @nn.compact
    def compare(self, reference: Features, distorted: Features) -> Comparison:
        weights = self.param("weights", nn.initializers.ones, (3,))
        squares = jnp.square(reference.image - distorted.image).mean((-3, -2))
        score = (squares * weights.reshape((1,) * (squares.ndim - 1) + (3,))).sum(-1)
        return Comparison(score=score, streams={}, maps={})


def small_metric() -> spips_jax.Metric:
    variables = {"params": {"weights": jnp.ones(3)}}
    return spips_jax.Metric(variables=variables, module=Weighted(), name="weighted")
