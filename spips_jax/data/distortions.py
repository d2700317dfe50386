"""Graded synthetic distortions of photographs, each at five levels.

The kinds are those that the quality databases KADID-10k (H. Lin, V. Hosu, D. Saupe,
QoMEX 2019) and TID2013 (N. Ponomarenko et al., Signal Processing: Image Communication
30, 2015) show to people. The grades are our own: level 1 is just visible, level 3
clearly annoying, level 5 very strong, so that, unlike in those sets, a level means
about the same for every kind. Each kind's docstring names the kinds it follows.

The grades were tuned so that, at a given level, the untrained `spips-alexnet` score,
averaged over photographs, is nearly the same for every kind. Some kinds are inherently
milder: `chroma_subsampling` and `saturation_loss` keep the luma, `webp` ends at the
codec's lowest quality, and networks tolerate `brightness`, as people do.

Randomness depends on the seed alone, not on the level: a higher level has the same
noise field, the same direction, or the same lost blocks and more of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.ndimage
from PIL import Image

from spips_jax.images import MIN_SIZE

LEVELS = 5
"""Levels of every kind: 1 is the weakest, `LEVELS` the strongest."""

Apply = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Distortion:
    """One kind of distortion and its grades.

    Attributes:
      apply: `(image, grade, rng) -> distorted`. The image is uint8 `(H, W, 3)` RGB; the
        result has the same shape and values around 0 to 255, still to be clipped and
        rounded unless it is uint8. Pure except for `rng`.
      grades: the `grade` passed to `apply` at levels 1 to `LEVELS`.
      unit: what the grades measure.
      random: whether `rng` is used.
    """

    apply: Apply
    grades: tuple[float, ...]
    unit: str
    random: bool


def distort(image: np.ndarray, kind: str, level: int, *, seed: int) -> np.ndarray:
    """Returns a distorted copy of an image.

    The same arguments give the same pixels with the same versions of NumPy, SciPy,
    Pillow and its codecs. The same seed gives the same random field at every level.

    Args:
      image: uint8 `(H, W, 3)`, RGB as stored, H and W at least `MIN_SIZE`.
      kind: one of `DISTORTIONS`.
      level: 1, just visible, to `LEVELS`, very strong.
      seed: 0 or more; fixes the random kinds.

    Returns:
      uint8 `(H, W, 3)`.

    Raises:
      ValueError: an invalid argument; one line that says what to do.
    """
    if kind not in DISTORTIONS:
        raise ValueError(
            f"distortion {kind!r} is not one of {', '.join(DISTORTIONS)}: use one"
        )
    if level not in range(1, LEVELS + 1):
        raise ValueError(
            f"level is {level!r}: it must be a whole number from 1 (just visible) to"
            f" {LEVELS} (very strong)"
        )
    if seed < 0:
        raise ValueError(
            f"seed is {seed}: it must be 0 or more; use its absolute value"
        )
    _check_image(image)
    distortion = DISTORTIONS[kind]
    # Seeded by name, not position, so that a new kind changes no other's noise.
    rng = np.random.default_rng([int(seed), *kind.encode()])
    distorted = distortion.apply(image, distortion.grades[int(level) - 1], rng)
    return _to_uint8(distorted)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8:
        raise ValueError(
            f"image has dtype {image.dtype}: it must be uint8; scale it to 0 to 255 and"
            " round"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image has shape {image.shape}: it must be (height, width, 3); give one"
            " image at a time, repeat a grey one to 3 channels"
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"image is {width}x{height} (width x height): both must be at least"
            f" {MIN_SIZE}; enlarge or pad it"
        )


def _to_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _graded(
    *grades: float, unit: str, random: bool = False
) -> Callable[[Apply], Distortion]:
    """Attaches the grades of levels 1 to 5 to a function."""

    def grade(apply: Apply) -> Distortion:
        return Distortion(apply, grades, unit, random)

    return grade


# Noise


@_graded(6, 11, 19, 32, 52, unit="standard deviation in grey values", random=True)
def gaussian_noise(
    image: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """White Gaussian noise, independent in R, G and B. TID2013 #1, KADID-10k #11."""
    return image + sigma * rng.standard_normal(image.shape)


