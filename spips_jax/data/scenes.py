"""Procedural scenes with the statistics of photographs, where there are none at hand.

Scenes are dead leaves (A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural
images", IJCV 41, 2001): opaque shapes of power-law sizes that hide one another. That
model alone has the edges, the flat stretches and the 1/f spectrum of photographs. What
is added makes scenes differ as photographs do, and is our choice: textures and shading
within a leaf, shadows, light that varies over the scene, skies and hills of 1/f noise,
a plane in focus, and eight subjects from a meadow to a street at night.

Painting happens in linear light at twice the size, and a box filter halves it, so edges
are as soft as a sensor's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.ndimage

from spips_jax.images import MIN_SIZE

T = TypeVar("T")

GAMMA = 2.2
"""Exponent that encodes linear light, close to sRGB's curve."""

LENS_BLUR = 0.35
"""Standard deviation of the lens's blur, in pixels of the scene."""

SENSOR_NOISE = 1.0
"""Standard deviation of the camera's noise, in grey values of 255."""


def scene(number: int, *, height: int = 256, width: int = 256) -> np.ndarray:
    """Paints one scene.

    The same arguments give the same pixels on one version of NumPy and SciPy; other
    versions may draw other random numbers. Scenes of consecutive numbers have different
    subjects: a meadow, foliage, a still life, a town, a night, a shore, pebbles,
    flowers, and again. Sizes other than the default are other compositions.

    Args:
      number: which scene, 0 or more.
      height: in pixels, at least `MIN_SIZE`.
      width: in pixels, at least `MIN_SIZE`.

    Returns:
      uint8 `(height, width, 3)`, RGB, gamma-encoded as photographs are.

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
    shape = (2 * height, 2 * width)
    noise = Noise(
        rough=_pink_noise(rng, shape, 0.85), smooth=_pink_noise(rng, shape, 1.7)
    )
    canvas = Canvas(np.zeros((*shape, 3), np.float32), noise, rng)
    SUBJECTS[number % len(SUBJECTS)](canvas)
    return _developed(canvas)


# The canvas


@dataclass(frozen=True)
class Noise:
    """Noise of a scene, `(2 H, 2 W)`, periodic, mean 0, variance 1.

    Attributes:
      rough: amplitude 1/f^0.85, as of stone and grass; a lens steepens it.
      smooth: amplitude 1/f^1.7, as of clouds and of light.
    """

    rough: np.ndarray
    smooth: np.ndarray


@dataclass(frozen=True)
class Canvas:
    """What a subject is painted on, in place.

    Attributes:
      light: float32 `(2 H, 2 W, 3)`, linear, 1 is white.
      noise: of the same height and width.
      rng: where all that is random comes from.
    """

    light: np.ndarray
    noise: Noise
    rng: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels of the canvas."""
        return self.light.shape[0], self.light.shape[1]


def _pink_noise(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float
) -> np.ndarray:
    """Gaussian noise of amplitude 1/f^exponent, float32, mean 0, variance 1."""
    frequency = np.hypot(
        np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    )
    frequency[0, 0] = np.inf  # no mean
    white = np.fft.rfft2(rng.standard_normal(shape))
    noise = np.fft.irfft2(white / frequency**exponent, shape)
    return (noise / noise.std()).astype(np.float32)


def _window(
    noise: np.ndarray,
    shape: Sequence[int],
    rng: np.random.Generator,
    steps: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """A random window of periodic noise, finer by `steps` down and across."""
    top, left = rng.integers(noise.shape[0]), rng.integers(noise.shape[1])
    rows = (top + steps[0] * np.arange(shape[0])) % noise.shape[0]
    columns = (left + steps[1] * np.arange(shape[1])) % noise.shape[1]
    return noise[rows[:, None], columns]


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    """Hue, saturation and value, each a share of its range, as linear RGB `(3,)`."""
    k = (np.array((5, 3, 1)) + 6 * hue) % 6
    encoded = value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.clip(encoded, 0, None).astype(np.float32) ** GAMMA


def _developed(canvas: Canvas) -> np.ndarray:
    """The canvas as a camera gives it: light, lens, sensor, gamma."""
    height, width = canvas.shape
    rng = canvas.rng
    clouds = _window(canvas.noise.smooth, canvas.shape, rng)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    across = rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.15, 0.15) * y
    vignette = -0.12 * (x**2 + y**2)
    light = canvas.light * np.exp(0.12 * clouds + across + vignette)[..., None]
    pixels = light.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    pixels = scipy.ndimage.gaussian_filter(pixels, LENS_BLUR, axes=(0, 1))
    # A shoulder instead of clipping, as cameras have it.
    encoded = np.maximum(pixels, 0) ** (1 / GAMMA)
    encoded = np.where(encoded < 0.8, encoded, 1 - 0.2 * np.exp(-(encoded - 0.8) / 0.2))
    noise = SENSOR_NOISE * rng.standard_normal(encoded.shape, np.float32)
    return np.rint(np.clip(255 * encoded + noise, 0, 255)).astype(np.uint8)


