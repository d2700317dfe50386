"""Images of any size on canvases: exact scores, few programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spips_jax
from spips_jax import any_size, backbones, baselines, packing
from spips_jax.boxes import ALIGNMENT, BORDER, Moments
from spips_jax.metric import Metric
from spips_jax.spips import Spips

SIZES = [(32, 32), (33, 47), (64, 50), (47, 120), (100, 101), (301, 203)]
LARGE = [(611, 840), (1001, 333), (529, 545)]
"""In pieces, on canvases of 544x544; the last has pieces of few pixels."""

# float32's rounding of convolutions that sum in another order, on a canvas than alone.
# Scores near 0 feel it most, as those of LPIPS, or of DISTS, which is 1 less a sum.
TOLERANCE = {"rtol": 3e-6, "atol": 5e-7}

SMALLEST = packing.SIZES[:1]

CLASSICAL = ("psnr", "ssim", "ms-ssim", "gmsd", "haarpsi")
NETWORKS = ("alexnet", "squeezenet")


@pytest.fixture(autouse=True)
def _one_canvas(monkeypatch):
    """Of 544x544, so that few programs are compiled."""
    monkeypatch.setattr(packing, "SIZES", packing.SIZES[1:2])
    monkeypatch.setattr(packing, "CUT", packing.SIZES[0])


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth blobs with noise, and a duller version with more."""
    random = np.random.default_rng(height * 10_000 + width)
    blobs = random.uniform(0, 255, (height // 8 + 2, width // 8 + 2, 3))
    image = blobs.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = np.clip(image + random.normal(0, 9, image.shape), 0, 255)
    worse = np.clip(0.8 * image + random.normal(20, 12, image.shape), 0, 255)
    return image.astype(np.uint8), worse.astype(np.uint8)


def untrained(name: str) -> Metric:
    """A metric over random weights: exactness has nothing to do with training."""
    if name == "spips-lite":
        return spips_jax.load(name)
    if name in CLASSICAL:
        return spips_jax.load(name)
    if name in NETWORKS:
        module = Spips(
            backbone=backbones.build(name),
            classical=("psnr", "mdsi"),  # spips-lite has the others
        )
        backbone = name
    else:
        record = baselines.BASELINES[name]
        backbone = record.backbone
        options = dict(record.options)
        module = record.module(backbone=backbones.build(backbone, **options))
    image = jnp.zeros((32, 32, 3))

    def start(module, image):
        features = module.extract(image)
        return module.compare(features, features)

    params = jax.jit(lambda key: module.init(key, image, method=start)["params"])
    variables = dict(params(jax.random.key(0)))
    variables["backbone"] = backbones.initialize(backbone, jax.random.key(1))
    return Metric(variables={"params": variables}, module=module, name=name)


@pytest.mark.parametrize(
    "name", [*CLASSICAL, "spips-lite", "squeezenet", "lpips-alexnet", "dists"]
)
def test_scores_are_those_of_the_image_alone(name, monkeypatch):
    metric = untrained(name)
    sizes = SIZES
    if name not in CLASSICAL:
        # Each size of a network alone is a program of its own.
        sizes = SIZES[1:2] if name == "dists" else SIZES[1:4:2]
        monkeypatch.setattr(packing, "SIZES", SMALLEST)
    pairs = [pair(*size) for size in sizes]
    found = any_size.AnySize(metric).pairs(pairs)
    alone = [float(metric(*one)) for one in pairs]
    np.testing.assert_allclose(found, alone, **TOLERANCE)


@pytest.mark.parametrize("name", [*CLASSICAL, "spips-lite"])
def test_pieces_of_large_images_add_up(name):
    metric = untrained(name)
    sizes = LARGE if name in CLASSICAL else LARGE[1:2]
    pairs = [pair(*size) for size in sizes]
    found = any_size.AnySize(metric).pairs(pairs)
    alone = [float(metric(*one)) for one in pairs]
    np.testing.assert_allclose(found, alone, **TOLERANCE)


def test_floats_of_another_range_and_leading_dimensions():
    metric = spips_jax.load("ssim")
    score = any_size.AnySize(metric)
    pairs = [pair(40, 52), pair(41, 52)]
    for x, y in pairs:
        x, y = (one.astype(np.float32) / 127.5 - 1 for one in (x, y))
        batch = np.stack([y, x, y])
        found = score(x, batch, value_range=(-1, 1))
        assert found.shape == (3,)
        expected = metric(x, batch, value_range=(-1, 1))
        np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert score(*pairs[0]).shape == ()


def test_identical_images_are_0_and_images_too_small_are_scored():
    metric = spips_jax.load("spips-lite")
    x, y = pair(48, 40)
    found = any_size.AnySize(metric).pairs([(x, x), (x, y)])
    assert found[0] == 0 < found[1]
    ssim = spips_jax.load("ssim")
    x, y = pair(12, 19)  # one scale of MS-SSIM
    np.testing.assert_allclose(any_size.AnySize(ssim)(x, y), ssim(x, y), **TOLERANCE)


def test_a_pair_that_breaks_the_contract_is_refused():
    score = any_size.AnySize(spips_jax.load("psnr"))
    x, y = pair(40, 52)
    with pytest.raises(spips_jax.ImageError, match="a pair must have one size"):
        score.pairs([(x, y), (x, y[1:])])
    with pytest.raises(spips_jax.ImageError, match="dtype int32"):
        score(x.astype(np.int32), y)
    assert score.pairs([]).shape == (0,)


@pytest.mark.parametrize("name", ["vif", "fsim", "fsimc", "vsi", "mdsi"])
def test_metrics_that_filter_images_as_a_whole_are_refused(name):
    metric = spips_jax.load(name)
    assert not any_size.AnySize.supports(metric)
    with pytest.raises(ValueError, match=f"{name} cannot score images on canvases"):
        any_size.AnySize(metric)


def test_many_sizes_compile_few_programs(monkeypatch):
    monkeypatch.undo()
    any_size._measure.clear_cache()
    score = any_size.AnySize(spips_jax.load("psnr"))
    random = np.random.default_rng(0)
    for size in random.integers(32, 700, (30, 2)).tolist():
        x, y = pair(*size)
        expected = -10 * np.log10(np.square((x - y.astype(float)) / 255).mean())
        # float32, of a logarithm of a mean of 1e6 numbers
        np.testing.assert_allclose(score(x, y), expected, rtol=1e-5)
    assert any_size._measure._cache_size() <= len(packing.SIZES)


def test_programs_can_be_compiled_ahead():
    any_size._measure.clear_cache()
    score = any_size.AnySize(spips_jax.load("ssim"))
    score.compile()
    assert any_size._measure._cache_size() == len(packing.SIZES)
    score.pairs([pair(40, 50), pair(300, 200)])
    assert any_size._measure._cache_size() == len(packing.SIZES)


SHAPES = st.lists(st.tuples(st.integers(32, 1300), st.integers(32, 1300)), max_size=9)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.booleans())
def test_every_pixel_is_counted_once_and_nothing_overlaps(shapes, coarse):
    needs = ("coarse",) if coarse else ()
    layouts = packing.layouts(shapes, needs=needs)
    counted = [np.zeros(shape, int) for shape in shapes]
    for layout in layouts:
        canvas = np.zeros((layout.size.height, layout.size.width), int)
        sheet = np.zeros(layout.size.coarse, int)
        assert len(layout.pieces) <= layout.size.slots
        for piece, (row, column), scales in zip(
            layout.pieces, layout.places, layout.coarse, strict=True
        ):
            rows, columns = slice(*piece.counted_rows), slice(*piece.counted_columns)
            counted[piece.image][rows, columns] += 1
            height, width = piece.shape
            assert row % ALIGNMENT == column % ALIGNMENT == 0
            assert min(row, column) >= ALIGNMENT
            # With the gap after it, which holds the borders of both beside it.
            canvas[
                row : row + height + ALIGNMENT, column : column + width + ALIGNMENT
            ] += 1
            assert row + height <= layout.size.height - ALIGNMENT
            assert column + width <= layout.size.width - ALIGNMENT
            assert len(scales) == (packing.COARSE if coarse else 0)
            for top, left in scales:
                height, width = (height + 1) // 2, (width + 1) // 2
                assert min(top, left) >= BORDER
                part = sheet[
                    top - BORDER : top + height + BORDER,
                    left - BORDER : left + width + BORDER,
                ]
                assert part.shape == (height + 2 * BORDER, width + 2 * BORDER)
                part += 1
        assert canvas.max(initial=0) <= 1
        assert sheet.max(initial=0) <= 1
    assert all((one == 1).all() for one in counted)


def test_what_a_folder_leaves_empty(monkeypatch):
    """At most 30 % of the canvases, of 300 to 1200 pixels (the issue's bar)."""
    monkeypatch.undo()
    sizes = np.random.default_rng(0).integers(300, 1201, (64, 2)).tolist()
    layouts = packing.layouts(sizes, needs=("coarse",))
    filled = sum(height * width for height, width in sizes)
    assert 1 - filled / sum(layout.size.area for layout in layouts) <= 0.30


def test_moments_of_pieces_are_those_of_the_whole():
    random = np.random.default_rng(0)
    x, y = random.normal(3, 2, (2, 50, 4))

    def moments(rows: slice) -> Moments:
        a, b = x[rows], y[rows]
        means = a.mean(0), b.mean(0)
        a, b = a - means[0], b - means[1]
        squares = [np.square(one).sum(0) for one in (a, b, a - b)]
        return Moments(float(len(a)), *means, *squares)

    found = moments(slice(0, 13)) + moments(slice(13, 50))
    for one, expected in zip(
        jax.tree.leaves(found), jax.tree.leaves(moments(slice(0, 50))), strict=True
    ):
        np.testing.assert_allclose(one, expected, rtol=1e-12)  # float64


def test_reduced_sides_stand_for_every_pixel():
    for length in range(300, 340):
        for factor in (1, 2, 3, 4):
            stands_for = packing._stands_for(length, factor)
            assert stands_for.sum() == length
            assert len(stands_for) == -(-length // factor)
