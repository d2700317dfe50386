"""On real photographs and real weights, more distortion scores worse."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

import spips_jax


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


@pytest.mark.slow
@pytest.mark.parametrize("network", ["alexnet", "squeezenet"])
def test_scores_rise_with_distortion(shared, real_weights, network):
    photographs = sorted(shared("data/kodak").glob("*.png"))
    assert len(photographs) == 24
    metric = spips_jax.load(f"spips-{network}", weights=real_weights(network))
    rises = []
    for path in photographs:
        # Half the size, a quarter of the time.
        image = Image.open(path).convert("RGB").reduce(2)
        original = np.array(image)
        features = metric.features(original)
        unchanged = float(metric(features, original))
        assert unchanged == 0
        for distort, levels in LADDERS.items():
            images = [distort(image, level) for level in levels]
            scores = [unchanged, *(float(metric(features, x)) for x in images)]
            rises.append(np.diff(scores) > 0)
    assert np.mean(rises) >= 0.95
