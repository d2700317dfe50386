"""The array contract."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spips_jax import images
from spips_jax.images import ImageError, check_images, to_unit_range


def test_value_ranges_map_to_the_unit_interval():
    stored = np.array([0, 51, 255], np.uint8)
    for value, value_range in (
        (stored, (0, 1)),  # uint8 means (0, 255) whatever is said
        (stored.astype(np.float32), (0, 255)),
        (stored / 255, (0, 1)),
        (stored / 255 * 2 - 1, (-1, 1)),
        (jnp.asarray(stored / 255, jnp.float32), (0, 1)),
    ):
        unit = to_unit_range(value, value_range=value_range)
        assert unit.dtype == jnp.float32
        np.testing.assert_allclose(unit, [0, 0.2, 1], atol=1e-7)  # float32


def test_imagenet_normalisation_uses_torchvisions_statistics():
    pixel = np.array([0.485 + 0.229, 0.456, 0.406 - 0.225], np.float32)
    actual = images.imagenet_normalize(jnp.asarray(pixel).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(actual.ravel(), [1, 0, -1], atol=1e-6)  # float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_one_value_that_is_not_finite_is_refused(make, value):
    array = np.full((33, 40, 3), 0.5, np.float32)
    array[20, 7, 1] = value
    with pytest.raises(ImageError, match="NaN or inf"):
        check_images(make(array))


@pytest.mark.parametrize(
    "transform",
    [jax.jit, jax.grad, jax.checkpoint, lambda f: jax.jit(jax.grad(f)), jax.vmap],
    ids=["jit", "grad", "checkpoint", "jit of grad", "vmap"],
)
def test_arrays_that_are_closed_over_are_checked_by_value(transform):
    def total(reference):
        def inner(distorted):
            check_images(reference)
            check_images(distorted)
            return distorted.sum()

        return inner

    distorted = jnp.full((2, 32, 32, 3), 0.5)
    transform(total(jnp.full((32, 32, 3), 0.5)))(distorted)
    with pytest.raises(ImageError, match="far outside its value_range"):
        transform(total(jnp.full((32, 32, 3), 255.0)))(distorted)


@pytest.mark.parametrize(
    ("array", "value_range", "message"),
    [
        (np.zeros((12, 40, 3)), (0, 1), "height 12 is below the 32"),
        (np.zeros((40, 31, 3)), (0, 1), "width 31 is below the 32"),
        (np.zeros((40, 40)), (0, 1), r"shape \(40, 40\)"),
        (np.zeros((40, 40, 4)), (0, 1), r"shape \(40, 40, 4\)"),
        (np.zeros((40, 40, 3), np.int32), (0, 1), "dtype int32"),
        (np.full((40, 40, 3), np.nan), (0, 1), "NaN or inf"),
        (jnp.full((40, 40, 3), jnp.inf), (0, 1), "NaN or inf"),
        (np.full((40, 40, 3), 255.0), (0, 1), r"from 255 to 255.*\(0, 1\)"),
        (np.full((40, 40, 3), -1.0), (0, 1), r"from -1 to -1.*\(0, 1\)"),
        (jnp.full((40, 40, 3), 3.0), (-1, 1), r"from 3 to 3.*\(-1, 1\)"),
        (np.zeros((40, 40, 3)), (1, 0), r"value_range is \(1, 0\)"),
        ([[0.5]], (0, 1), "builtins.list: give a NumPy or JAX array"),
    ],
)
def test_arrays_that_break_the_contract_are_named(array, value_range, message):
    with pytest.raises(ImageError, match=message) as caught:
        check_images(array, value_range=value_range, name="distorted")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(("distorted", "value_range"))


def test_a_small_overshoot_is_kept():
    check_images(np.full((32, 32, 3), 1.4), name="distorted")
    check_images(np.full((32, 32, 3), -0.4), name="distorted")


def test_values_are_not_looked_at_under_a_transformation():
    @jax.jit
    def traced(array):
        check_images(array, name="distorted")
        return array

    traced(jnp.full((32, 32, 3), jnp.nan))
