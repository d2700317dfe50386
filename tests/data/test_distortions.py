"""The distortions: what each does is measured independently of how it is made."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spips_jax.data.distortions import BLOCK, DISTORTIONS, LEVELS, MIN_SIZE, distort
from spips_jax.data.scenes import scene

KINDS = list(DISTORTIONS)
ALL_LEVELS = range(1, LEVELS + 1)
GREY = np.full((200, 200, 3), 128, np.uint8)

# BT.601 in full range, as JFIF states it.
YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Foliage, a shore and flowers."""
    return [scene(number, height=112, width=144) for number in (1, 5, 7)]


@pytest.fixture(scope="module")
def muted(photos: list[np.ndarray]) -> np.ndarray:
    """A photograph whose colours stay inside RGB when they change a little."""
    return np.rint(photos[0] * 0.2 + 100).astype(np.uint8)


def squared_error(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean((first.astype(float) - second) ** 2))


def grade(kind: str, level: int) -> float:
    return DISTORTIONS[kind].grades[level - 1]


# All kinds


def test_kinds_have_a_grade_a_level_and_grades_have_a_direction():
    assert 16 <= len(KINDS) <= 20
    for distortion in DISTORTIONS.values():
        assert len(distortion.grades) == LEVELS
        steps = np.diff(distortion.grades)
        assert np.all(steps > 0) or np.all(steps < 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_small_and_odd_sizes_are_kept_and_the_image_is_left_alone(kind, size):
    image = scene(7, height=size[0], width=size[1])
    before = image.copy()
    image.flags.writeable = False
    for level in ALL_LEVELS:
        distorted = distort(image, kind, level, seed=3)
        assert distorted.shape == image.shape
        assert distorted.dtype == np.uint8
        assert not np.array_equal(distorted, image)
        assert distorted.flags.writeable
    np.testing.assert_array_equal(image, before)


@given(
    kind=st.sampled_from(KINDS),
    level=st.integers(1, LEVELS),
    seed=st.integers(0, 2**63),
    height=st.integers(MIN_SIZE, 70),
    width=st.integers(MIN_SIZE, 70),
    value=st.sampled_from([None, 0, 7, 255]),
)
@settings(max_examples=30, deadline=None)
def test_any_image_gives_the_same_pixels_each_time(
    kind, level, seed, height, width, value
):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if value is not None:  # codecs and means meet plain images too
        image[:] = value
    first = distort(image, kind, level, seed=seed)
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, distort(image, kind, level, seed=seed))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_matter_to_the_random_kinds_alone(photos, kind):
    # Eight, because a seed decides no more than up or down of brightness.
    first, *others = (distort(photos[0], kind, 4, seed=seed) for seed in range(8))
    differ = any(not np.array_equal(first, other) for other in others)
    assert differ == DISTORTIONS[kind].random


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 11])
def test_the_error_rises_with_every_level(photos, kind, seed):
    # The mean squared error fits all kinds: none moves pixels, where a larger shift can
    # by chance meet a like pixel.
    for photo in photos:
        errors = [
            squared_error(photo, distort(photo, kind, level, seed=seed))
            for level in ALL_LEVELS
        ]
        assert errors[0] > 0
        assert np.all(np.diff(errors) > 0), errors


PRESERVES_PLAIN = [
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "chroma_subsampling",
    "downscale",
    "pixelation",
    "contrast_loss",
    "oversharpening",
    "block_loss",
]


@pytest.mark.parametrize("kind", PRESERVES_PLAIN)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_image_has_nothing_to_lose(kind, value):
    image = np.full((50, 61, 3), value, np.uint8)
    for level in ALL_LEVELS:
        np.testing.assert_array_equal(distort(image, kind, level, seed=1), image)


@pytest.mark.parametrize("kind", ["gaussian_blur", "defocus_blur", "oversharpening"])
def test_symmetric_filters_have_no_favourite_side(photos, kind):
    photo = photos[1]
    turned = np.ascontiguousarray(photo[::-1, ::-1])
    for level in (1, 5):
        there = distort(turned, kind, level, seed=0)[::-1, ::-1].astype(int)
        # 1 for sums that end in a half and round either way.
        assert np.abs(there - distort(photo, kind, level, seed=0)).max() <= 1


# Noise


@pytest.mark.parametrize("level", [1, 2, 3])
def test_gaussian_noise_has_the_stated_deviation_in_each_channel(level):
    noise = distort(GREY, "gaussian_noise", level, seed=5).astype(float) - 128
    for channel in range(3):
        # 2 %: four standard errors of 40 000 samples are 1.4 %.
        deviation = noise[..., channel].std()
        assert deviation == pytest.approx(grade("gaussian_noise", level), rel=0.02)
    assert abs(noise.mean()) < 0.2
    correlation = np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)
    assert np.abs(correlation).max() < 0.02


