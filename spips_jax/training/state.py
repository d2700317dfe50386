"""The state of training: parameters, their moving average, the optimiser, the step.

Parameters are flat here, `{"semantic/relu5": array}`. Their paths determine which are
trained; only those are in the state. The rest, `frozen`, is a separate argument, so
that parameters that never change are not differentiated, averaged or saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

Params = dict[str, jax.Array]

NON_NEGATIVE = re.compile(r"(perceptual|semantic)/.*|head/(linear|kernel|output)")
"""Paths of parameters whose negative values count as 0. They are clamped at 0, as
LPIPS's are (Zhang et al., arXiv 1801.03924); below it they could never come back."""


@flax.struct.dataclass
class TrainState:
    """What a step changes.

    Attributes:
      step: batches seen, int32.
      params: the trained parameters.
      average: their exponential moving average; empty where none is kept.
      opt_state: the optimiser's.
    """

    step: jax.Array
    params: Params
    average: Params
    opt_state: Any

    @property
    def evaluation_params(self) -> Params:
        """The parameters to evaluate with: the average where there is one."""
        return self.average or self.params


def create(
    params: Params, tx: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average=jax.tree.map(jnp.array, params) if average else {},
        opt_state=tx.init(params),
    )


def flatten(params: Mapping[str, Any]) -> Params:
    """A Flax parameter tree by path, `{"head/kernel": array}`."""
    return traverse_util.flatten_dict(dict(params), sep="/")


def unflatten(*params: Params) -> dict[str, Any]:
    """The Flax parameter tree of parameters by path, merged from several dicts."""
    merged: Params = {}
    for part in params:
        merged |= part
    return traverse_util.unflatten_dict(merged, sep="/")


def partition(params: Params, trainable: str) -> tuple[Params, Params]:
    """Splits parameters into (trained, frozen) by their paths.

    Args:
      params: by path.
      trainable: comma-separated regular expressions. One selects each path whose
        beginning, up to a slash or the end, it matches: "semantic,head",
        "backbone/conv[45],semantic", ".*".

    Raises:
      ValueError: an expression that is malformed or selects no parameter.
    """
    chosen: set[str] = set()
    for expression in filter(None, (part.strip() for part in trainable.split(","))):
        try:
            pattern = re.compile(rf"(?:{expression})(?:/.*)?")
        except re.error as error:
            raise ValueError(
                f"trainable has {expression!r}, which is no regular expression: {error}"
            ) from None
        found = {path for path in params if pattern.fullmatch(path)}
        if not found:
            parts = sorted({path.partition("/")[0] for path in params})
            raise ValueError(
                f"trainable has {expression!r}, which no parameter's path begins with;"
                f" they begin with {', '.join(parts)}"
            )
        chosen |= found
    if not chosen:
        raise ValueError("trainable is empty: name at least one part, such as 'head'")
    return (
        {path: value for path, value in params.items() if path in chosen},
        {path: value for path, value in params.items() if path not in chosen},
    )


def learning_rates(
    *,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    hold_steps: int,
    num_steps: int,
) -> optax.Schedule:
    """Linear warm-up, a hold, and a decay to 0 at the last step.

    Args:
      learning_rate: the highest rate.
      schedule: "cosine" or "linear" decay, or "constant": none.
      warmup_steps: steps of the rise from 0.
      hold_steps: steps at the highest rate before the decay.
      num_steps: total number of steps.
    """
    decay_steps = max(num_steps - warmup_steps - hold_steps, 1)
    decays = {
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, decay_steps),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, decay_steps),
        "constant": lambda: optax.constant_schedule(learning_rate),
    }
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, learning_rate, max(warmup_steps, 1)),
            optax.constant_schedule(learning_rate),
            decays[schedule](),
        ],
        [warmup_steps, warmup_steps + hold_steps],
    )


def optimizer(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    b1: float,
    b2: float,
    clip: float,
    accumulate: int,
    multipliers: Mapping[str, float],
) -> optax.GradientTransformation:
    """AdamW with clipping by global norm, a rate per part, and gradient accumulation.

    Args:
      schedule: the learning rate by update.
      weight_decay: AdamW's, on matrices and kernels only.
      b1: decay of the first moment.
      b2: decay of the second moment.
      clip: largest global norm of a gradient; 0 for no clipping.
      accumulate: batches whose mean gradient makes one update.
      multipliers: factors of the learning rate by the first name of a path.
    """

    def scaled(updates: Params, params: Params | None) -> Params:
        return {
            path: update * multipliers.get(path.partition("/")[0], 1.0)
            for path, update in updates.items()
        }

    tx = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        optax.adamw(
            schedule,
            b1=b1,
            b2=b2,
            weight_decay=weight_decay,
            mask=lambda params: {path: x.ndim > 1 for path, x in params.items()},
        ),
        optax.stateless(scaled),
        optax.masked(
            optax.keep_params_nonnegative(),
            lambda params: {
                path: bool(NON_NEGATIVE.fullmatch(path)) for path in params
            },
        ),
    )
    if accumulate > 1:
        steps = optax.MultiSteps(tx, every_k_schedule=accumulate)
        return optax.GradientTransformation(steps.init, steps.update)
    return tx
