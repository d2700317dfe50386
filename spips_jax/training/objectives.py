"""The losses for training on a set, by their names in configs.

Training knows a loss only by its record in `LOSSES`: to add a loss, add a record
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from spips_jax import losses
from spips_jax.agreement import OPINIONS
from spips_jax.kinds import Kind
from spips_jax.messages import one_of
from spips_jax.training import distill

RANKER = "ranker"
"""Parameter group of `losses.Ranker`."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How to train on a set.

    Attributes:
      kind: the set's kind, a record of `spips_jax.kinds`.
      opinion: the name of its human score, which determines the score's direction.
      comparable: over what two opinions can be compared, one of `kinds.COMPARABLE`. All
        losses of opinions compare examples of one set, reference or group only.
      weights: the weight of each loss, by its name in `LOSSES`.
      scale: the difference in distance that counts as clear, for "rank" and "choice".
      opinions: the (best, worst) opinion, which "l1" maps to the distances 0 and 1.
    """

    kind: Kind
    opinion: str
    comparable: str = "set"
    weights: tuple[tuple[str, float], ...]
    scale: float = 0.05
    opinions: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a loss sees of a batch over all devices, B examples.

    Attributes:
      distances: `(B, n)`, of the pairs that the kind compares.
      opinions: `(B,)`.
      groups: `(B,)` integers, the same for examples whose opinions can be compared;
        None for sets in which all can.
      ranker: parameters of `losses.Ranker`, where an objective needs them.
      errors: distillation errors `{"<loss>/<tap>": (B,)}`, where an objective needs
        them.
    """

    distances: jax.Array
    opinions: jax.Array
    groups: jax.Array | None = None
    ranker: Any = None
    errors: Mapping[str, jax.Array] | None = None


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A training loss.

    Attributes:
      value: computes it on a batch; 0 or more, smaller is better.
      learns_from: which sets it suits, by `Kind.learned_from`.
      needs_ranker: whether it trains a `losses.Ranker` with the model.
      needs_teacher: whether it needs a backbone to learn from.
    """

    value: Callable[[Seen, Objective], jax.Array]
    learns_from: str
    needs_ranker: bool = False
    needs_teacher: bool = False


def _rising(seen: Seen, objective: Objective) -> jax.Array:
    """Opinions, with the sign that rises with distances."""
    falls = OPINIONS[objective.opinion].higher_is_better
    return -seen.opinions if falls else seen.opinions


def _groups(seen: Seen, objective: Objective) -> jax.Array | None:
    """The groups of `spips_jax.losses`; raises if the batch lacks them."""
    if objective.comparable == "set":
        return None
    if seen.groups is None:
        raise ValueError(
            f"opinions compare only within a {objective.comparable}, and the batch has"
            " no column group that tells which examples share one: take batches from"
            " data.train_batches, or add it"
        )
    return seen.groups


def _plcc(seen: Seen, objective: Objective) -> jax.Array:
    return losses.plcc_loss(
        seen.distances[:, 0],
        _rising(seen, objective),
        groups=_groups(seen, objective),
    )


def _rank(seen: Seen, objective: Objective) -> jax.Array:
    return losses.rank_loss(
        seen.distances[:, 0],
        _rising(seen, objective),
        groups=_groups(seen, objective),
        scale=objective.scale,
    )


def _l1(seen: Seen, objective: Objective) -> jax.Array:
    best, worst = objective.opinions
    return losses.l1_loss(
        seen.distances[:, 0],
        (seen.opinions - best) / (worst - best),
        groups=_groups(seen, objective),
    )


def _ranker(seen: Seen, objective: Objective) -> jax.Array:
    logits: Any = losses.Ranker().apply(
        {"params": seen.ranker}, seen.distances[:, 0], seen.distances[:, 1]
    )
    return losses.choice_cross_entropy(logits, seen.opinions)


def _choice(seen: Seen, objective: Objective) -> jax.Array:
    logits = (seen.distances[:, 0] - seen.distances[:, 1]) / objective.scale
    return losses.choice_cross_entropy(logits, seen.opinions)


def _distilled(name: str) -> Loss:
    """The errors of one loss of `distill`, summed over taps, averaged over examples."""

    def value(seen: Seen, objective: Objective) -> jax.Array:
        errors = seen.errors or {}
        means = [
            jnp.mean(one) for tap, one in errors.items() if tap.startswith(f"{name}/")
        ]
        return jnp.sum(jnp.stack(means))

    return Loss(value=value, learns_from="opinions", needs_teacher=True)


LOSSES: dict[str, Loss] = {
    "plcc": Loss(value=_plcc, learns_from="opinions"),
    "rank": Loss(value=_rank, learns_from="opinions"),
    "l1": Loss(value=_l1, learns_from="opinions"),
    RANKER: Loss(value=_ranker, learns_from="choices", needs_ranker=True),
    "choice": Loss(value=_choice, learns_from="choices"),
    **{name: _distilled(name) for name in distill.LOSSES},
}


def check_losses(names: Mapping[str, float], kind: Kind, dataset: str) -> None:
    """Raises `ValueError` for a loss that does not exist or does not suit a set.

    Args:
      names: weights by the name of the loss.
      kind: the set's kind.
      dataset: the set's name, for the error.
    """
    suited = [name for name, one in LOSSES.items() if suits(one, kind)]
    for name in names:
        if name not in LOSSES:
            raise ValueError(one_of("loss", name, LOSSES))
        if name not in suited:
            use = f"are learned with {', '.join(suited)}" if suited else "only evaluate"
            raise ValueError(
                f"loss {name!r} does not suit {dataset}: sets of kind {kind.name} {use}"
            )


def suits(loss: Loss, kind: Kind) -> bool:
    """Whether a loss can train on sets of a kind."""
    return loss.learns_from == kind.learned_from


def loss_terms(seen: Seen, objective: Objective) -> dict[str, jax.Array]:
    """The losses of an objective by name, unweighted.

    They include the mean distillation errors by tap.
    """
    terms = {name: jnp.mean(error) for name, error in (seen.errors or {}).items()}
    for name, _ in objective.weights:
        terms[name] = LOSSES[name].value(seen, objective)
    return terms