def test_chroma_noise_is_four_times_stronger_in_the_colours():
    level = 2  # strong enough for rounding not to count, too weak to be clipped
    noise = (distort(GREY, "chroma_noise", level, seed=5) - 128.0) @ YCBCR.T
    sigma = grade("chroma_noise", level)
    deviations = noise.reshape(-1, 3).std(axis=0)
    np.testing.assert_allclose(deviations, [sigma / 4, sigma, sigma], rtol=0.03)


@pytest.mark.parametrize("level", [1, 3])
def test_speckle_is_in_proportion_to_the_value(level):
    for value in (40, 120):
        image = np.full((200, 200, 3), value, np.uint8)
        noise = distort(image, "speckle_noise", level, seed=2).astype(float) - value
        expected = value * grade("speckle_noise", level)
        assert noise.std() == pytest.approx(math.hypot(expected, 12**-0.5), rel=0.02)


def test_impulses_are_black_or_white_in_the_stated_share():
    for level in ALL_LEVELS:
        noisy = distort(GREY, "impulse_noise", level, seed=1)
        share, count = grade("impulse_noise", level), noisy.size
        error = 4 * math.sqrt(share * (1 - share) / count)
        assert np.mean(noisy != 128) == pytest.approx(share, abs=error)
        assert set(np.unique(noisy)) == {0, 128, 255}
        assert np.mean(noisy == 0) == pytest.approx(share / 2, abs=error)


def test_levels_share_their_random_field():
    weak, strong = (
        distort(GREY, "gaussian_noise", level, seed=8).ravel() for level in (2, 4)
    )
    assert np.corrcoef(weak, strong)[0, 1] > 0.99
    for kind in ("impulse_noise", "block_loss"):
        image = GREY if kind == "impulse_noise" else scene(7)
        previous = np.zeros(image.shape, bool)
        for level in ALL_LEVELS:
            distorted = distort(image, kind, level, seed=8)
            hit = distorted != image
            assert np.all(hit[previous])
            previous = hit


# Blur


def edge_width(kind: str, level: int, *, axis: int, seed: int = 0) -> float:
    """Standard deviation, in pixels, of what a sharp edge across `axis` becomes."""
    edge = np.zeros((160, 160, 3), np.uint8)
    edge[80:] = 255
    if axis == 1:
        edge = np.ascontiguousarray(edge.swapaxes(0, 1))
    blurred = distort(edge, kind, level, seed=seed).astype(float).mean(2)
    spread = np.diff(blurred.mean(1 - axis)) / 255
    places = np.arange(len(spread))
    center = np.sum(spread * places)
    return math.sqrt(np.sum(spread * (places - center) ** 2))


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_blurs_are_as_wide_as_stated(level):
    for axis in (0, 1):
        width = edge_width("gaussian_blur", level, axis=axis)
        assert width == pytest.approx(grade("gaussian_blur", level), rel=0.03)
        # Of a disc of radius r the variance along an axis is r^2 / 4; pixels add
        # 1/12, and a little more where the disc is hardly larger than they are.
        expected = math.hypot(grade("defocus_blur", level) / 2, 12**-0.5)
        width = edge_width("defocus_blur", level, axis=axis)
        assert width == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_motion_is_as_long_as_stated_in_any_direction(seed):
    for level in ALL_LEVELS:
        widths = [edge_width("motion_blur", level, axis=i, seed=seed) for i in (0, 1)]
        # Of a line of length L the variance is L^2 / 12; placing it between pixels adds
        # 1/6 along each axis, on average.
        expected = math.sqrt(grade("motion_blur", level) ** 2 / 12 + 2 / 6)
        assert math.hypot(*widths) == pytest.approx(expected, rel=0.06)


def test_motion_blurs_along_a_line_only():
    narrow = []
    for seed in range(12):
        widths = [edge_width("motion_blur", 5, axis=axis, seed=seed) for axis in (0, 1)]
        narrow.append(min(widths) / max(widths))
    assert min(narrow) < 0.3  # some run nearly along an axis; a disc would have 1


# Codecs


