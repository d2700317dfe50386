"""On real photographs, more distortion scores worse with every trained model."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import spips_jax

pytestmark = pytest.mark.usefixtures("optimized")


def jpeg(image: Image.Image, quality: float) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return np.array(Image.open(buffer))


def blur(image: Image.Image, sigma: float) -> np.ndarray:
    return np.array(image.filter(ImageFilter.GaussianBlur(sigma)))


def noise(image: Image.Image, sigma: float) -> np.ndarray:
    pixels = np.array(image)
    pixels = pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


LADDERS = {
    jpeg: (90, 70, 50, 30, 10),
    blur: (0.5, 1, 1.5, 2.5, 4),
    noise: (2, 5, 10, 20, 35),
}


@functools.cache
def ladders(path: Path) -> np.ndarray:
    """A photograph, then each distortion of it at each level."""
    # A third of the size, a ninth of the time.
    image = Image.open(path).convert("RGB").reduce(3)
    if image.height > image.width:  # of one shape, for one program
        image = image.transpose(Image.Transpose.ROTATE_90)
    distorted = [
        distort(image, level) for distort, levels in LADDERS.items() for level in levels
    ]
    return np.stack([np.array(image), *distorted])


def rises(metric: spips_jax.Metric, path: Path) -> np.ndarray:
    """Whether the score rises, by kind of distortion and level, from 0 on."""
    images = ladders(path)
    unchanged, *worse = metric(images[0], images).tolist()
    assert unchanged == 0
    scores = np.reshape(worse, (len(LADDERS), -1))
    scores = np.pad(scores, ((0, 0), (1, 0)), constant_values=unchanged)
    return np.diff(scores) > 0


def test_every_level_of_a_photograph_scores_worse(shared, embedded):
    assert rises(embedded, shared("data/kodak/kodim23.png")).all()


def test_scores_rise_with_distortion(shared, embedded):
    photographs = sorted(shared("data/kodak").glob("*.png"))[::4]
    assert len(photographs) == 6
    assert np.mean([rises(embedded, path) for path in photographs]) >= 0.97
