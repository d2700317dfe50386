"""A mean score that is gathered batch by batch, as loops of evaluation have it."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from spips_jax.images import Images
from spips_jax.metric import Metric
from spips_jax.spips import Features


@flax.struct.dataclass
class MeanScore:
    """The mean of scores over batches, without the images that only fill a batch.

    It has the methods of clu's and Kauldron's metric states, and is a pytree, so it can
    be made inside `jax.jit`, be summed over devices and be carried by `lax.scan`:

        mean = MeanScore.empty()
        for batch in batches:
            mean = mean.merge(MeanScore.of(metric, batch["clean"], model(batch)))
        print(mean.compute())

    Attributes:
      total: the sum of the scores.
      count: how many there are, or the sum of their weights.
    """

    total: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls) -> MeanScore:
        """Of no image."""
        return cls(total=jnp.zeros(()), count=jnp.zeros(()))

    @classmethod
    def of(
        cls,
        metric: Metric,
        reference: Images | Features,
        distorted: Images,
        *,
        mask: ArrayLike | None = None,
        **options: Any,
    ) -> MeanScore:
        """Of a batch.

        Args:
          metric: what scores it.
          reference: images `(..., H, W, 3)`, or their features.
          distorted: likewise.
          mask: `(...)`, 0 or False for images that do not count, whatever is in them.
          **options: of the metric's call, as `value_range`.

        Raises:
          ImageError: images that break the contract.
        """
        scores = metric(reference, distorted, **options)
        if mask is None:
            return cls(total=scores.sum(), count=jnp.asarray(scores.size, jnp.float32))
        weights = jnp.broadcast_to(jnp.asarray(mask, jnp.float32), scores.shape)
        counted = jnp.where(weights > 0, scores, 0.0)  # a score of nothing may be NaN
        return cls(total=(weights * counted).sum(), count=weights.sum())

    def merge(self, other: MeanScore) -> MeanScore:
        """Of the images of both."""
        return MeanScore(self.total + other.total, self.count + other.count)

    def reduce(self) -> MeanScore:
        """Of all, where each device or step has one: `total` and `count` of `(N,)`."""
        return MeanScore(self.total.sum(), self.count.sum())

    def compute(self) -> jax.Array:
        """The mean, float32; NaN of no image."""
        return self.total / self.count
