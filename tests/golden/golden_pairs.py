"""The pairs of images that piq_values.py hands to piq and the tests to ours.

Only lossless photographs and exact integer arithmetic: every machine makes the same
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Distortion = Callable[[np.ndarray], np.ndarray]

EXAMPLE = Path(__file__).parents[2] / "spips_jax/models/example/reference.png"


def noise(strength: int) -> Distortion:
    """Uniform noise of up to `strength` levels."""

    def distort(image: np.ndarray) -> np.ndarray:
        # RandomState's stream is frozen, unlike the newer generators'.
        random = np.random.RandomState(2504)
        return image + random.randint(-strength, strength + 1, image.shape)

    return distort


def blur(side: int) -> Distortion:
    """The mean over squares, edges repeated."""

    def distort(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        edges = [(side // 2, side - 1 - side // 2)] * 2
        padded = np.pad(image, [*edges, (0, 0)], "edge")
        total = sum(
            padded[row : row + height, column : column + width]
            for row in range(side)
            for column in range(side)
        )
        return total // side**2

    return distort


def contrast(numerator: int, denominator: int) -> Distortion:
    """Distances from 128, scaled."""
    return lambda image: 128 + (image - 128) * numerator // denominator


def saturation(numerator: int, denominator: int) -> Distortion:
    """Distances from the mean of R, G and B, scaled."""

    def distort(image: np.ndarray) -> np.ndarray:
        grey = image.sum(-1, keepdims=True) // 3
        return grey + (image - grey) * numerator // denominator

    return distort


def steps(size: int) -> Distortion:
    """Quantisation."""
    return lambda image: image // size * size + size // 2


def shift(levels: int) -> Distortion:
    """A change of the mean."""
    return lambda image: image + levels


def blocks(side: int) -> Distortion:
    """Every third block is replaced by its first pixel."""

    def distort(image: np.ndarray) -> np.ndarray:
        row, column = (np.arange(size) for size in image.shape[:2])
        flat = image[row // side * side][:, column // side * side]
        chosen = (row[:, None] // side + 2 * (column[None] // side)) % 3 == 0
        return np.where(chosen[..., None], flat, image)

    return distort


PAIRS: dict[str, tuple[str, tuple[int, int, int, int], Distortion]] = {
    "example-noise": ("", (0, 0, 256, 256), noise(30)),
    "example-blur": ("", (13, 20, 131, 97), blur(3)),
    "example-blocks": ("", (40, 9, 64, 48), blocks(8)),
    "kodak-steps": ("kodak/kodim03.png", (0, 0, 511, 767), steps(24)),
    "kodak-contrast": ("kodak/kodim08.png", (64, 100, 384, 512), contrast(3, 5)),
    "kodak-saturation": ("kodak/kodim23.png", (5, 7, 333, 500), saturation(9, 5)),
    "kodak-shift": ("kodak/kodim15.png", (1, 1, 511, 767), shift(25)),
    "kodak-noise": ("kodak/kodim13.png", (100, 0, 384, 512), noise(12)),
    "kodak-blur": ("kodak/kodim19.png", (50, 80, 256, 256), blur(5)),
    "photo-noise": ("photos/bsd68_101085.png", (99, 30, 256, 256), noise(20)),
    "photo-blur": ("photos/wiki_021.png", (90, 0, 801, 1203), blur(4)),
    "photo-blocks": ("photos/wiki_025.png", (300, 300, 131, 97), blocks(11)),
}
"""Name: photograph, "" for the one in the package; row, column, height, width of the
part taken; distortion."""


def pairs(shared: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names, references and distorted images, uint8, of those photographs that are
    there.
    """
    for name in PAIRS:
        pair = pair_of(name, shared)
        if pair is not None:
            yield name, *pair


def pair_of(name: str, shared: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Reference and distorted image, or None if the photograph is missing."""
    file, (row, column, height, width), distort = PAIRS[name]
    path = shared / "data" / file if file else EXAMPLE
    if not path.is_file():
        return None
    with Image.open(path) as photograph:
        image = np.asarray(photograph.convert("RGB")).astype(np.int64)
    image = image[row : row + height, column : column + width]
    assert image.shape == (height, width, 3), f"{name}: {image.shape}"
    return image.astype(np.uint8), distort(image).clip(0, 255).astype(np.uint8)


def digest(image: np.ndarray) -> str:
    """SHA-256 of an image's bytes."""
    return hashlib.sha256(image.tobytes()).hexdigest()
