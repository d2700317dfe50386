"""Procedural scenes with statistics similar to photographs, for a first run.

Scenes are dead leaves (A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural
images", IJCV 41, 2001): opaque shapes of power-law sizes that occlude one another, with
the edges, the flat areas and roughly the 1/f spectrum of photographs. Textures within a
leaf, shadows, light that varies over the scene and the eight subjects are our
additions. Scenes are painted in linear light at twice the size; a box filter halves
them, so edges are as soft as a sensor's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from spips_jax.images import MIN_SIZE

GAMMA = 2.2
"""Exponent that encodes linear light, close to sRGB's curve."""

LENS_BLUR = 0.7
"""Standard deviation of the lens's blur, in pixels of the canvas."""

SENSOR_NOISE = 1.0
"""Standard deviation of the camera's noise, in grey values of 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The parameters of a kind of scene.

    Attributes:
      colors: encoded RGB of the leaves.
      sky: encoded RGB of the background, at the top and at the bottom.
      sizes: smallest and largest radius of a leaf, as shares of the scene's side.
      leaves: the number of leaves.
      top: where leaves begin, from 0 (the top of the scene) to 1.
      squareness: exponent of the leaves' outline: 2 is an ellipse, 10 a rectangle.
      upright: whether leaves are not rotated.
      texture: strength of a leaf's texture, from 0 to 1.
      light: factor on the brightness of the whole scene.
    """

    colors: tuple[tuple[float, float, float], ...]
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    sizes: tuple[float, float] = (0.01, 0.2)
    leaves: int = 600
    top: float = 0.0
    squareness: float = 2.0
    upright: bool = False
    texture: float = 0.5
    light: float = 1.0


SUBJECTS = {
    "meadow": Subject(
        colors=(
            (0.35, 0.55, 0.15), (0.5, 0.6, 0.2),
            (0.25, 0.4, 0.1), (0.9, 0.8, 0.3),
        ),
        sky=((0.45, 0.65, 0.9), (0.85, 0.9, 0.95)),
        sizes=(0.012, 0.1), leaves=2200, top=0.45,
    ),
    "foliage": Subject(
        colors=(
            (0.2, 0.4, 0.1), (0.45, 0.55, 0.15),
            (0.7, 0.4, 0.1), (0.1, 0.25, 0.1),
        ),
        sky=((0.1, 0.2, 0.1), (0.05, 0.1, 0.05)), sizes=(0.015, 0.12), leaves=900,
    ),
    "still life": Subject(
        colors=(
            (0.8, 0.25, 0.15), (0.9, 0.7, 0.3),
            (0.35, 0.2, 0.15), (0.7, 0.7, 0.6),
        ),
        sky=((0.55, 0.45, 0.4), (0.75, 0.65, 0.5)),
        sizes=(0.08, 0.25), leaves=14, top=0.35, texture=0.2,
    ),
    "town": Subject(
        colors=(
            (0.7, 0.45, 0.35), (0.8, 0.75, 0.7),
            (0.4, 0.4, 0.45), (0.85, 0.7, 0.5),
        ),
        sky=((0.6, 0.75, 0.95), (0.9, 0.9, 0.9)),
        sizes=(0.02, 0.2), leaves=160, top=0.25, squareness=12.0, upright=True,
    ),
    "night": Subject(
        colors=(
            (0.05, 0.05, 0.1), (0.1, 0.1, 0.2),
            (1.0, 0.8, 0.4), (0.15, 0.1, 0.1),
        ),
        sky=((0.02, 0.02, 0.08), (0.12, 0.08, 0.1)),
        sizes=(0.01, 0.12), leaves=180, top=0.2, squareness=10.0, upright=True,
        light=0.8,
    ),
    "shore": Subject(
        colors=(
            (0.85, 0.75, 0.6), (0.3, 0.55, 0.7),
            (0.75, 0.7, 0.6), (0.25, 0.3, 0.3),
        ),
        sky=((0.5, 0.7, 0.95), (0.95, 0.95, 0.9)),
        sizes=(0.02, 0.3), leaves=160, top=0.55, light=0.85,
    ),
    "pebbles": Subject(
        colors=(
            (0.6, 0.55, 0.5), (0.4, 0.42, 0.48),
            (0.75, 0.68, 0.58), (0.3, 0.25, 0.2),
        ),
        sky=((0.2, 0.18, 0.15), (0.2, 0.18, 0.15)), sizes=(0.02, 0.1), leaves=900,
        texture=0.6,
    ),
    "flowers": Subject(
        colors=(
            (0.95, 0.3, 0.5), (1.0, 0.85, 0.3),
            (0.95, 0.9, 0.95), (0.55, 0.3, 0.8),
        ),
        sky=((0.35, 0.55, 0.25), (0.2, 0.35, 0.15)),
        sizes=(0.03, 0.14), leaves=300, texture=0.3, light=0.8,
    ),
}  # fmt: skip