# Leaves

Shape = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""`(u, v, rng) -> q`: 1 on the outline, below inside; u and v are 1 at the radius.

The slope of q at the outline is near 1, so `(q - 1) * radius` is a distance in pixels.
"""


def _disc(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.hypot(u, v)


def _ellipse(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ratio = rng.uniform(0.35, 0.8)
    return 1 + ratio * (np.hypot(u, v / ratio) - 1)


def _blob(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stone or a bush: a flattened disc with a wavy outline."""
    angle = np.arctan2(v, u)
    radius = np.full_like(u, 0.8)
    for waves in (2, 3, 5, 9):
        phase = rng.uniform(0, 2 * math.pi)
        radius += 0.16 / waves * np.cos(waves * angle + phase)
    return 1 + np.hypot(u, v / rng.uniform(0.6, 0.95)) - radius


def _polygon(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A convex polygon of three to seven sides."""
    sides = int(rng.integers(3, 8))
    angles = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * (2 * math.pi / sides)
    q = np.full_like(u, -np.inf)
    for angle in angles.astype(np.float32):
        q = np.maximum(q, u * np.cos(angle) + v * np.sin(angle))
    return q + np.float32(rng.uniform(0.3, 0.55))


def _bar(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    breadth = rng.uniform(0.08, 0.4)
    return 1 + np.maximum(np.abs(u) - 1, np.abs(v) - breadth)


def _blade(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A blade of grass: bent, pointed at one end."""
    bent = v - rng.uniform(-0.2, 0.2) * (u + 1) ** 2
    breadth = rng.uniform(0.04, 0.1) * (1 - u)
    return 1 + np.maximum(np.abs(u) - 1, np.abs(bent) - breadth)


def _leaf(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A leaf of a plant: two arcs that meet in points."""
    breadth = rng.uniform(0.25, 0.5)
    bent = v - rng.uniform(-0.15, 0.15) * u**2
    return 1 + np.abs(bent) - breadth * (1 - u**2)


Texture = Callable[[np.ndarray, np.ndarray, Canvas], np.ndarray]
"""`(u, v, canvas) -> factor` of the leaf's colour, around 1."""


def _plain(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    contrast = canvas.rng.uniform(0.02, 0.08)
    return 1 + contrast * _window(canvas.noise.smooth, u.shape, canvas.rng)


def _mottled(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    contrast = canvas.rng.uniform(0.15, 0.45)
    return np.exp(contrast * _window(canvas.noise.rough, u.shape, canvas.rng))


def _grained(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    contrast = canvas.rng.uniform(0.15, 0.35)
    steps = (1, int(canvas.rng.integers(3, 7)))
    return np.exp(contrast * _window(canvas.noise.rough, u.shape, canvas.rng, steps))


def _striped(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    """A grating along u, a little irregular."""
    cycles = canvas.rng.uniform(3, 14)
    warp = 0.4 * _window(canvas.noise.smooth, u.shape, canvas.rng)
    wave = np.sin(2 * math.pi * cycles * u + warp)
    return 1 + canvas.rng.uniform(0.15, 0.5) * wave


def _veined(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    """The veins of a plant's leaf, and one half in less light."""
    cycles = canvas.rng.uniform(2, 5)
    side = np.sin(2 * math.pi * cycles * (u - 0.8 * np.abs(v))) ** 8
    middle = np.exp(-((v / 0.04) ** 2))
    half = canvas.rng.uniform(-0.3, 0.3) * np.tanh(v / 0.05)
    return 1 + 0.25 * side + 0.4 * middle + half


def _windowed(u: np.ndarray, v: np.ndarray, canvas: Canvas) -> np.ndarray:
    """The windows of a house, in rows."""
    rows, columns = canvas.rng.uniform(3, 9, 2).tolist()
    glass = ((rows * u) % 1 < 0.55) & ((columns * v) % 1 < 0.5)
    factor = canvas.rng.uniform(0.15, 0.6)
    return _mottled(u, v, canvas) ** 0.3 * np.where(glass, factor, 1)


@dataclass(frozen=True)
class Leaves:
    """A layer of leaves, painted one over the other.

    Lengths are shares of the canvas's shorter side, places shares of its height and
    width, from the top and the left.

    Attributes:
      count: how many.
      shapes: what they are drawn from.
      textures: likewise.
      colors: pairs of hue and saturation that they are drawn from, with some scatter.
      sizes: least and greatest radius; the density falls with its third power, as Lee,
        Mumford and Huang have it for scale invariance.
      values: least and greatest value, before gamma.
      rows: from where to where they lie; they are painted from the first down.
      columns: likewise.
      angles: least and greatest rotation, in radians; 0 is along the rows.
      roundness: how much they are shaded as balls, 0 to 1.
      shadow: how dark a shadow they throw, 0 to 1.
      perspective: radius of the last row's leaves over the first's.
    """

    count: int
    shapes: Sequence[Shape]
    textures: Sequence[Texture]
    colors: Sequence[tuple[float, float]]
    sizes: tuple[float, float]
    values: tuple[float, float] = (0.25, 0.85)
    rows: tuple[float, float] = (0, 1)
    columns: tuple[float, float] = (0, 1)
    angles: tuple[float, float] = (0, 2 * math.pi)
    roundness: float = 0.5
    shadow: float = 0.4
    perspective: float = 1


def _paint(canvas: Canvas, layer: Leaves) -> None:
    """Paints a layer over what is there."""
    rng = canvas.rng
    height, width = canvas.shape
    side = min(height, width)
    rows = rng.uniform(*layer.rows, layer.count)
    if layer.perspective != 1:
        rows.sort()  # else in no order, so that leaves hide one another both ways
    least, greatest = layer.sizes
    share = rng.random(layer.count)
    radii = (least**-2 + share * (greatest**-2 - least**-2)) ** -0.5
    sun = rng.uniform(-0.9, 0.9), -rng.uniform(0.3, 0.9)  # to the right, down
    for row, radius in zip(rows.tolist(), radii.tolist(), strict=True):
        depth = (row - layer.rows[0]) / max(layer.rows[1] - layer.rows[0], 1e-6)
        hue, saturation = _one_of(layer.colors, rng)
        color = _color(
            hue + 0.025 * rng.standard_normal(),
            np.clip(saturation * (1 + 0.2 * rng.standard_normal()), 0, 1),
            rng.uniform(*layer.values),
        )
        _paint_leaf(
            canvas,
            layer,
            center=(row * height, rng.uniform(*layer.columns) * width),
            radius=max(1.5, radius * side * layer.perspective ** (depth - 1)),
            color=color,
            sun=sun,
        )


def _one_of(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def _paint_leaf(
    canvas: Canvas,
    layer: Leaves,
    *,
    center: tuple[float, float],
    radius: float,
    color: np.ndarray,
    sun: tuple[float, float],
) -> None:
    rng = canvas.rng
    reach = 1.35 * radius + 2  # the shadow, and corners of bars
    top, left = (max(0, math.floor(place - reach)) for place in center)
    bottom, right = (
        min(length, math.ceil(place + reach))
        for length, place in zip(canvas.shape, center, strict=True)
    )
    shape = _one_of(layer.shapes, rng)
    texture = _one_of(layer.textures, rng)
    angle = rng.uniform(*layer.angles)
    if top >= bottom or left >= right:
        return
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] - center[0]) / radius
    x = (np.arange(left, right, dtype=np.float32)[None] - center[1]) / radius
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = cosine * x + sine * y, cosine * y - sine * x
    q = shape(u, v, rng)
    cover = np.clip(0.5 - (q - 1) * radius, 0, 1)[..., None]
    light = canvas.light[top:bottom, left:right]
    if layer.shadow:
        # Cast away from the sun: wide on that side, none on the other.
        away = -(sun[0] * x + sun[1] * y)
        soft = np.clip(1 - (q - 1) / 0.25, 0, 1) ** 2 * np.clip(0.3 + away, 0, 1)
        light *= 1 - layer.shadow * np.minimum(soft, 1)[..., None]
    factor = texture(u, v, canvas)
    if layer.roundness:
        # Lambert's law on a ball, with light from the sky all around.
        depth = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
        direct = np.maximum(sun[0] * x + sun[1] * y + 0.6 * depth, 0)
        factor = factor * (1 + layer.roundness * (0.25 + 1.1 * direct - 1))
    light += cover * (color * factor[..., None] - light)


# Backgrounds


def _paint_sky(
    canvas: Canvas, zenith: np.ndarray, horizon: np.ndarray, cloudiness: float
) -> None:
    """A gradient from linear RGB to linear RGB, and white clouds of 1/f noise."""
    height = canvas.shape[0]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    canvas.light[:] = zenith + (horizon - zenith) * np.sqrt(down)
    clouds = _window(canvas.noise.smooth, canvas.shape, canvas.rng)
    clouds += 0.12 * _window(canvas.noise.rough, canvas.shape, canvas.rng)
    cover = np.clip(0.5 * clouds + cloudiness - 0.5, 0, 1)[..., None]
    bright = np.float32(1.3) * horizon.max()
    canvas.light[:] += 0.8 * cover * (bright - canvas.light)


def _paint_ground(
    canvas: Canvas,
    top: float,
    color: np.ndarray,
    *,
    roughness: float,
    contrast: float = 0.35,
    steps: tuple[int, int] = (1, 3),
) -> None:
    """Ground or a ridge of hills from `top`, a share of the height, to the bottom.

    Args:
      canvas: where.
      top: the mean height of its outline, a share of the canvas's.
      color: linear RGB.
      roughness: how far the outline strays from `top`, a share of the height.
      contrast: of its texture.
      steps: how much finer the texture is down and across than the noise.
    """
    height, width = canvas.shape
    rng = canvas.rng
    outline = _window(canvas.noise.smooth, (1, width), rng)
    outline = outline + 0.04 * _window(canvas.noise.rough, (1, width), rng)
    y = np.arange(height, dtype=np.float32)[:, None]
    below = y - height * (top + roughness * outline)
    cover = np.clip(0.5 + below, 0, 1)[..., None]
    texture = _window(canvas.noise.rough, canvas.shape, rng, steps)
    shade = np.exp(contrast * texture + 0.25 * np.clip(below / height, 0, 1))
    canvas.light[:] += cover * (color * shade[..., None] - canvas.light)


def _paint_backdrop(canvas: Canvas, first: np.ndarray, second: np.ndarray) -> None:
    """Two colours, linear RGB, that run into one another as what is out of focus."""
    blend = _window(canvas.noise.smooth, canvas.shape, canvas.rng)
    share = (0.5 + 0.5 * np.tanh(1.2 * blend))[..., None]
    canvas.light[:] = first + share * (second - first)


def _defocus(canvas: Canvas, radius: float) -> None:
    """Blurs what was painted so far; `radius` is a share of the shorter side."""
    sigma = radius * min(canvas.shape)
    canvas.light[:] = scipy.ndimage.gaussian_filter(canvas.light, sigma, axes=(0, 1))


# Subjects. Hues: 0 red, 1/6 yellow, 1/3 green, 1/2 cyan, 2/3 blue.

_GREENS = ((0.20, 0.55), (0.24, 0.6), (0.28, 0.5), (0.31, 0.45), (0.17, 0.5))
_AUTUMN = ((0.04, 0.75), (0.07, 0.8), (0.11, 0.75), (0.15, 0.6), (0.24, 0.4))
_STONE = ((0.08, 0.12), (0.1, 0.25), (0.6, 0.08), (0.05, 0.3), (0.12, 0.06))
_BRICK = ((0.03, 0.45), (0.07, 0.35), (0.1, 0.2), (0.58, 0.15), (0.12, 0.35))
_PETALS = (
    (0.97, 0.8),
    (0.91, 0.6),
    (0.13, 0.85),
    (0.78, 0.5),
    (0.05, 0.85),
    (0.1, 0.1),
)


def _meadow(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(0.3, 0.55)
    _paint_sky(
        canvas,
        _color(rng.uniform(0.56, 0.61), 0.6, 0.75),
        _color(0.56, 0.15, 0.9),
        rng.uniform(0.2, 0.9),
    )
    for step in (2, 1, 0):  # the farther, the paler and bluer
        far = _color(0.56 - 0.1 * (2 - step), 0.35, 0.4 + 0.12 * step)
        top = horizon - 0.05 * step
        _paint_ground(canvas, top, far, roughness=0.02 + 0.015 * step, contrast=0.2)
    colors = _one_of((_GREENS, _GREENS, _AUTUMN), rng)
    hue, saturation = _one_of(colors, rng)
    field = _color(hue, saturation, 0.5)
    _paint_ground(canvas, horizon + 0.08, field, roughness=0.015)
    trees = Leaves(
        count=int(rng.integers(20, 120)),
        shapes=(_blob,),
        textures=(_mottled, _grained),
        colors=colors,
        sizes=(0.02, 0.13),
        values=(0.2, 0.5),
        rows=(horizon, horizon + 0.15),
        roundness=0.6,
        shadow=0.6,
        perspective=2,
    )
    _paint(canvas, trees)
    grass = Leaves(
        count=420,
        shapes=(_blade,),
        textures=(_plain,),
        colors=(*colors, (0.13, 0.5)),
        sizes=(0.02, 0.14),
        values=(0.25, 0.75),
        rows=(horizon + 0.2, 1.08),
        angles=(-2.2, -0.9),
        roundness=0,
        shadow=0.25,
        perspective=2.5,
    )
    _paint(canvas, grass)


def _foliage(canvas: Canvas) -> None:
    rng = canvas.rng
    colors = _one_of((_GREENS, _AUTUMN), rng)
    _paint_backdrop(canvas, _color(0.25, 0.5, 0.12), _color(0.2, 0.4, 0.4))
    for values, sizes in (((0.1, 0.4), (0.02, 0.1)), ((0.25, 0.9), (0.018, 0.2))):
        layer = Leaves(
            count=420,
            shapes=(_leaf, _leaf, _leaf, _ellipse),
            textures=(_veined, _veined, _plain, _mottled),
            colors=colors,
            sizes=sizes,
            values=values,
            rows=(-0.05, 1.05),
            columns=(-0.05, 1.05),
            roundness=0.35,
            shadow=0.6,
        )
        _paint(canvas, layer)
        if values[0] < 0.2:
            _defocus(canvas, 0.005)


def _still_life(canvas: Canvas) -> None:
    rng = canvas.rng
    hue = rng.random()
    _paint_backdrop(
        canvas, _color(hue, 0.3, 0.3), _color(hue + 0.1, 0.2, rng.uniform(0.5, 0.75))
    )
    _defocus(canvas, 0.03)
    table = _color(0.08, 0.45, rng.uniform(0.35, 0.7))
    _paint_ground(
        canvas, rng.uniform(0.5, 0.65), table, roughness=0, contrast=0.15, steps=(6, 1)
    )
    fruit = Leaves(
        count=int(rng.integers(6, 14)),
        shapes=(_disc, _ellipse, _blob, _bar),
        textures=(_plain, _plain, _mottled, _striped, _grained),
        colors=(*_AUTUMN, *_PETALS, *_GREENS),
        sizes=(0.12, 0.32),
        values=(0.45, 0.95),
        rows=(0.42, 0.9),
        columns=(0.1, 0.9),
        roundness=0.9,
        shadow=0.7,
        perspective=1.6,
    )
    _paint(canvas, fruit)


def _town(canvas: Canvas) -> None:
    rng = canvas.rng
    _paint_sky(
        canvas,
        _color(0.58, rng.uniform(0.1, 0.6), rng.uniform(0.55, 0.8)),
        _color(0.1, 0.1, 0.88),
        rng.uniform(0.1, 1.1),
    )
    _paint_ground(canvas, 0.72, _color(0.1, 0.1, 0.45), roughness=0.01, contrast=0.3)
    houses = Leaves(
        count=int(rng.integers(20, 50)),
        shapes=(_house,),
        textures=(_windowed, _windowed, _windowed, _striped),
        colors=_BRICK,
        sizes=(0.12, 0.4),
        values=(0.3, 0.85),
        rows=(0.62, 0.95),
        angles=(0, 0),
        roundness=0.15,
        shadow=0.3,
        perspective=1.8,
    )
    _paint(canvas, houses)
    _paint_ground(
        canvas, 0.92, _color(0.1, 0.08, 0.4), roughness=0, contrast=0.3, steps=(3, 1)
    )
    street = Leaves(
        count=130,
        shapes=(_bar, _blob, _polygon),
        textures=(_plain, _mottled, _striped),
        colors=(*_STONE, *_GREENS, *_PETALS),
        sizes=(0.008, 0.09),
        values=(0.15, 0.8),
        rows=(0.82, 1.02),
        angles=(-1.75, -1.4),
    )
    _paint(canvas, street)


def _house(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wall, upright, half of them with a gable."""
    breadth, eaves = rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.9)
    slope = rng.choice((0.0, rng.uniform(0.4, 1.0)))
    roof = -v - eaves + slope * np.abs(u)
    return 1 + np.maximum(np.maximum(np.abs(u) - breadth, roof), v - 1)


def _night(canvas: Canvas) -> None:
    rng = canvas.rng
    _paint_sky(
        canvas, _color(0.65, 0.6, 0.08), _color(rng.uniform(0.55, 1.1), 0.5, 0.3), 0.1
    )
    bokeh = Leaves(
        count=60,
        shapes=(_disc,),
        textures=(_plain,),
        colors=((0.1, 0.6), (0.13, 0.3), (0.02, 0.8), (0.55, 0.4)),
        sizes=(0.012, 0.08),
        values=(0.4, 1.3),
        rows=(0.35, 0.8),
        roundness=0,
        shadow=0,
    )
    _paint(canvas, bokeh)
    _defocus(canvas, 0.006)
    dark = Leaves(
        count=70,
        shapes=(_house, _house, _blob, _bar),
        textures=(_windowed, _mottled, _plain),
        colors=(*_BRICK, *_STONE),
        sizes=(0.05, 0.35),
        values=(0.06, 0.35),
        rows=(0.6, 1.1),
        angles=(0, 0),
        perspective=1.5,
    )
    _paint(canvas, dark)
    lamps = Leaves(
        count=70,
        shapes=(_disc, _disc, _bar),
        textures=(_plain,),
        colors=((0.1, 0.6), (0.13, 0.3), (0.02, 0.9), (0.5, 0.3), (0.35, 0.7)),
        sizes=(0.004, 0.02),
        values=(0.7, 1.4),
        rows=(0.4, 1.0),
        roundness=0,
        shadow=0,
    )
    _paint(canvas, lamps)


def _shore(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(0.25, 0.5)
    if rng.random() < 0.4:  # the evening
        low, water, hue = _color(0.08, 0.45, 0.97), 0.6, rng.uniform(0.6, 0.75)
    else:
        low, water, hue = _color(0.54, 0.06, 0.97), 0.5, rng.uniform(0.46, 0.6)
    _paint_sky(canvas, _color(hue, 0.4, 0.8), low, rng.uniform(0.2, 1.0))
    sea = _color(water, 0.5, 0.6)
    _paint_ground(canvas, horizon, sea, roughness=0, contrast=0.15, steps=(5, 1))
    beach = horizon + rng.uniform(0.12, 0.3)
    waves = Leaves(
        count=260,
        shapes=(_ripple,),
        textures=(_plain, _grained),
        colors=((water, 0.1), (water, 0.4), (water - 0.05, 0.6)),
        sizes=(0.02, 0.2),
        values=(0.5, 0.95),
        rows=(horizon + 0.005, beach + 0.02),
        angles=(-0.03, 0.03),
        roundness=0,
        shadow=0.1,
        perspective=3,
    )
    _paint(canvas, waves)
    sand = _color(0.1, rng.uniform(0.15, 0.35), 0.8)
    _paint_ground(canvas, beach, sand, roughness=0.02, contrast=0.15, steps=(4, 2))
    things = Leaves(
        count=int(rng.integers(60, 300)),
        shapes=(_blob, _blob, _ellipse),
        textures=(_mottled,),
        colors=(*_STONE, (0.1, 0.3)),
        sizes=(0.006, 0.15),
        values=(0.3, 0.9),
        rows=(beach + 0.05, 1.02),
        roundness=0.6,
        perspective=3,
    )
    _paint(canvas, things)


def _ripple(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The face of a wave, seen from low."""
    breadth = rng.uniform(0.02, 0.07)
    return 1 + np.abs(v + 0.03 * np.sin(7 * u)) - breadth * (1 - u**2)


def _pebbles(canvas: Canvas) -> None:
    _paint_backdrop(canvas, _color(0.08, 0.2, 0.15), _color(0.1, 0.2, 0.3))
    stones = Leaves(
        count=1100,
        shapes=(_blob, _blob, _ellipse, _polygon),
        textures=(_mottled, _mottled, _plain, _grained),
        colors=_STONE,
        sizes=(0.012, 0.25),
        values=(0.2, 0.9),
        rows=(-0.05, 1.05),
        columns=(-0.05, 1.05),
        roundness=0.75,
        shadow=0.65,
    )
    _paint(canvas, stones)


def _flowers(canvas: Canvas) -> None:
    rng = canvas.rng
    _paint_backdrop(canvas, _color(0.28, 0.5, 0.2), _color(0.22, 0.4, 0.6))
    behind = Leaves(
        count=120,
        shapes=(_leaf, _disc, _blade),
        textures=(_plain, _mottled),
        colors=(*_GREENS, *_PETALS),
        sizes=(0.03, 0.15),
        values=(0.2, 0.7),
    )
    _paint(canvas, behind)
    _defocus(canvas, 0.015)
    stalks = Leaves(
        count=160,
        shapes=(_blade, _blade, _leaf),
        textures=(_veined, _plain),
        colors=_GREENS,
        sizes=(0.05, 0.3),
        values=(0.2, 0.65),
        rows=(0.4, 1.1),
        angles=(-2.3, -0.8),
        roundness=0.2,
    )
    _paint(canvas, stalks)
    for _ in range(int(rng.integers(7, 13))):
        _paint_flower(canvas)


def _paint_flower(canvas: Canvas) -> None:
    """Petals all around, then the middle."""
    rng = canvas.rng
    row, column = rng.uniform(0.1, 0.85), rng.uniform(0.05, 0.95)
    radius = rng.uniform(0.05, 0.13)
    color = _one_of(_PETALS, rng)
    height, width = canvas.shape
    side = min(height, width)
    petals = int(rng.integers(5, 14))
    for petal in range(petals):
        angle = 2 * math.pi * petal / petals
        place = Leaves(
            count=1,
            shapes=(_leaf,),
            textures=(_veined,),
            colors=(color,),
            sizes=(0.55 * radius, 0.65 * radius),
            values=(0.75, 0.95),
            rows=(row + 0.55 * radius * math.sin(angle) * side / height,) * 2,
            columns=(column + 0.55 * radius * math.cos(angle) * side / width,) * 2,
            angles=(angle, angle),
            roundness=0.3,
            shadow=0.3,
        )
        _paint(canvas, place)
    middle = Leaves(
        count=1,
        shapes=(_disc,),
        textures=(_mottled,),
        colors=((0.12, 0.8), (0.08, 0.7)),
        sizes=(0.2 * radius, 0.3 * radius),
        rows=(row, row),
        columns=(column, column),
        roundness=0.8,
    )
    _paint(canvas, middle)


SUBJECTS: tuple[Callable[[Canvas], None], ...] = (
    _meadow,
    _foliage,
    _still_life,
    _town,
    _night,
    _shore,
    _pebbles,
    _flowers,
)
"""What scenes show, in turn."""