def encoded(image: np.ndarray, codec: str, **options: object) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format=codec, **options)
    return np.asarray(Image.open(stream).convert("RGB"))


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_jpeg_and_webp_are_pillows_at_the_stated_quality(photos, level):
    for kind in ("jpeg", "webp"):
        expected = encoded(photos[0], kind, quality=int(grade(kind, level)))
        actual = distort(photos[0], kind, level, seed=0)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_jpeg2000_has_about_the_stated_error(photos, level):
    for photo in photos:
        error = squared_error(photo, distort(photo, "jpeg2000", level, seed=0))
        # OpenJPEG stops at whole passes of its coder, in YCbCr and before rounding.
        decibels = 10 * math.log10(255**2 / error)
        assert decibels == pytest.approx(grade("jpeg2000", level), abs=1.5)


# Resolution


def test_quantization_leaves_the_stated_number_of_values_evenly_spaced(photos):
    for level in ALL_LEVELS:
        values = int(grade("quantization", level))
        allowed = np.rint(np.linspace(0, 255, values))
        distorted = distort(photos[2], "quantization", level, seed=0)
        assert np.isin(distorted, allowed).all()
        # The nearest of them, so at most half a step off.
        step = 255 / (values - 1)
        assert np.abs(distorted.astype(float) - photos[2]).max() <= step / 2 + 0.5


@pytest.mark.parametrize("kind", ["chroma_subsampling", "saturation_loss"])
def test_colour_alone_changes_where_luma_is_to_stay(muted, kind):
    before = muted @ YCBCR.T
    for level in ALL_LEVELS:
        after = distort(muted, kind, level, seed=0) @ YCBCR.T
        # RGB is rounded by up to 1/2, and luma is a weighted mean of it.
        assert np.abs(after - before)[..., 0].max() <= 0.5 + 1e-3
        assert np.abs(after - before)[..., 1:].max() > 1


def test_chroma_subsampling_keeps_the_mean_colour_and_drops_its_detail(photos):
    photo = np.rint(photos[2] * 0.3 + 90).astype(np.uint8)
    before = (photo @ YCBCR.T)[..., 1:]
    after = (distort(photo, "chroma_subsampling", 5, seed=0) @ YCBCR.T)[..., 1:]
    np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), atol=1)
    for axis in (0, 1):
        detail = np.abs(np.diff(after, axis=axis)).mean()
        # What is left of it is the rounding of RGB.
        assert detail < 0.5 * np.abs(np.diff(before, axis=axis)).mean()


def test_downscale_keeps_waves_below_its_limit_and_drops_those_above():
    x = np.arange(180)
    for level in ALL_LEVELS:
        factor = grade("downscale", level)
        for period, kept in ((1.5 * factor, False), (8 * factor, True)):
            if period <= 2:
                continue
            wave = np.rint(128 + 100 * np.sin(2 * np.pi * x / period))
            image = np.broadcast_to(wave[:, None, None], (180, 40, 3)).astype(np.uint8)
            after = distort(image, "downscale", level, seed=0).astype(float)
            left = after[40:-40].std() / image[40:-40].astype(float).std()
            assert (left > 0.8) if kept else (left < 0.3), (level, period, left)


def test_pixelation_shows_the_mean_of_each_square(photos):
    level = 3
    side = int(grade("pixelation", level))
    assert side == grade("pixelation", level)
    photo = photos[0][: 20 * side, : 30 * side]
    squares = photo.reshape(20, side, 30, side, 3).mean((1, 3), keepdims=True)
    expected = np.broadcast_to(squares, (20, side, 30, side, 3)).reshape(photo.shape)
    actual = distort(photo, "pixelation", level, seed=0)
    assert np.abs(actual - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_pixelation_has_squares_of_the_stated_side_on_average(level):
    ramp = np.arange(0, 220, dtype=np.uint8)
    image = np.broadcast_to(ramp[:, None, None], (220, 40, 3))
    rows = distort(image, "pixelation", level, seed=0)[:, 0, 0]
    squares = 1 + np.count_nonzero(np.diff(rows.astype(int)))
    assert squares == math.ceil(220 / grade("pixelation", level))


# Tone and colour


def test_contrast_loss_scales_around_the_mean_luma(photos):
    photo = photos[1]
    mean = (photo @ YCBCR[0]).mean()
    for level in ALL_LEVELS:
        after = distort(photo, "contrast_loss", level, seed=0)
        expected = mean + grade("contrast_loss", level) * (photo - mean)
        assert np.abs(after - expected).max() <= 0.5 + 1e-6


def test_saturation_loss_ends_at_the_luma(photos):
    grey = distort(photos[2], "saturation_loss", LEVELS, seed=0)
    assert np.abs(grey - (photos[2] @ YCBCR[0])[..., None]).max() <= 0.5 + 1e-3


def test_color_shift_moves_all_colours_alike_by_the_stated_distance(muted):
    for seed in range(4):
        for level in (1, 2):  # stronger ones leave RGB
            after = distort(muted, "color_shift", level, seed=seed)
            moved = (after.astype(float) - muted) @ YCBCR.T
            luma, *chroma = moved[0, 0]
            # RGB is rounded by up to 1/2, and by the same amount at every pixel.
            np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape))
            assert abs(luma) <= 0.5
            expected = grade("color_shift", level)
            assert math.hypot(*chroma) == pytest.approx(expected, abs=0.75)


