"""The content of a checkpoint: arrays by path, with type, shape and digest.

How it is written is in `checkpoint.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from spips_jax.messages import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or is of another state; one line."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was saved at a step.

    Attributes:
      step: the number of steps done.
      state: NumPy arrays in the requested structure; None from `describe`.
      record: the caller's JSON.
      metric: the validation result, larger is better; None where there was none.
    """

    step: int
    state: Any
    record: dict[str, Any]
    metric: float | None


def leaves_of(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, `(n,)` uint8."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(bytes_of(array).data).hexdigest()


def check_like(
    path: str | os.PathLike[str], leaves: Mapping[str, Any], like: Any
) -> None:
    """Raises `CheckpointError` unless saved arrays match the requested ones.

    Args:
      path: of the checkpoint, for the error.
      leaves: `{path: [dtype, shape, digest]}`, as saved.
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s.
    """

    def describe_leaf(dtype: Any, shape: Sequence[int]) -> str:
        return f"{dtype} {tuple(shape)}"

    saved = {name: describe_leaf(*leaf[:2]) for name, leaf in leaves.items()}
    asked = {
        name: describe_leaf(leaf.dtype, leaf.shape)
        for name, leaf in leaves_of(like).items()
    }
    for name in sorted(saved.keys() | asked.keys()):
        theirs, ours = saved.get(name, "missing"), asked.get(name, "missing")
        if theirs != ours:
            raise CheckpointError(
                f"{path} is of another model or optimiser: {name} is {theirs} in it and"
                f" {ours} here; use the config it was saved with, or another folder"
            )


def from_first_process(
    found: Checkpoint | None, damaged: dict[int, str], error: str, like: Any
) -> tuple[Checkpoint | None, dict[int, str], str]:
    """Returns the first process's arguments in all processes; `like` is each one's own.

    Arrays are sent as bytes, because the broadcast is a sum, which turns -0.0 into 0.0.
    """
    head = None if found is None else [found.step, found.record, found.metric]
    text = np.frombuffer(
        json.dumps([head, list(damaged.items()), error]).encode(), np.uint8
    )
    length = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, length))
    head, pairs, error = json.loads(text.tobytes())
    damaged = dict(pairs)
    if head is None:
        return None, damaged, error
    leaves, structure = jax.tree.flatten(like if found is None else found.state)
    parts = multihost_utils.broadcast_one_to_all(
        [
            np.zeros(math.prod(leaf.shape) * leaf.dtype.itemsize, np.uint8)
            if found is None
            else bytes_of(leaf)
            for leaf in leaves
        ]
    )
    state = jax.tree.unflatten(
        structure,
        [
            np.asarray(part).view(leaf.dtype).reshape(leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ],
    )
    step, record, metric = head
    return Checkpoint(step=step, state=state, record=record, metric=metric), damaged, ""
