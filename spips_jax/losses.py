"""Training losses: forced choices, correlation, ranks, regression.

Every loss takes arrays `(N,)` over a whole batch and returns one number, 0 or more,
smaller is better. Scores are distances: larger is worse. Opinions must rise with them
(`dmos` and `level` as they are, `-mos`). `mask` leaves out rows where it is False, as a
padded batch has them; where no row or pair is left the loss is 0. Gradients are finite
for all finite input. Sums are taken in float32 at least.

Where opinions compare only within groups of rows, as the versions of one photograph,
`groups` says which rows these are: a loss then compares rows of one group only, and
adding a constant to a group's scores or opinions does not change it.

`plcc_loss`, `rank_loss` and, with groups, `l1_loss` couple the rows of a batch: on
several devices, gather scores, opinions, groups and mask (`jax.lax.all_gather`) before
them, or the result depends on the number of devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

from spips_jax.messages import UserError

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
    groups: Int[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """1 - Pearson's correlation, in [0, 2].

      1 - Σ x y / √(Σ x² Σ y²), x and y deviations from the mean of the group

    With groups this is the pooled correlation within them, each row's deviation
    counting the same. Where scores or opinions are constant in every group there is no
    correlation: the loss is 1, and its gradient is 0.

    Args:
      scores: `(N,)`.
      opinions: `(N,)`, rising with the scores.
      groups: `(N,)` integers; a row alone in its group counts for nothing. All rows are
        one group by default.
      mask: `(N,)`, False for rows to leave out.
    """
    mask = _accompanied(groups, mask)
    x, y = (_centred(_wide(v), groups, mask) for v in (scores, opinions))
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

    Raises:
      UserError: `scale` is not above 0.
    """
    if not scale > 0:
        raise UserError(f"scale is {scale}: take a number above 0")
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
    groups: Int[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute difference, in the units of the scores.

      mean |s - o|; with groups, mean |(s - s̄) - (o - ō)|, s̄ and ō means of the group

    >>> float(l1_loss(jnp.array([0.5, 0.25]), jnp.array([0.25, 0.25])))
    0.125

    Args:
      scores: s `(N,)`.
      opinions: o `(N,)`, brought to the scores' scale.
      groups: `(N,)` integers; deviations from the group's means are compared, and a row
        alone in its group is left out. By default values are compared as they are.
      mask: `(N,)`, False for rows to leave out.
    """
    differences = _wide(scores) - _wide(opinions)
    if groups is not None:
        mask = _accompanied(groups, mask)
        differences = _centred(differences, groups, mask)
    return _mean(jnp.abs(differences), mask)


def _wide(values: jax.Array) -> jax.Array:
    return jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))


def _kept(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    # Not a product: what is masked may be NaN.
    return values if mask is None else jnp.where(mask, values, 0)


def _mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    count = values.size if mask is None else jnp.sum(mask)
    return jnp.sum(_kept(values, mask)) / jnp.maximum(count, 1)


def _accompanied(groups: jax.Array | None, mask: jax.Array | None) -> jax.Array | None:
    """The mask without rows that are alone in their group."""
    if groups is None:
        return mask
    together = jnp.sum(_same(groups, mask), axis=1) > 1
    return together if mask is None else together & mask


def _centred(
    values: jax.Array, groups: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    """Deviations from the mean of the row's group; 0 where masked."""
    if groups is None:
        return _kept(values - _mean(values, mask), mask)
    same = _same(groups, mask)
    # A sum, not a matrix product, which accelerators round to fewer digits.
    totals = jnp.sum(jnp.where(same, values[None, :], 0), axis=1)
    means = totals / jnp.maximum(jnp.sum(same, axis=1), 1)
    return _kept(values - means, mask)


def _same(groups: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`(N, N)`: whether j is a row of the group of i, and not masked."""
    same = groups[:, None] == groups[None, :]
    return same if mask is None else same & mask[None, :]
