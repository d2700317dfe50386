"""Parameters by path, schedules and the optimiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.training import state

PATHS = (
    "backbone/conv1/kernel", "backbone/conv5/kernel", "backbone/conv5/bias",
    "semantic/relu5", "head/kernel", "head/linear", "gain/output",
)  # fmt: skip


def params(value: float = 1.0) -> state.Params:
    return {
        path: jnp.full((2, 2) if "kernel" in path else (2,), value) for path in PATHS
    }


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("head", {"head/kernel", "head/linear"}),
        ("head/linear", {"head/linear"}),
        (
            "backbone/conv[45], semantic",
            {"backbone/conv5/kernel", "backbone/conv5/bias", "semantic/relu5"},
        ),
        (".*", set(PATHS)),
        ("(?!backbone).*", {path for path in PATHS if "backbone" not in path}),
    ],
)
def test_paths_say_what_is_trained(trainable: str, expected: set[str]) -> None:
    trained, frozen = state.partition(params(), trainable)
    assert set(trained) == expected
    assert set(frozen) == set(PATHS) - expected


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("", "trainable is empty"),
        ("heads", "'heads', which no parameter's path begins with; they begin with b"),
        ("hea", "'hea', which no parameter's path begins with"),
        ("head,conv5", "'conv5', which no parameter's path begins with"),
        ("head(", r"'head\(', which is no regular expression"),
    ],
)
def test_paths_that_name_nothing_are_refused(trainable: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        state.partition(params(), trainable)


def test_parameters_come_back_from_their_paths() -> None:
    tree = {"head": {"kernel": 1, "bias": 2}, "gain": {"output": 3}}
    flat = state.flatten(tree)
    assert flat == {"head/kernel": 1, "head/bias": 2, "gain/output": 3}
    first = {"gain/output": flat.pop("gain/output")}
    assert state.unflatten(first, flat) == tree


@settings(deadline=None)  # the first call compiles
@given(
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    warmup=st.integers(0, 20),
    hold=st.integers(0, 20),
    rest=st.integers(1, 50),
)
def test_the_learning_rate_rises_holds_and_falls(
    schedule: str, warmup: int, hold: int, rest: int
) -> None:
    rate = state.learning_rates(
        learning_rate=0.5,
        schedule=schedule,
        warmup_steps=warmup,
        hold_steps=hold,
        num_steps=warmup + hold + rest,
    )
    for step in range(warmup):
        np.testing.assert_allclose(rate(step), 0.5 * step / warmup, rtol=1e-6)
    for step in range(warmup, warmup + hold + 1):
        np.testing.assert_allclose(rate(step), 0.5, rtol=1e-6)
    for step in range(rest + 1):
        expected = {
            "cosine": 0.25 * (1 + np.cos(np.pi * step / rest)),
            "linear": 0.5 * (1 - step / rest),
            "constant": 0.5,
        }[schedule]
        actual = rate(warmup + hold + step)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)  # float32


OPTIONS = {
    "weight_decay": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "clip": 0.0,
    "accumulate": 1,
    "multipliers": {},
}


def updated(gradients: list[state.Params], **options: object) -> state.Params:
    """Parameters of 1 after updates with a rate of 0.1."""
    tx = state.optimizer(lambda step: 0.1, **{**OPTIONS, **options})
    values = params()
    opt_state = tx.init(values)
    for gradient in gradients:
        updates, opt_state = tx.update(gradient, opt_state, values)
        values = jax.tree.map(jnp.add, values, updates)
    return values


def test_one_step_of_adam_moves_by_the_rate_of_each_part() -> None:
    after = updated([params(3.0)], multipliers={"backbone": 0.01, "gain": 2.0})
    for path, value in after.items():
        factor = {"backbone": 0.01, "gain": 2.0}.get(path.split("/")[0], 1.0)
        # Adam's first step is the rate times the gradient's sign, but for its epsilon
        # and float32's rounding of the bias correction 1 - 0.999.
        np.testing.assert_allclose(value, 1 - 0.1 * factor, rtol=1e-5)


def test_only_what_must_be_is_held_at_zero() -> None:
    after = updated([params(1.0)] * 20)
    for path in ("semantic/relu5", "head/kernel", "head/linear"):
        np.testing.assert_array_equal(after[path], 0)
    for path in ("gain/output", "backbone/conv5/bias"):
        assert (after[path] < -0.5).all()


def test_weights_decay_where_they_are_matrices() -> None:
    after = updated([params(0.0)], weight_decay=0.5)
    np.testing.assert_allclose(after["head/kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(after["head/linear"], 1)


def test_clipping_bounds_the_norm_over_all_parameters() -> None:
    # Of sums of gradients Adam sees nothing, of their proportion over time it does:
    # a tall one after a low one counts for as much if both are clipped.
    low, tall = params(10.0), params(1000.0)
    clipped = updated([low, tall], clip=1.0)
    same = updated([low, low], clip=1.0)
    for path in PATHS:
        np.testing.assert_allclose(clipped[path], same[path], rtol=1e-6)


def test_accumulation_is_one_update_with_the_mean_gradient() -> None:
    rng = np.random.default_rng(0)
    parts = [
        {path: jnp.asarray(rng.normal(size=x.shape)) for path, x in params().items()}
        for _ in range(3)
    ]
    mean = {path: sum(part[path] for part in parts) / 3 for path in PATHS}
    accumulated, at_once = updated(parts, accumulate=3), updated([mean])
    for path in PATHS:
        np.testing.assert_allclose(accumulated[path], at_once[path], rtol=1e-5)
    two = updated(parts[:2], accumulate=3)
    assert all((two[path] == 1).all() for path in PATHS)
