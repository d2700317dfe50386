"""Signed facts: what they measure, and that they stay finite."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.signed import SIGNED, signed_changes


def in_float64(reference: np.ndarray, distorted: np.ndarray) -> np.ndarray:
    """The definitions of `signed_changes`, one image at a time."""
    moments = []
    for image in (reference, distorted):
        red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        gradient = np.mean(np.diff(luma, axis=0) ** 2) + np.mean(np.diff(luma) ** 2)
        chroma = np.mean((red - luma) ** 2 + (blue - luma) ** 2)
        moments.append((luma.mean(), luma.var(), chroma, gradient))
    x, y = np.array(moments)
    floor = 0.02**2
    ratios = np.log(np.sqrt(y[1:] + floor) / np.sqrt(x[1:] + floor))
    return np.array([4 * (y[0] - x[0]), *ratios])


def test_they_follow_their_definitions(pair):
    reference, distorted = pair(2, 37, 44)
    actual = signed_changes(reference, distorted)
    expected = [in_float64(x, y) for x, y in zip(reference, distorted, strict=True)]
    # Float32 means over 1628 pixels.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fact", "change"),
    [
        ("luminance", lambda x: x + 0.1),
        ("contrast", lambda x: 0.5 + 1.3 * (x - 0.5)),
        ("saturation", lambda x: x + 0.5 * (x - x.mean(-1, keepdims=True))),
        ("sharpness", lambda x: x + np.random.default_rng(0).normal(0, 0.05, x.shape)),
    ],
)
def test_each_rises_with_what_it_is_named_after(pair, fact, change):
    reference, _ = pair(40, 40)
    changed = change(reference).astype(np.float32)
    raised = signed_changes(reference, changed)[SIGNED.index(fact)]
    lowered = signed_changes(changed, reference)[SIGNED.index(fact)]
    assert raised > 0.1
    np.testing.assert_allclose(lowered, -raised, rtol=1e-5)  # float32


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), flat=st.booleans())
def test_identical_images_changed_in_nothing(seed, flat):
    rng = np.random.default_rng(seed)
    image = np.broadcast_to(rng.random((1, 1, 3) if flat else (33, 35, 3)), (33, 35, 3))
    image = image.astype(np.float32)
    np.testing.assert_array_equal(signed_changes(image, image), 0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_of_flat_images_are_finite(value):
    flat = np.full((33, 33, 3), value, np.float32)
    gradients = jax.jacrev(signed_changes, argnums=(0, 1))(flat, flat)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
