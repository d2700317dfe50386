"""Linear functions with their transposes: forward, reverse, both, and `vmap`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spips_jax import classical
from spips_jax.classical import filters, wavelets
from spips_jax.classical.linear import there

# Of sums of a dozen float32 numbers about 1 in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}

WINDOW = filters.gaussian_window(11, 1.5)


def matrix(function, *shape: int) -> np.ndarray:
    """The matrix of a linear function of arrays of a shape."""
    size = int(np.prod(shape))
    columns = jax.vmap(lambda x: function(x).reshape(-1))
    return np.asarray(columns(jnp.eye(size).reshape(size, *shape))).T


FUNCTIONS = {
    "mirror": lambda x: filters.mirror(x, 5),
    "blur_inside": lambda x: filters.blur_inside(x, WINDOW),
    "blur": lambda x: filters.blur(x, WINDOW),
    "double": lambda x: filters.double(x, 2 * x.shape[-2] - 1, 2 * x.shape[-1]),
    "halve_and_mirror": lambda x: filters.halve_and_mirror(x, 3),
    "there": there,
    "Haar": wavelets._coefficients,
}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(11, 13), (12, 16)])
def test_every_mode_agrees_with_the_matrix(name, shape, small, monkeypatch):
    """Its rows are the gradient's, whether by matrix products or by shifts."""
    if not small:
        monkeypatch.setattr(filters, "SMALL", 0)
    function = FUNCTIONS[name]
    weights = matrix(function, *shape)
    random = np.random.default_rng(0)
    x, way = random.normal(size=(2, 3, *shape)).astype(np.float32)
    value, forward = jax.jvp(function, (x,), (way,))
    np.testing.assert_allclose(
        value.reshape(3, -1), x.reshape(3, -1) @ weights.T, **TOLERANCE
    )
    np.testing.assert_allclose(forward, function(way), **TOLERANCE)
    back = random.normal(size=value.shape).astype(np.float32)
    _, pull = jax.vjp(function, x)
    expected = (back.reshape(3, -1) @ weights).reshape(x.shape)
    np.testing.assert_allclose(pull(back)[0], expected, **TOLERANCE)


def test_filters_are_those_of_numpy():
    x = np.random.default_rng(0).normal(size=(2, 9, 14)).astype(np.float32)
    widths = [(0, 0), (5, 5), (5, 5)]
    np.testing.assert_array_equal(
        filters.mirror(x, 5), np.pad(x, widths, mode="symmetric")
    )
    even = np.pad(x, [(0, 0), (0, 1), (0, 0)], mode="edge")
    halves = even.reshape(2, 5, 2, 7, 2).mean((2, 4))
    found = filters.halve_and_mirror(jnp.asarray(x), 2)
    expected = np.pad(halves, [(0, 0), (2, 2), (2, 2)], mode="symmetric")
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("value", [1.0, -np.inf, np.inf])
def test_what_is_written_is_what_was_given(value):
    x = jnp.asarray([[value, 2.0], [np.nan, 4.0]])
    np.testing.assert_array_equal(jax.jit(there)(x), x)


def test_nan_stays_nan():
    assert np.isnan(jax.jit(there)(jnp.full((2, 2), np.nan))).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_checkpoint_and_scan(name):
    function = FUNCTIONS[name]
    planes = np.random.default_rng(0).random((2, 11, 13), np.float32)

    def total(planes, function):
        def add(sum, plane):
            return sum + jnp.square(function(plane)).sum(), None

        return jax.lax.scan(add, 0.0, planes)[0]

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    found = gradient(planes, jax.checkpoint(function))
    expected = jax.grad(lambda x: jnp.square(function(x)).sum())(planes)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_forward_mode_of_the_papers_metrics(name):
    random = np.random.default_rng(1)
    x = random.random((48, 64, 3), np.float32)
    y = np.clip(x + random.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)
    way = random.normal(size=x.shape).astype(np.float32)
    function = jax.jit(lambda y: getattr(classical, name)(x, y))
    _, forward = jax.jvp(function, (y,), (way,))
    # Sums in another order.
    expected = np.vdot(jax.grad(function)(y), way)
    np.testing.assert_allclose(forward, expected, rtol=1e-3)
