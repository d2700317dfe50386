"""The procedural scenes: reproducible, various, and like photographs in statistics."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spips_jax.data.scenes import MIN_SIZE, SUBJECTS, scene

NUMBERS = range(16)  # every subject twice


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene(number) for number in NUMBERS]


def luma(image: np.ndarray) -> np.ndarray:
    return image @ [0.299, 0.587, 0.114]


def spectral_slope(image: np.ndarray) -> float:
    """Exponent of the power spectrum, fitted over rings of equal width in octaves."""
    plane = luma(image)
    height, width = plane.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = np.geomspace(4 / height, 0.35, 14)  # below the corner, above the window
    rings = [
        power[(low <= frequency) & (frequency < high)].mean()
        for low, high in itertools.pairwise(edges)
    ]
    centers = np.sqrt(edges[:-1] * edges[1:])
    return np.polyfit(np.log(centers), np.log(rings), 1)[0]


def test_scenes_are_rgb_bytes_of_the_default_size(scenes):
    for image in scenes:
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8


@pytest.mark.parametrize("number", range(len(SUBJECTS)))
@pytest.mark.parametrize("size", [(32, 32), (37, 50), (120, 33)])
def test_every_subject_fits_any_size(number, size):
    height, width = size
    image = scene(number, height=height, width=width)
    assert image.shape == (height, width, 3)
    assert image.std() > 10  # grey values: something is there


def test_a_number_always_gives_the_same_scene(scenes):
    for number in (3, 10):
        np.testing.assert_array_equal(scene(number), scenes[number])


def test_scenes_differ(scenes):
    for first, image in enumerate(scenes):
        for other in scenes[:first]:
            difference = np.abs(image.astype(float) - other)
            assert difference.mean() > 12  # grey values


@pytest.mark.parametrize("number", NUMBERS)
def test_power_falls_with_frequency_as_in_photographs(scenes, number):
    # Photographs have exponents around -2, single ones from -1 to -3.
    assert -3.2 < spectral_slope(scenes[number]) < -1.4


def test_the_slope_that_is_tested_is_that_of_known_noise():
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    frequency[0, 0] = 1
    slopes = []
    for _ in range(8):  # the lowest ring has few frequencies: one alone is off by 0.1
        spectrum = np.fft.fft2(rng.standard_normal((256, 256))) / frequency
        noise = np.fft.ifft2(spectrum).real
        slopes.append(spectral_slope(np.stack([noise] * 3, axis=-1)))
    assert np.mean(slopes) == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("number", NUMBERS)
def test_gradients_have_the_heavy_tails_of_edges(scenes, number):
    # Flat stretches and sharp edges: far from a Gaussian, whose kurtosis is 3.
    gradient = np.diff(luma(scenes[number]), axis=1)
    kurtosis = np.mean(gradient**4) / np.mean(gradient**2) ** 2
    assert kurtosis > 4


@pytest.mark.parametrize("number", NUMBERS)
def test_values_span_most_of_the_range_and_are_not_grey(scenes, number):
    image = scenes[number]
    low, high = np.percentile(image, (1, 99))
    assert high - low > 120
    assert np.ptp(image.astype(float), axis=-1).mean() > 5
    assert np.mean(image == 255) < 0.1  # hardly clipped


def test_scenes_are_dark_and_bright_smooth_and_busy(scenes):
    means = [image.mean() for image in scenes]
    assert min(means) < 70
    assert max(means) > 150
    busy = [np.abs(np.diff(luma(image), axis=0)).mean() for image in scenes]
    assert max(busy) > 4 * min(busy)


@pytest.mark.parametrize(
    ("number", "height", "width", "message"),
    [
        (-1, 64, 64, "scene number is -1: it must be 0 or more"),
        (0, 31, 64, f"height is 31: it must be at least {MIN_SIZE}"),
        (0, 64, 8, f"width is 8: it must be at least {MIN_SIZE}"),
    ],
)
def test_what_cannot_be_painted_is_refused(number, height, width, message):
    with pytest.raises(ValueError, match=message) as caught:
        scene(number, height=height, width=width)
    assert "\n" not in str(caught.value)
