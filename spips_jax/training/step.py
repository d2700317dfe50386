"""One step of training and one of evaluation, as pure functions.

Both run on one device's part of a batch and combine all parts by `parallel.mean` and
`parallel.gather`. Losses see the gathered distances of the whole batch, so that losses
that couple its rows (correlations, ranks) do not depend on the number of devices.

A batch holds uint8 images `(b, H, W, 3)`, or instead `pooled`: their pooled
differences, computed once, for training with a frozen backbone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from spips_jax import parallel
from spips_jax.images import to_unit_range
from spips_jax.kinds import Kind
from spips_jax.spips import Pooled, Spips, extract_taps
from spips_jax.streams import unit_normalize
from spips_jax.training import distill
from spips_jax.training.objectives import (
    LOSSES,
    RANKER,
    Objective,
    Seen,
    loss_terms,
)
from spips_jax.training.state import Params, TrainState, unflatten

Batch = Mapping[str, jax.Array]

POOLED = "pooled"
BESIDE = (RANKER, distill.TEACHER, distill.ADAPTER)
"""Parameter groups used only in training; never exported."""


@dataclass(frozen=True)
class Network:
    """The network, with the layout of a pair's `Pooled` as one vector.

    Attributes:
      module: the network.
      pooled: the `Pooled` of one pair, as shapes: `{tap: (C,)}` and so on.
      teacher: a module of `spips_jax.backbones` that its backbone learns from, if any.
    """

    module: Spips
    pooled: Pooled
    teacher: Any = None

    def distances(self, params: dict[str, Any], batch: Batch, kind: Kind) -> jax.Array:
        """Distances `(b, n)` of the pairs that the kind compares."""
        apply = partial(self.module.apply, {"params": params})
        score: Any = partial(apply, method="score_pooled")
        if POOLED in batch:
            return score(self.unpack(batch[POOLED]))
        return jnp.stack([score(pair) for pair in self._pools(apply, batch, kind)], -1)

    def pool(self, params: dict[str, Any], batch: Batch, kind: Kind) -> jax.Array:
        """Pooled differences `(b, n, size)`, as `distances` takes them."""
        pairs = self._pools(partial(self.module.apply, {"params": params}), batch, kind)
        return jnp.stack([self.pack(pair) for pair in pairs], axis=-2)

    def _pools(self, apply: Any, batch: Batch, kind: Kind) -> list[Pooled]:
        names = dict.fromkeys(name for pair in kind.compared for name in pair)
        features = {
            name: apply(to_unit_range(batch[name]), method="extract") for name in names
        }
        return [
            apply(features[first], features[second], method="pool")
            for first, second in kind.compared
        ]

    def distill(
        self, params: dict[str, Any], batch: Batch, beside: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        """`distill.errors` of a batch of pairs; `beside` has teacher and adapters."""
        images = to_unit_range(jnp.stack([batch["reference"], batch["distorted"]]))
        extract: Any = partial(self.module.apply, {"params": params}, method="extract")
        bound = self.teacher.bind({"params": beside[distill.TEACHER]})
        teacher = jax.tree.map(unit_normalize, extract_taps(bound, images))
        student = jax.tree.map(unit_normalize, extract(images).taps)
        return distill.errors(student, teacher, beside[distill.ADAPTER])

    @property
    def size(self) -> int:
        """Length of a pair's vector."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.pooled))

    def pack(self, pooled: Pooled) -> jax.Array:
        """A `Pooled` of any leading dimensions, as vectors `(..., size)`."""
        batch = pooled.facts.shape[:-1]
        leaves = jax.tree.leaves(pooled)
        return jnp.concatenate([x.reshape(*batch, -1) for x in leaves], axis=-1)

    def unpack(self, vectors: jax.Array) -> Pooled:
        """The `Pooled` of vectors `(..., size)`."""
        shapes, structure = jax.tree.flatten(self.pooled)
        leaves, start = [], 0
        for shape in shapes:
            part = vectors[..., start : start + shape.size]
            leaves.append(part.reshape(*vectors.shape[:-1], *shape.shape))
            start += shape.size
        return jax.tree.unflatten(structure, leaves)


def network_of(module: Spips, *, teacher: Any = None) -> Network:
    """Returns a module's network; finds its layout without computing anything."""
    size = module.min_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def pool(image: jax.Array) -> tuple[Pooled, Any]:
        variables = module.init(jax.random.key(0), image, image)
        features = module.apply(variables, image, method="extract")
        return module.apply(variables, features, features, method="pool")

    pooled = jax.eval_shape(pool, image)
    return Network(
        module,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), pooled),
        teacher,
    )


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    network: Network,
    objective: Objective,
    tx: optax.GradientTransformation,
    decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimiser step on an objective's loss.

    Args:
      state: the state before the step.
      frozen: the parameters that are not trained.
      batch: this device's part of a batch.
      network: what is trained.
      objective: of the batch's set.
      tx: the optimiser.
      decay: of the moving average; it starts lower, at (1 + t) / (10 + t).

    Returns:
      The state after the step, and float32 metrics: `loss`, the weighted sum; each of
      its terms as `loss_<name>`, those of distillation also by tap; `gradient_norm`.
      The same on every device.
    """

    def loss_of(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        tree = unflatten(frozen, params)
        beside = {name: tree.pop(name, None) for name in BESIDE}
        distances = network.distances(tree, batch, objective.kind)
        columns = {
            name: batch[name] for name in (objective.opinion, "group") if name in batch
        }
        errors = {}
        if any(LOSSES[name].needs_teacher for name, _ in objective.weights):
            errors = network.distill(tree, batch, beside)
        distances, columns, errors = parallel.gather((distances, columns, errors))
        seen = Seen(
            distances=distances,
            opinions=columns[objective.opinion],
            groups=columns.get("group"),
            ranker=beside[RANKER],
            errors=errors,
        )
        terms = loss_terms(seen, objective)
        weighted = [weight * terms[name] for name, weight in objective.weights]
        return jnp.sum(jnp.stack(weighted)), terms

    (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # The gathered loss is the same on all devices, and each device's gradient sums all
    # devices' losses through its own rows: the mean over devices is the gradient.
    gradient = parallel.mean(gradient)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    time = state.step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + time) / (10 + time))
    average = (
        optax.incremental_update(params, state.average, rate) if state.average else {}
    )
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, average=average, opt_state=opt_state
    )
    metrics = {
        "loss": loss,
        **{f"loss_{name}": term for name, term in terms.items()},
        "gradient_norm": optax.tree.norm(gradient),
    }
    return state, metrics


def eval_step(
    params: Params,
    frozen: Params,
    batch: Batch,
    *,
    network: Network,
    kind: Kind,
    pool: bool = False,
) -> dict[str, jax.Array]:
    """Scores or pools a batch.

    Args:
      params: trained parameters.
      frozen: the other parameters.
      batch: this device's part, with `position` and `mask` as `eval_batches` gives.
      network: the network.
      kind: of the batch's set.
      pool: whether to return pooled differences instead of distances.

    Returns:
      Over all devices: `position` and `mask` `(B,)`, and `values`: distances `(B, n)`
      of the pairs that the kind compares, or pooled differences `(B, n, size)`.
    """
    tree = unflatten(frozen, params)
    for name in BESIDE:
        tree.pop(name, None)
    values = (
        network.pool(tree, batch, kind)
        if pool
        else network.distances(tree, batch, kind)
    )
    return parallel.gather(
        {"position": batch["position"], "mask": batch["mask"], "values": values}
    )