def test_brightness_moves_every_value_alike_either_way():
    signs = set()
    for seed in range(12):
        shifts = [
            distort(GREY, "brightness", level, seed=seed)[0, 0, 0] - 128.0
            for level in ALL_LEVELS
        ]
        np.testing.assert_array_equal(np.abs(shifts), DISTORTIONS["brightness"].grades)
        assert len(set(np.sign(shifts))) == 1  # the seed's choice, not the level's
        signs.add(np.sign(shifts[0]))
    assert signs == {-1, 1}


def test_oversharpening_overshoots_at_both_sides_of_an_edge():
    edge = np.full((64, 64, 3), 100, np.uint8)
    edge[:, 32:] = 150
    before = 0.0
    for level in (1, 2, 3):
        after = distort(edge, "oversharpening", level, seed=0).astype(float)
        below, above = 100 - after.min(), after.max() - 150
        assert below > before
        assert above == pytest.approx(below, abs=1)
        # At the edge a Gaussian of 2 pixels takes off 0.40 of the step's 50.
        expected = grade("oversharpening", level) * 50 * 0.40
        assert above == pytest.approx(min(expected, 105), rel=0.03)
        before = below


# Transmission


def test_block_loss_loses_the_stated_share_of_whole_blocks():
    image = scene(1, height=10 * BLOCK, width=12 * BLOCK)
    for level in ALL_LEVELS:
        lost = distort(image, "block_loss", level, seed=4) != image
        blocks = lost.reshape(10, BLOCK, 12, BLOCK, 3).mean((1, 3, 4))
        share = grade("block_loss", level)
        assert np.count_nonzero(blocks) == math.ceil(share * 120)
        assert blocks[blocks > 0].min() > 0.8  # all of it, but for pixels alike


def test_block_loss_shows_the_neighbour_or_the_mean():
    image = scene(1, height=5 * BLOCK, width=6 * BLOCK)
    distorted = distort(image, "block_loss", 5, seed=4)
    mean = np.rint(image.mean((0, 1)))
    seen = {"neighbour": 0, "mean": 0}
    for row in range(0, 5 * BLOCK, BLOCK):
        for column in range(0, 6 * BLOCK, BLOCK):
            place = slice(row, row + BLOCK), slice(column, column + BLOCK)
            if np.array_equal(distorted[place], image[place]):
                continue
            beside = column - BLOCK if column else BLOCK
            neighbour = image[row : row + BLOCK, beside : beside + BLOCK]
            if np.array_equal(distorted[place], neighbour):
                seen["neighbour"] += 1
            else:
                assert np.all(distorted[place] == mean)
                seen["mean"] += 1
    assert min(seen.values()) > 0


# What is refused


@pytest.mark.parametrize(
    ("image", "kind", "level", "seed", "message"),
    [
        (GREY, "blur", 1, 0, "'blur' is not one of gaussian_noise, .*block_loss: use"),
        (GREY, "jpeg", 0, 0, "level is 0: it must be a whole number from 1 .* to 5"),
        (GREY, "jpeg", 6, 0, "level is 6: it must be"),
        (GREY, "jpeg", 2.5, 0, r"level is 2\.5: it must be"),
        (GREY, "jpeg", "3", 0, "level is '3': it must be"),
        (GREY, "jpeg", 1, -4, "seed is -4: it must be 0 or more"),
        (GREY / 255, "jpeg", 1, 0, "dtype float64: it must be uint8; scale it"),
        (GREY[..., 0], "jpeg", 1, 0, r"shape \(200, 200\): it must be"),
        (GREY[None], "jpeg", 1, 0, r"shape \(1, 200, 200, 3\): it must be"),
        (GREY[..., :2], "jpeg", 1, 0, r"shape \(200, 200, 2\): it must be"),
        (GREY[:31], "jpeg", 1, 0, "200x31 .*must be at least 32; enlarge"),
    ],
)
def test_arguments_out_of_bounds_are_named(image, kind, level, seed, message):
    with pytest.raises(ValueError, match=message) as caught:
        distort(image, kind, level, seed=seed)
    assert "\n" not in str(caught.value)
