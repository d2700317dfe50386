"""Streams and head: equations and invariants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spips_jax.head import FreeHead, MonotoneHead
from spips_jax.streams import (
    FeatureStream,
    resize,
    squared_difference,
    structure_difference,
    texture_difference,
    unit_normalize,
)


def features(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=shape), 0).astype(np.float32)


def test_a_stream_map_follows_its_equation():
    x, y = features(0, 2, 5, 4, 7), features(1, 2, 5, 4, 7)
    weight = np.random.default_rng(2).random(7).astype(np.float32)
    stream = FeatureStream(taps=("relu1",))
    params = {"params": {"relu1": weight}}
    squares = squared_difference(jnp.asarray(x), jnp.asarray(y))
    actual = stream.apply(params, {"relu1": squares})["relu1"]
    x, y = x.astype(np.float64), y.astype(np.float64)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    expected = np.einsum("c,nhwc->nhw", weight, (x - y) ** 2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)  # float32 sums


def moments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each channel: both means, both variances, the covariance; in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean((0, 1)), y.mean((0, 1))
    covariance = ((x - mean_x) * (y - mean_y)).mean((0, 1))
    return mean_x, mean_y, x.var((0, 1)), y.var((0, 1)), covariance


def test_texture_is_what_dists_luminance_lacks_of_one():
    x, y = features(0, 9, 7, 6), features(1, 9, 7, 6)
    mean_x, mean_y, *_ = moments(x, y)
    c = 1e-3
    similarity = (2 * mean_x * mean_y + c) / (mean_x**2 + mean_y**2 + c)
    actual = texture_difference(jnp.asarray(x), jnp.asarray(y))
    # 1 - similarity is float64 here and of differences there: float32 of the means.
    np.testing.assert_allclose(actual, 1 - similarity, rtol=1e-4, atol=1e-7)


def test_structure_is_half_of_what_dists_structure_lacks_of_one():
    x, y = features(0, 9, 7, 6), features(1, 9, 7, 6)
    *_, var_x, var_y, covariance = moments(x, y)
    c = 1e-3
    similarity = (2 * covariance + c) / (var_x + var_y + c)
    local = structure_difference(jnp.asarray(x), jnp.asarray(y))
    actual = local.mean((0, 1))
    np.testing.assert_allclose(actual, (1 - similarity) / 2, rtol=1e-5)  # float32 sums


@settings(max_examples=30, deadline=None)
@given(
    images=hnp.arrays(np.float32, (2, 4, 3, 2), elements=st.floats(0, 100, width=32))
)
def test_texture_and_structure_are_in_the_unit_interval(images):
    x, y = jnp.asarray(images)
    for difference in (
        texture_difference(x, y),
        structure_difference(x, y).mean((0, 1)),
    ):
        assert (difference >= 0).all()
        assert (difference <= 1 + 1e-5).all()  # float32 sums
    np.testing.assert_array_equal(texture_difference(x, x), 0)
    np.testing.assert_array_equal(structure_difference(x, x), 0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_of_flat_features_are_finite(value):
    flat = jnp.full((4, 3, 2), value)
    for difference in (texture_difference, structure_difference):
        total = lambda *args, of=difference: of(*args).sum()  # noqa: E731
        gradients = jax.grad(total, argnums=(0, 1))(flat, 1.01 * flat)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_an_untrained_stream_is_the_mean_squared_error():
    x, y = features(0, 3, 3, 16), features(1, 3, 3, 16)
    stream = FeatureStream(taps=("relu1",))
    maps, _ = stream.init_with_output(jax.random.key(0), {"relu1": (x - y) ** 2})
    expected = ((x.astype(np.float64) - y) ** 2).mean(-1)
    np.testing.assert_allclose(maps["relu1"], expected, rtol=1e-5)  # float32 sums


def test_negative_channel_weights_count_as_zero():
    x, y = features(0, 3, 3, 4), features(1, 3, 3, 4)
    stream = FeatureStream(taps=("relu1",))
    params = {"params": {"relu1": np.full(4, -1, np.float32)}}
    assert (stream.apply(params, {"relu1": (x - y) ** 2})["relu1"] == 0).all()


def test_unit_normalisation_is_finite_at_zero_features():
    zeros = jnp.zeros((2, 2, 8))
    np.testing.assert_array_equal(unit_normalize(zeros), zeros)
    gradient = jax.grad(lambda x: unit_normalize(x).sum())(zeros)
    assert np.isfinite(gradient).all()


def test_resize_interpolates_like_scipy():
    import scipy.ndimage

    maps = features(0, 6, 5)
    expected = scipy.ndimage.zoom(
        maps.astype(np.float64), (4, 3), order=1, mode="nearest", grid_mode=True
    )
    np.testing.assert_allclose(resize(maps, 24, 15), expected, atol=1e-6)  # float32


def head_of(seed: int, n: int = 5) -> tuple[MonotoneHead, dict]:
    head = MonotoneHead(initial=(1 / n,) * n, width=8)
    params = head.init(jax.random.key(seed), jnp.zeros(n))["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda w: (w + rng.normal(size=w.shape)).astype(np.float32), params
    )
    return head, {"params": params}


def test_the_untrained_head_is_the_weighted_sum_it_is_given():
    weights = (0.1, 0.2, 0.7)
    inputs = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    score, _ = MonotoneHead(initial=weights).init_with_output(
        jax.random.key(0), jnp.asarray(inputs)
    )
    np.testing.assert_allclose(score, inputs @ np.array(weights), rtol=1e-6)  # float32


def test_the_head_follows_its_equation():
    head, variables = head_of(3)
    inputs = np.random.default_rng(1).random((6, 5))
    p = {k: np.asarray(v, np.float64) for k, v in variables["params"].items()}
    p = {k: v if k == "bias" else np.maximum(v, 0) for k, v in p.items()}

    def softplus(z):
        return -scipy.special.log_expit(-z)

    z = inputs @ p["kernel"]
    convex = softplus(z + p["bias"]) - softplus(p["bias"])
    concave = softplus(p["bias"]) - softplus(p["bias"] - z)
    hidden = np.where(np.arange(8) % 2 == 0, convex, concave)
    expected = inputs @ p["linear"] + hidden @ p["output"]
    actual = head.apply(variables, jnp.asarray(inputs, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)  # float32 sums


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 50),
    inputs=hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)),
    more=hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)),
)
def test_any_head_is_monotone_and_zero_at_zero(seed, inputs, more):
    head, variables = head_of(seed)
    assert head.apply(variables, jnp.zeros(5)) == 0
    low = head.apply(variables, jnp.asarray(inputs))
    high = head.apply(variables, jnp.asarray(inputs + more))
    assert low >= 0
    assert high >= low * (1 - 1e-5) - 1e-6  # float32's rounding of equal values


def test_the_free_head_follows_its_equation():
    rng = np.random.default_rng(0)
    head = FreeHead(initial=(0.2,) * 5, width=8)
    params = head.init(jax.random.key(0), jnp.zeros(5))["params"]
    p = {k: np.asarray(v) + rng.normal(size=v.shape) for k, v in params.items()}
    inputs = rng.random((6, 5))
    hidden = np.tanh(inputs @ p["free_kernel"] + p["bias"]) - np.tanh(p["bias"])
    expected = np.abs(inputs @ p["free_linear"] + hidden @ p["free_output"])
    variables = {"params": {k: v.astype(np.float32) for k, v in p.items()}}
    actual = head.apply(variables, jnp.asarray(inputs, jnp.float32))
    # float32, of terms that cancel.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert head.apply(variables, jnp.zeros(5)) == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_heads_gradient_is_finite(value):
    head, variables = head_of(0)
    gradients = jax.grad(head.apply, argnums=(0, 1))(variables, jnp.full(5, value))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