def scene(number: int, *, height: int = 256, width: int = 256) -> np.ndarray:
    """Paints one scene.

    The same arguments give the same pixels with the same versions of NumPy and SciPy;
    other versions may draw other random numbers. Consecutive numbers cycle through
    `SUBJECTS`. Another size gives another composition.

    Args:
      number: which scene, 0 or more.
      height: in pixels, at least `MIN_SIZE`.
      width: in pixels, at least `MIN_SIZE`.

    Returns:
      uint8 `(height, width, 3)`, RGB, gamma-encoded like photographs.

    Raises:
      ValueError: a number below 0 or a size below `MIN_SIZE`.
    """
    if number < 0:
        raise ValueError(f"scene number is {number}: it must be 0 or more")
    for side, length in (("height", height), ("width", width)):
        if length < MIN_SIZE:
            raise ValueError(
                f"scene {side} is {length}: it must be at least {MIN_SIZE}; crop a"
                " larger scene"
            )
    rng = np.random.Generator(np.random.PCG64(number))
    subject = list(SUBJECTS.values())[number % len(SUBJECTS)]
    shape = (2 * height, 2 * width)
    rough, smooth = (_noise(rng, shape, exponent) for exponent in (0.85, 1.7))
    down = np.linspace(0, 1, shape[0])[:, None, None] + 0.1 * smooth[..., None]
    top, bottom = (np.power(color, GAMMA) for color in subject.sky)
    light = np.clip(top + (bottom - top) * down, 0, None)
    # The largest first: they would hide the small ones.
    for radius in np.sort(_radii(rng, subject, min(shape)))[::-1]:
        _paint(light, rough, rng, subject, radius)
    light *= subject.light * np.exp(0.25 * smooth[..., None])
    return _developed(light, rng)


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float
) -> np.ndarray:
    """Gaussian noise of amplitude 1/f^exponent, periodic, mean 0, variance 1."""
    frequency = np.hypot(
        np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    )
    frequency[0, 0] = np.inf  # no mean
    white = np.fft.rfft2(rng.standard_normal(shape))
    noise = np.fft.irfft2(white / frequency**exponent, shape)
    return noise / noise.std()


def _radii(rng: np.random.Generator, subject: Subject, side: int) -> np.ndarray:
    """Radii in pixels, of density 1/r^3, which makes scenes scale-invariant."""
    least, most = (side * size for size in subject.sizes)
    drawn = rng.random(subject.leaves)
    return (least**-2 + drawn * (most**-2 - least**-2)) ** -0.5


def _paint(
    light: np.ndarray,
    rough: np.ndarray,
    rng: np.random.Generator,
    subject: Subject,
    radius: float,
) -> None:
    """Paints one leaf and its shadow, in place."""
    height, width = rough.shape
    center = rng.uniform(subject.top, 1) * height, rng.random() * width
    angle = 0.0 if subject.upright else rng.uniform(0, np.pi)
    stretch = rng.uniform(0.6, 1.7)
    color = np.power(subject.colors[rng.integers(len(subject.colors))], GAMMA)
    color = color * rng.uniform(0.6, 1.3)
    shade = rng.uniform(-0.35, 0.35, 2)
    offset = rng.integers(0, min(height, width), 2)

    reach = 1.3 * radius * max(stretch, 1 / stretch) + 2
    rows, columns = (
        np.arange(max(int(middle - reach), 0), min(int(middle + reach) + 1, length))
        for middle, length in zip(center, (height, width), strict=True)
    )
    if not (len(rows) and len(columns)):
        return
    y, x = (rows - center[0])[:, None] / radius, (columns - center[1])[None] / radius
    shadow = _inside(y - 0.15, x - 0.1, angle, stretch, subject.squareness)
    leaf = _inside(y, x, angle, stretch, subject.squareness)
    part = np.ix_(rows, columns)
    texture = rough[np.ix_((rows + offset[0]) % height, (columns + offset[1]) % width)]
    brightness = np.exp(subject.texture * 0.4 * texture + shade[0] * y + shade[1] * x)
    painted = np.where(shadow[..., None], 0.55 * light[part], light[part])
    light[part] = np.where(leaf[..., None], color * brightness[..., None], painted)


def _inside(
    y: np.ndarray, x: np.ndarray, angle: float, stretch: float, squareness: float
) -> np.ndarray:
    """Whether points, in radii from the centre, lie within a superellipse."""
    along = np.abs(np.cos(angle) * x + np.sin(angle) * y) / stretch
    across = np.abs(np.cos(angle) * y - np.sin(angle) * x) * stretch
    return along**squareness + across**squareness < 1


def _developed(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lens, sensor and encoding: `(2 H, 2 W, 3)` to uint8 `(H, W, 3)`."""
    light = scipy.ndimage.gaussian_filter(light, (LENS_BLUR, LENS_BLUR, 0))
    height, width, _ = light.shape
    light = light.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    encoded = 255 * np.clip(light, 0, 1) ** (1 / GAMMA)
    encoded = encoded + SENSOR_NOISE * rng.standard_normal(encoded.shape)
    return np.clip(np.rint(encoded), 0, 255).astype(np.uint8)
