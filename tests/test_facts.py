"""Facts of a pair: what they measure, and that they stay finite."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.facts import FACTS, SIGNED, facts


def in_float64(reference: np.ndarray, distorted: np.ndarray) -> np.ndarray:
    """The definitions of `facts`, one image at a time, with SciPy's Gaussian."""
    moments, bands = [], []
    for image in (reference, distorted):
        red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        gradient = np.mean(np.diff(luma, axis=0) ** 2) + np.mean(np.diff(luma) ** 2)
        chroma = np.mean((red - luma) ** 2 + (blue - luma) ** 2)
        moments.append((luma.mean(), luma.var(), chroma, gradient))
        bands.append(band_energies(luma))
    x, y = np.array(moments)
    bands_x, bands_y = np.array(bands)
    floor = 0.02**2
    ratios = np.log(np.sqrt(y[1:] + floor) / np.sqrt(x[1:] + floor))
    fine, coarse = np.log(np.sqrt(bands_y + 1e-5) / np.sqrt(bands_x + 1e-5))
    texture = np.log10((bands_x + 1e-5) / 1e-3)
    return np.array([4 * (y[0] - x[0]), *ratios, fine - coarse, *texture])


def band_energies(luma: np.ndarray) -> tuple[float, float]:
    energies = []
    for _ in range(3):
        # Two sigmas to each side are five pixels.
        blurred = scipy.ndimage.gaussian_filter(luma, 1.0, truncate=2.0, mode="reflect")
        energies.append(np.mean((luma - blurred) ** 2))
        h, w = blurred.shape
        even = np.pad(blurred, ((0, h % 2), (0, w % 2)), mode="edge")
        luma = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3))
    return energies[0], energies[2]


def test_they_follow_their_definitions(pair):
    reference, distorted = pair(2, 37, 44)
    actual = facts(reference, distorted)
    assert actual.shape == (2, len(FACTS))
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
        ("fineness", lambda x: x + np.random.default_rng(0).normal(0, 0.05, x.shape)),
    ],
)
def test_each_rises_with_what_it_is_named_after(fact, change):
    noise = np.random.default_rng(1).random((40, 40, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (2, 2, 0))
    reference = (0.5 + 3 * (smooth - 0.5)).astype(np.float32)
    changed = change(reference).astype(np.float32)
    raised = facts(reference, changed)[SIGNED.index(fact)]
    lowered = facts(changed, reference)[SIGNED.index(fact)]
    assert raised > 0.1
    np.testing.assert_allclose(lowered, -raised, rtol=1e-5)  # float32


def test_texture_is_the_references_and_of_its_own_scale():
    fine = np.random.default_rng(0).random((64, 64, 1))
    coarse = np.kron(np.random.default_rng(1).random((8, 8, 1)), np.ones((8, 8, 1)))
    fine, coarse = (np.repeat(x, 3, axis=-1).astype(np.float32) for x in (fine, coarse))
    of_fine, of_coarse = facts(fine, coarse)[-2:], facts(coarse, fine)[-2:]
    assert of_fine[0] > of_coarse[0]
    assert of_coarse[1] > of_fine[1]
    np.testing.assert_array_equal(facts(fine, fine)[-2:], of_fine)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), flat=st.booleans())
def test_identical_images_changed_in_nothing(seed, flat):
    rng = np.random.default_rng(seed)
    image = np.broadcast_to(rng.random((1, 1, 3) if flat else (33, 35, 3)), (33, 35, 3))
    image = image.astype(np.float32)
    np.testing.assert_array_equal(facts(image, image)[: len(SIGNED)], 0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_of_flat_images_are_finite(value):
    flat = np.full((33, 33, 3), value, np.float32)
    gradients = jax.jacrev(facts, argnums=(0, 1))(flat, flat)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
