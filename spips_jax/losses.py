"""Training losses: forced choices, correlation, ranks, regression.

Every loss takes arrays `(N,)` over a whole batch and returns one number, 0 or more,
smaller is better. Scores are distances: larger is worse. Opinions must rise with them
(`dmos` and `level` as they are, `-mos`). `mask` leaves out rows where it is False, as a
padded batch has them; where no row or pair is left the loss is 0. Gradients are finite
for all finite input. Sums are taken in float32 at least.

The losses but the first and the last couple the rows of a batch: on several devices,
gather scores, opinions and mask (`jax.lax.all_gather`) before them, or the result
depends on the number of devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Real


class Ranker(nn.Module):
    """G(d0, d1), from two distances to how surely people choose image 1.

    Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
    metric", CVPR 2018, and its authors' code: two hidden layers of 32 with leaky ReLU
    (0.2) on d0, d1, d0 - d1, d0 / (d1 + ε), d1 / (d0 + ε), ε = 0.1.
    """

    features: int = 32
    epsilon: float = 0.1

    @nn.compact
    def __call__(
        self, d0: Float[Array, " n"], d1: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Returns logits `(N,)`; the sigmoid is the probability of image 1."""
        x = jnp.stack(
            [d0, d1, d0 - d1, d0 / (d1 + self.epsilon), d1 / (d0 + self.epsilon)],
            axis=-1,
        )
        for name in ("hidden1", "hidden2"):
            x = nn.leaky_relu(nn.Dense(self.features, name=name)(x), 0.2)
        return nn.Dense(1, name="logit")(x)[..., 0]


def choice_cross_entropy(
    logits: Float[Array, " n"],
    judgement: Real[Array, " n"],
    *,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy of forced choices, in nats.

      mean -(h log p + (1 - h) log(1 - p)), p = 1 / (1 + exp(-z))

    Args:
      logits: z `(N,)`, of choosing image 1: from a `Ranker`, or d0 - d1.
      judgement: h `(N,)`, shares of votes for image 1, in [0, 1].
      mask: `(N,)`, False for rows to leave out.
    """
    logits, judgement = _wide(logits), _wide(judgement)
    return _mean(jax.nn.softplus(logits) - judgement * logits, mask)


def plcc_loss(
    scores: Real[Array, " n"],
    opinions: Real[Array, " n"],
    *,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """1 - Pearson's correlation, in [0, 2].

    Where scores or opinions are constant there is no correlation: the loss is 1, and
    its gradient is 0.

    Args:
      scores: `(N,)`.
      opinions: `(N,)`, rising with the scores.
      mask: `(N,)`, False for rows to leave out.
    """
    x, y = _centred(_wide(scores), mask), _centred(_wide(opinions), mask)
    xx, yy = jnp.sum(x * x), jnp.sum(y * y)
    # Differences that are rounding alone carry no correlation. The sizes are made safe
    # before the root, whose slope at 0 is infinite.
    smallest = (16 * jnp.finfo(xx.dtype).eps) ** 2
    scale = [jnp.sum(_kept(_wide(v), mask) ** 2) for v in (scores, opinions)]
    defined = (xx > smallest * scale[0]) & (yy > smallest * scale[1])
    size = jnp.sqrt(jnp.where(defined, xx, 1)) * jnp.sqrt(jnp.where(defined, yy, 1))
    return 1 - jnp.where(defined, jnp.sum(x * y) / size, 0)


def rank_loss(
    scores: Real[Array, " n"],
    opinions: Real[Array, " n"],
    *,
    groups: Int[Array, " n"] | None = None,
    scale: float = 1.0,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Pairwise logistic rank loss (RankNet: Burges et al., ICML 2005), in nats.

      mean over pairs with opinions_i > opinions_j of log(1 + exp(-(s_i - s_j) / scale))

    Args:
      scores: s `(N,)`.
      opinions: `(N,)`, rising with the scores; equal ones make no pair.
      groups: `(N,)` integers; only rows of one group make pairs, as the levels of one
        distortion of one photograph. All rows are one group by default.
      scale: the difference of scores that counts as clear, above 0.
      mask: `(N,)`, False for rows to leave out.
    """
    scores = _wide(scores)
    paired = opinions[:, None] > opinions[None, :]
    if groups is not None:
        paired &= groups[:, None] == groups[None, :]
    if mask is not None:
        paired &= mask[:, None] & mask[None, :]
    differences = (scores[:, None] - scores[None, :]) / scale
    return _mean(jax.nn.softplus(-differences), paired)


def l1_loss(
    scores: Real[Array, " n"],
    opinions: Real[Array, " n"],
    *,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute difference, in the units of the scores.

    >>> float(l1_loss(jnp.array([0.5, 0.25]), jnp.array([0.25, 0.25])))
    0.125

    Args:
      scores: `(N,)`.
      opinions: `(N,)`, brought to the scores' scale.
      mask: `(N,)`, False for rows to leave out.
    """
    return _mean(jnp.abs(_wide(scores) - _wide(opinions)), mask)


def _wide(values: jax.Array) -> jax.Array:
    return jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))


def _kept(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    # Not a product: what is masked may be NaN.
    return values if mask is None else jnp.where(mask, values, 0)


def _mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    count = values.size if mask is None else jnp.sum(mask)
    return jnp.sum(_kept(values, mask)) / jnp.maximum(count, 1)


def _centred(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _kept(values - _mean(values, mask), mask)
