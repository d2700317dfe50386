"""The gain: a factor of the score from what changed in the whole image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.facts import FACTS
from spips_jax.head import Gain

SEEDS = st.integers(0, 2**31)


def random_gain(seed: int, *, size: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)

    def group(count: int) -> dict[str, np.ndarray]:
        shapes = {"kernel": (count, 16), "bias": (16,), "output": (16,)}
        return {k: np.float32(size * rng.normal(size=n)) for k, n in shapes.items()}

    return {"params": {"luminance": group(1), "contrast_saturation": group(2)}}


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_it_follows_its_equation(seed):
    variables = random_gain(seed)
    facts = np.random.default_rng(seed).normal(0, 0.3, (5, len(FACTS)))
    large = facts**3 / (facts**2 + 0.05**2)
    inner = 0.0
    for group, columns in (("luminance", [0]), ("contrast_saturation", [1, 2])):
        kernel, bias, output = (
            variables["params"][group][name].astype(np.float64)
            for name in ("kernel", "bias", "output")
        )
        hidden = np.tanh(large[:, columns] @ kernel + bias) - np.tanh(bias)
        inner = inner + hidden @ output
    expected = np.exp(np.tanh(2 * inner) / 2)
    actual = Gain().apply(variables, jnp.asarray(facts, jnp.float32))
    # Float32, through an exponential of up to 1/2.
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_untrained_it_is_1():
    facts = np.random.default_rng(0).normal(size=(5, len(FACTS))).astype(np.float32)
    gain, _ = Gain().init_with_output(jax.random.key(0), facts)
    np.testing.assert_array_equal(gain, 1)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_it_is_1_where_nothing_changed(seed):
    """Exactly, whatever was learned."""
    nothing = np.zeros((2, 3, len(FACTS)), np.float32)
    np.testing.assert_array_equal(Gain().apply(random_gain(seed), nothing), 1)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_it_is_bounded_and_its_gradient_finite(size):
    facts = np.random.default_rng(1).normal(0, 10, (100, len(FACTS)))
    facts = np.concatenate([facts, np.zeros((1, len(FACTS)))]).astype(np.float32)
    variables = random_gain(0, size=size)
    gains = Gain().apply(variables, facts)
    # exp(1/2), and float32's rounding of it.
    assert np.all(np.abs(np.log(gains)) <= 0.5 + 1e-6)
    slope = jax.grad(lambda facts: Gain().apply(variables, facts).sum())(facts)
    assert np.isfinite(slope).all()


def test_light_and_contrast_add_up():
    """What was learned of contrast and colours says nothing of light."""
    variables = random_gain(5)
    alone = [np.float32([0.4, 0, 0]), np.float32([0, -0.3, 0.2])]
    light, contrast, both = (
        np.arctanh(2 * np.log(np.float64(Gain().apply(variables, facts))))
        for facts in (*alone, alone[0] + alone[1])
    )
    # Float32, through an exponential and back.
    np.testing.assert_allclose(both, light + contrast, rtol=1e-3)


def test_small_changes_hardly_count():
    """At a fifth of the size, less than a tenth of the effect."""
    variables = random_gain(3)
    small, large = (
        np.abs(np.log(Gain().apply(variables, np.full((1, 3), size, np.float32))))
        for size in (0.01, 0.05)
    )
    assert small < 0.1 * large
