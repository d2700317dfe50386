"""One step of training and one of evaluation, as pure functions.

Both run on one device's part of a batch and reach the others by `parallel.mean` and
`parallel.gather`. Losses see the distances of the whole batch, gathered, so that what
couples its rows (correlations, ranks) does not depend on the number of devices.

A batch holds uint8 images `(b, H, W, 3)`, or in their place `pooled`: what the network
made of them once, for training that leaves backbone and attention as they are.
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

from spips_jax import losses, parallel
from spips_jax.agreement import HIGHER_IS_BETTER
from spips_jax.data.builder import COMPARED, Kind
from spips_jax.images import to_unit_range
from spips_jax.spips import Pooled, Spips, extract_taps
from spips_jax.streams import unit_normalize
from spips_jax.training import distill
from spips_jax.training.state import Params, TrainState, unflatten

Batch = Mapping[str, jax.Array]

POOLED = "pooled"
RANKER = "ranker"
BESIDE = (RANKER, distill.TEACHER, distill.ADAPTER)
"""What there are parameters of that neither judge images nor are exported."""

LOSSES: Mapping[Kind, tuple[str, ...]] = {
    "pairs": ("plcc", "rank", "l1", *distill.LOSSES),
    "ranks": ("plcc", "rank", "l1", *distill.LOSSES),
    "2afc": (RANKER, "choice"),
    "jnd": (),
}
"""The losses that a set of each kind can be learned with."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How a set is learned from.

    Attributes:
      kind: the set's.
      opinion: the name of its human score, which says the score's direction.
      weights: the weight of each loss, by name, of `LOSSES`.
      scale: the difference of distances that counts as clear: in the rank loss, and of
        the distances that "choice" compares.
      opinions: the (best, worst) opinion, which "l1" puts at the distances 0 and 1.
    """

    kind: Kind
    opinion: str
    weights: tuple[tuple[str, float], ...]
    scale: float = 0.05
    opinions: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Network:
    """The network, with the layout of a pair's `Pooled` in one vector.

    Attributes:
      module: the network.
      pooled: a `Pooled` of one pair, of shapes: `{tap: (C,)}` and so on.
      teacher: a module of `spips_jax.backbones` that its backbone learns from, if any.
    """

    module: Spips
    pooled: Pooled
    teacher: Any = None

    def distances(
        self, params: dict[str, Any], batch: Batch, kind: Kind, *, key: jax.Array
    ) -> jax.Array:
        """Distances `(b, n)` of the pairs in `COMPARED`."""
        apply = partial(self.module.apply, {"params": params}, rngs={"dropout": key})
        judge: Any = partial(apply, method="judge")
        if POOLED in batch:
            return judge(self.unpack(batch[POOLED]))
        return jnp.stack([judge(pair) for pair in self._pools(apply, batch, kind)], -1)

    def pool(self, params: dict[str, Any], batch: Batch, kind: Kind) -> jax.Array:
        """What `distances` takes as `pooled`, `(b, n, size)`."""
        pairs = self._pools(partial(self.module.apply, {"params": params}), batch, kind)
        return jnp.stack([self.pack(pair) for pair in pairs], axis=-2)

    def _pools(self, apply: Any, batch: Batch, kind: Kind) -> list[Pooled]:
        names = dict.fromkeys(name for pair in COMPARED[kind] for name in pair)
        features = {
            name: apply(to_unit_range(batch[name]), method="extract") for name in names
        }
        return [
            apply(features[first], features[second], method="pool")
            for first, second in COMPARED[kind]
        ]

    def distill(
        self, params: dict[str, Any], batch: Batch, beside: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        """`distill.errors` of a batch of pairs; `beside` has teacher and adapters."""
        images = to_unit_range(jnp.stack([batch["reference"], batch["distorted"]]))
        extract: Any = partial(self.module.apply, {"params": params}, method="extract")
        teach = partial(self.teacher.apply, {"params": beside[distill.TEACHER]})
        teacher = jax.tree.map(unit_normalize, extract_taps(teach, images))
        student = jax.tree.map(unit_normalize, extract(images).taps)
        return distill.errors(student, teacher, beside[distill.ADAPTER])

    @property
    def size(self) -> int:
        """Numbers in the vector of a pair."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.pooled))

    def pack(self, pooled: Pooled) -> jax.Array:
        """A `Pooled` of any leading dimensions as one vector, `(..., size)`."""
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
    """Returns the network of a module, its layout found without computing anything."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

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


def loss_terms(
    distances: jax.Array,
    batch: Batch,
    objective: Objective,
    *,
    ranker: Any = None,
    errors: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """The losses of an objective by name, not yet weighted.

    Args:
      distances: `(B, n)`, over the whole batch.
      batch: its columns `(B,)`.
      objective: says which losses.
      ranker: parameters of `losses.Ranker`, where the objective has that loss.
      errors: of `distill.errors`, `(B,)`; the mean of each is in what is returned, too.
    """
    opinions = batch[objective.opinion]
    terms = {name: jnp.mean(error) for name, error in (errors or {}).items()}
    for name, _ in objective.weights:
        if name in distill.LOSSES:
            by_tap = [term for tap, term in terms.items() if tap.startswith(f"{name}/")]
            terms[name] = jnp.sum(jnp.stack(by_tap))
            continue
        if name == RANKER:
            judge: Any = losses.Ranker().apply
            logits = judge({"params": ranker}, distances[:, 0], distances[:, 1])
            terms[name] = losses.choice_cross_entropy(logits, opinions)
        elif name == "choice":
            logits = (distances[:, 0] - distances[:, 1]) / objective.scale
            terms[name] = losses.choice_cross_entropy(logits, opinions)
        elif name == "l1":
            best, worst = objective.opinions
            terms[name] = losses.l1_loss(
                distances[:, 0], (opinions - best) / (worst - best)
            )
        else:
            rising = -opinions if HIGHER_IS_BETTER[objective.opinion] else opinions
            if name == "plcc":
                terms[name] = losses.plcc_loss(distances[:, 0], rising)
            else:
                terms[name] = losses.rank_loss(
                    distances[:, 0],
                    rising,
                    groups=batch.get("group"),
                    scale=objective.scale,
                )
    return terms


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
    """Takes one step down the gradient of an objective's loss.

    Args:
      state: before it.
      frozen: the parameters that are not trained.
      batch: this device's part of a batch.
      network: what is trained.
      objective: of the batch's set.
      tx: the optimiser.
      decay: of the moving average, at most; it starts lower, by (1 + t) / (10 + t).

    Returns:
      The state after the step, and float32 metrics: `loss`, the weighted sum, each of
      its terms as `loss_<name>`, those of distillation by tap as well, and
      `gradient_norm`. The same on every device.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def loss_of(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        tree = unflatten(frozen, params)
        beside = {name: tree.pop(name, None) for name in BESIDE}
        distances = network.distances(tree, batch, objective.kind, key=key)
        columns = {
            name: batch[name] for name in (objective.opinion, "group") if name in batch
        }
        errors = {}
        if any(name in distill.LOSSES for name, _ in objective.weights):
            errors = network.distill(tree, batch, beside)
        distances, columns, errors = parallel.gather((distances, columns, errors))
        terms = loss_terms(
            distances, columns, objective, ranker=beside[RANKER], errors=errors
        )
        weighted = [weight * terms[name] for name, weight in objective.weights]
        return jnp.sum(jnp.stack(weighted)), terms

    (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # The gathered loss is the same on all devices, and each one's gradient has the
    # others' share for its own rows: their mean is the gradient.
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
    """Judges a batch of evaluation.

    Args:
      params: trained parameters.
      frozen: the others.
      batch: this device's part, with `position` and `mask` as `eval_batches` gives.
      network: what judges.
      kind: of the batch's set.
      pool: whether to return what is judged instead of distances.

    Returns:
      Over all devices: `position` and `mask` `(B,)`, and `values` `(B, n)`, the
      distances of the pairs in `COMPARED`, or `(B, n, size)`.
    """
    tree = unflatten(frozen, params)
    for name in BESIDE:
        tree.pop(name, None)
    values = (
        network.pool(tree, batch, kind)
        if pool
        else network.distances(tree, batch, kind, key=jax.random.key(0))
    )
    return parallel.gather(
        {"position": batch["position"], "mask": batch["mask"], "values": values}
    )
