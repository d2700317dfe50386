"""Shared by tests of checkpoints: a state, ways to save, read and damage one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spips_jax.training.checkpoint import Checkpoint, Checkpoints


@flax.struct.dataclass
class State:
    params: Any
    ema: Any
    optimiser: Any
    key: jax.Array
    step: jax.Array
    name: str = flax.struct.field(pytree_node=False, default="head")


def make_state(seed: int = 0, *, width: int = 3, optimiser: Any = None) -> State:
    """Leaves of float32, bfloat16, int32 and uint32, an empty one, a scalar."""
    rng = np.random.default_rng(seed)
    params = {
        "head": {"kernel": rng.normal(size=(300, width)).astype(np.float32)},
        "a/b.c 'd'": [np.float32([-0.0, np.inf, np.nan, 1e-45])],
        "half": np.asarray(jnp.asarray(rng.normal(size=7), jnp.bfloat16)),
        "empty": np.zeros((0, 3), np.float32),
    }
    optimiser = optimiser or optax.adamw(1e-3, weight_decay=0.1)
    return State(
        params=params,
        ema=jax.tree.map(np.copy, params),
        optimiser=optimiser.init(params),
        key=jax.random.key_data(jax.random.key(seed)),
        step=jnp.int32(seed),
    )


def assert_same(found: Any, expected: Any) -> None:
    """The same structure, types and bits; NaN and -0.0 count as what they are."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == np.asarray(other).tobytes()


def save(
    folder: Path, steps: range, *, metrics: dict[int, float] | None = None
) -> None:
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in steps:
            checkpoints.save(
                step,
                make_state(step),
                record={"next_batch": step},
                metric=(metrics or {}).get(step),
            )


def read(
    folder: Path, *, best: bool = False, read_only: bool = True
) -> tuple[Checkpoint | None, list[str]]:
    """Returns what is found in a folder, and the warnings."""
    with (
        Checkpoints(folder, read_only=read_only) as checkpoints,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        like = make_state()
        found = checkpoints.best(like) if best else checkpoints.latest(like)
    return found, [str(warning.message) for warning in caught]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def largest_data_file(step: Path) -> Path:
    return max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