@_graded(5, 9, 16, 28, 48, unit="standard deviation of Cb and Cr", random=True)
def chroma_noise(
    image: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """White noise in Cb and Cr, a quarter as strong in Y. TID2013 #2, KADID-10k #12."""
    noise = sigma * rng.standard_normal(image.shape)
    return _to_rgb(_to_ycbcr(image) + noise * (0.25, 1, 1))


@_graded(0.003, 0.009, 0.022, 0.055, 0.13, unit="share of the values", random=True)
def impulse_noise(
    image: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Salt and pepper, independent in each channel. TID2013 #6, KADID-10k #13."""
    hit = rng.random(image.shape) < share
    return np.where(hit, 255 * rng.integers(2, size=image.shape), image)


@_graded(0.05, 0.09, 0.16, 0.29, 0.5, unit="relative standard deviation", random=True)
def speckle_noise(
    image: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Noise proportional to the value. TID2013 #19, KADID-10k #14."""
    return image * (1 + sigma * rng.standard_normal(image.shape))


# Blur


@_graded(0.65, 1, 1.6, 2.8, 5.2, unit="standard deviation in pixels")
def gaussian_blur(
    image: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Gaussian blur, edges mirrored. TID2013 #8, KADID-10k #1."""
    return scipy.ndimage.gaussian_filter(
        image.astype(np.float64), sigma, mode="reflect", axes=(0, 1)
    )


@_graded(1.1, 1.7, 2.8, 5, 9.5, unit="radius of the disc in pixels")
def defocus_blur(
    image: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """Blur of a lens out of focus: the mean over a disc. KADID-10k #2."""
    reach = math.ceil(radius)
    fine = 8  # samples per pixel along each axis, for a round disc at any radius
    offsets = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - (reach + 0.5)
    disc = np.hypot(offsets[:, None], offsets) <= radius
    side = 2 * reach + 1
    return _convolve(image, disc.reshape(side, fine, side, fine).mean((1, 3)))


@_graded(2.3, 3.7, 7.2, 15, 31, unit="length of the line in pixels", random=True)
def motion_blur(
    image: np.ndarray, length: float, rng: np.random.Generator
) -> np.ndarray:
    """Blur along a straight line in a random direction. KADID-10k #3."""
    angle = rng.uniform(0, math.pi)
    reach = math.ceil(length / 2)
    along = np.linspace(-0.5, 0.5, 16 * reach) * length
    y, x = reach + along * math.sin(angle), reach + along * math.cos(angle)
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    for down, weight_down in ((0, 1 - (y - row)), (1, y - row)):
        for right, weight_right in ((0, 1 - (x - column)), (1, x - column)):
            np.add.at(kernel, (row + down, column + right), weight_down * weight_right)
    return _convolve(image, kernel[:-1, :-1])


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves each channel with a square kernel of odd side, edges mirrored."""
    height, width = image.shape[:2]
    reach = len(kernel) // 2
    padding = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(image.astype(np.float64), padding, mode="symmetric")
    size = padded.shape[:2]
    # By FFT: the largest kernels would otherwise take seconds.
    transfer = np.fft.rfft2(kernel / kernel.sum(), size)
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * transfer[..., None]
    blurred = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return blurred[2 * reach :, 2 * reach :][:height, :width]


# Codecs


@_graded(50, 22, 10, 5, 2, unit="quality of libjpeg, 1 to 95")
def jpeg(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG with chroma at half resolution. TID2013 #10, KADID-10k #10."""
    return _encoded(image, "JPEG", quality=int(quality), subsampling="4:2:0")


@_graded(34.5, 31, 27.5, 24, 20.5, unit="peak signal-to-noise ratio in dB")
def jpeg2000(
    image: np.ndarray, decibels: float, rng: np.random.Generator
) -> np.ndarray:
    """JPEG 2000 with the 9/7 wavelet. TID2013 #11, KADID-10k #9.

    Graded by its error rather than by its rate, as those sets are: at one rate a plain
    sky is untouched and foliage is mud, and the smallest images do not fit at all.
    """
    return _encoded(
        image,
        "JPEG2000",
        quality_mode="dB",
        quality_layers=[decibels],
        irreversible=True,
    )


@_graded(45, 20, 7, 2, 0, unit="quality of libwebp, 0 to 100")
def webp(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Lossy WebP, which predicts blocks and smooths their edges. In neither set."""
    return _encoded(image, "WEBP", quality=int(quality))


def _encoded(image: np.ndarray, codec: str, **options: Any) -> np.ndarray:
    """The image after encoding and decoding."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, codec, **options)
    with Image.open(stream) as decoded:
        return np.array(decoded.convert("RGB"))


# Resolution, of values and of pixels


@_graded(16, 10, 6, 4, 3, unit="values a channel")
def quantization(
    image: np.ndarray, values: float, rng: np.random.Generator
) -> np.ndarray:
    """Uniform quantisation without dithering. TID2013 #7, KADID-10k #22."""
    steps = values - 1
    return np.rint(image * (steps / 255)) * (255 / steps)


@_graded(2, 4, 8, 16, 32, unit="how many times fewer rows and columns")
def chroma_subsampling(
    image: np.ndarray, factor: float, rng: np.random.Generator
) -> np.ndarray:
    """Cb and Cr at a lower resolution, Y untouched. Like KADID-10k #4 in effect.

    Y changes only where the colour is outside RGB and clipped, as in any decoder.
    """
    ycbcr = _to_ycbcr(image)
    for channel in (1, 2):
        ycbcr[..., channel] = _resampled(ycbcr[..., channel], factor)
    return _to_rgb(ycbcr)


@_graded(1.5, 2.1, 3.1, 5.2, 9.5, unit="how many times fewer rows and columns")
def downscale(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Resized down and up again, bicubic. Super-resolution's input; in neither set."""
    channels = [_resampled(image[..., channel], factor) for channel in range(3)]
    return np.stack(channels, axis=-1)


def _resampled(channel: np.ndarray, factor: float) -> np.ndarray:
    """A plane `(H, W)` resized down by `factor`, filtered, and up; float32."""
    height, width = channel.shape
    plane = Image.fromarray(channel.astype(np.float32))
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = plane.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@_graded(1.5, 2, 3, 5.5, 11, unit="side of a square in pixels")
def pixelation(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Squares of their mean colour. KADID-10k #21.

    At a side of 1.5 pixels, every other row and column of squares is 1 pixel wide.
    """
    means = image.astype(np.float64)
    for axis, length in enumerate(image.shape[:2]):
        starts = np.arange(0, length, side).astype(int)
        lengths = np.diff(starts, append=length)
        sums = np.add.reduceat(means, starts, axis=axis)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        means = np.repeat(sums / lengths.reshape(shape), lengths, axis=axis)
    return means


# Tone and colour


@_graded(0.75, 0.55, 0.38, 0.24, 0.12, unit="what is left of the contrast")
def contrast_loss(
    image: np.ndarray, remaining: float, rng: np.random.Generator
) -> np.ndarray:
    """Less contrast around the image's mean luma. TID2013 #17, KADID-10k #25."""
    mean = _to_ycbcr(image)[..., 0].mean()
    return mean + remaining * (image - mean)


@_graded(0.7, 0.5, 0.3, 0.15, 0, unit="what is left of Cb and Cr")
def saturation_loss(
    image: np.ndarray, remaining: float, rng: np.random.Generator
) -> np.ndarray:
    """Less colour; level 5 is grey. TID2013 #18, KADID-10k #7."""
    return _to_rgb(_to_ycbcr(image) * (1, remaining, remaining))


@_graded(9, 20, 36, 58, 90, unit="distance in the plane of Cb and Cr", random=True)
def color_shift(
    image: np.ndarray, distance: float, rng: np.random.Generator
) -> np.ndarray:
    """A random colour cast, as from a wrong white balance. Cf. KADID-10k #5."""
    angle = rng.uniform(0, 2 * math.pi)
    cast = (0, distance * math.cos(angle), distance * math.sin(angle))
    return _to_rgb(_to_ycbcr(image) + cast)


@_graded(15, 32, 55, 80, 115, unit="shift in grey values", random=True)
def brightness(image: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """All values shifted up or all shifted down. TID2013 #16, KADID-10k #18."""
    return image + shift * rng.choice((-1, 1))


@_graded(0.7, 1.4, 2.8, 5.5, 13, unit="share of the detail added again")
def oversharpening(
    image: np.ndarray, amount: float, rng: np.random.Generator
) -> np.ndarray:
    """Excessive unsharp mask of 2 pixels: halos and noise. KADID-10k #24."""
    blurred = scipy.ndimage.gaussian_filter(
        image.astype(np.float64), 2, mode="reflect", axes=(0, 1)
    )
    return image + amount * (image - blurred)


# Transmission

BLOCK = 16
"""Side of a lost block, in pixels: a macroblock of the MPEG codecs."""


@_graded(0.04, 0.1, 0.2, 0.35, 0.6, unit="share of the blocks", random=True)
def block_loss(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Blocks that were lost and replaced. TID2013 #12 and #15, KADID-10k #23.

    Half of them show a neighbouring block, as a decoder conceals a detected loss, half
    the image's mean colour. At least one block is lost at every level, so levels of
    very small images can coincide.
    """
    height, width = image.shape[:2]
    grid = (math.ceil(height / BLOCK), math.ceil(width / BLOCK))
    order = rng.permutation(math.prod(grid))
    concealed = rng.random(math.prod(grid)) < 0.5
    mean = np.rint(image.mean((0, 1)))
    distorted = image.copy()
    for block in order[: math.ceil(share * len(order))]:
        row, column = np.multiply(np.unravel_index(block, grid), BLOCK)
        target = distorted[row : row + BLOCK, column : column + BLOCK]
        if not concealed[block]:
            target[:] = mean
            continue
        high, wide = target.shape[:2]
        # From the left neighbour, in the first column from the right one. Copied from
        # the intact image, or a higher level would restore what a lower one has lost.
        start = column - BLOCK if column else min(BLOCK, width - wide)
        target[:] = image[row : row + high, start : start + wide]
    return distorted


_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)
_YCBCR_TO_RGB = np.linalg.inv(_RGB_TO_YCBCR)


def _to_ycbcr(image: np.ndarray) -> np.ndarray:
    """RGB to Y, 0 to 255, and Cb and Cr around 0: full-range BT.601, as in JPEG."""
    return image @ _RGB_TO_YCBCR.T


def _to_rgb(ycbcr: np.ndarray) -> np.ndarray:
    return ycbcr @ _YCBCR_TO_RGB.T


DISTORTIONS: Mapping[str, Distortion] = MappingProxyType(
    {
        distortion.apply.__name__: distortion
        for distortion in (
            gaussian_noise,
            chroma_noise,
            impulse_noise,
            speckle_noise,
            gaussian_blur,
            defocus_blur,
            motion_blur,
            jpeg,
            jpeg2000,
            webp,
            quantization,
            chroma_subsampling,
            downscale,
            pixelation,
            contrast_loss,
            saturation_loss,
            color_shift,
            brightness,
            oversharpening,
            block_loss,
        )
    }
)
"""Every kind by name, in a fixed order."""
