"""Facts of a pair: what they measure, and that they stay finite."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.facts import FACTS, facts


def in_float64(reference: np.ndarray, distorted: np.ndarray) -> np.ndarray:
    """The definitions of `facts`, one image at a time."""
    lumas, chromas = [], []
    for image in (reference, distorted):
        red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        lumas.append(luma)
        chromas.append(np.mean((red - luma) ** 2 + (blue - luma) ** 2))
    x, y = lumas
    floor = 0.02**2
    ((variance, shared), _) = np.cov(x.ravel(), y.ravel(), bias=True)
    contrast = np.log((max(shared, 0) + floor) / (variance + floor))
    saturation = np.log(np.sqrt(chromas[1] + floor) / np.sqrt(chromas[0] + floor))
    return np.array([4 * (y.mean() - x.mean()), contrast, saturation])


@pytest.mark.parametrize("negative", [False, True])
def test_they_follow_their_definitions(pair, negative):
    reference, distorted = pair(2, 37, 44)
    distorted = 1 - distorted if negative else distorted
    actual = facts(reference, distorted)
    assert actual.shape == (2, len(FACTS))
    expected = [in_float64(x, y) for x, y in zip(reference, distorted, strict=True)]
    # Float32 means over 1628 pixels.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def smooth_image() -> np.ndarray:
    noise = np.random.default_rng(1).random((40, 40, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (2, 2, 0))
    return (0.5 + 3 * (smooth - 0.5)).astype(np.float32)


@pytest.mark.parametrize(
    ("fact", "change"),
    [
        ("luminance", lambda x: x + 0.1),
        ("contrast", lambda x: 0.5 + 1.3 * (x - 0.5)),
        ("saturation", lambda x: x + 0.5 * (x - x.mean(-1, keepdims=True))),
    ],
)
def test_each_rises_with_what_it_is_named_after(fact, change):
    reference = smooth_image()
    changed = change(reference).astype(np.float32)
    raised = facts(reference, changed)[FACTS.index(fact)]
    lowered = facts(changed, reference)[FACTS.index(fact)]
    assert raised > 0.1
    # Float32; two lumas that are multiples of each other have opposite contrasts but
    # for the floor, 1 % of this image's variance.
    np.testing.assert_allclose(lowered, -raised, rtol=0.02)


def test_noise_changes_no_contrast():
    reference = smooth_image()
    noise = np.random.default_rng(0).normal(0, 0.05, reference.shape)
    noisy = (reference + noise).astype(np.float32)
    contrast = facts(reference, noisy)[FACTS.index("contrast")]
    ratio = np.log(noisy.mean(-1).std() / reference.mean(-1).std())
    # Of the 1600 pixels' noise a thirtieth part stays, by chance.
    assert abs(contrast) < 0.25 * ratio


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), flat=st.booleans())
def test_identical_images_changed_in_nothing(seed, flat):
    rng = np.random.default_rng(seed)
    image = np.broadcast_to(rng.random((1, 1, 3) if flat else (33, 35, 3)), (33, 35, 3))
    image = image.astype(np.float32)
    np.testing.assert_array_equal(facts(image, image), 0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_of_flat_images_are_finite(value):
    flat = np.full((33, 33, 3), value, np.float32)
    gradients = jax.jacrev(facts, argnums=(0, 1))(flat, flat)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
