"""Heat maps: pictures of a sensible size whatever the images are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from spips_jax.heatmaps import write_heat_maps
from spips_jax.spips import Comparison


@pytest.mark.parametrize("size", [(32, 32), (32, 3000), (3000, 32)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_size_makes_a_picture(tmp_path, size, dtype):
    image = np.zeros((*size, 3), dtype)
    maps = {
        name: np.random.default_rng(0).random(size).astype(np.float32)
        for name in ("psnr", "perceptual", "semantic", "classical", "fused")
    }
    streams = dict.fromkeys(("perceptual", "semantic", "classical"), np.float32(0.1))
    path = tmp_path / "maps.png"
    write_heat_maps(
        path,
        Comparison(score=np.float32(0.3), streams=streams, maps=maps),
        reference=image,
        distorted=image,
        title="a title",
    )
    with Image.open(path) as picture:
        assert 200 < min(picture.size) < max(picture.size) < 4000
    assert [file.name for file in tmp_path.iterdir()] == ["maps.png"]


def test_maps_of_identical_images_are_drawn(tmp_path):
    image = np.zeros((32, 40, 3), np.uint8)
    comparison = Comparison(
        score=np.float32(0), streams={}, maps={"fused": np.zeros((32, 40), np.float32)}
    )
    write_heat_maps(
        tmp_path / "maps.png",
        comparison,
        reference=image,
        distorted=image,
        title="0",
    )
    assert (tmp_path / "maps.png").stat().st_size > 1000


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def fail(self, path, **options):
        raise OSError("disk full")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
    image = np.zeros((32, 40, 3), np.uint8)
    with pytest.raises(OSError, match="disk full"):
        write_heat_maps(
            tmp_path / "maps.png",
            Comparison(score=np.float32(0), streams={}, maps={}),
            reference=image,
            distorted=image,
            title="0",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_others_would_hide_has_its_own_scale():
    from spips_jax.heatmaps import _scales

    bright, dim, dark, even = (
        scale * np.array([[0.0, 0.1], [0.6, 1.0]]) for scale in (1, 0.5, 0.01, 0)
    )
    maps = {"a": bright, "b": dim, "c": dark, "d": even, "e": even + 0.02}
    assert _scales(maps) == {"a": 1.0, "b": 1.0, "c": 0.01, "d": 1.0, "e": 1.0}


def test_a_notebook_shows_the_maps_of_one_pair(light, pair):
    reference, distorted = pair(40, 48)
    shown = light.explain(reference, distorted)._repr_png_()
    with Image.open(io.BytesIO(shown)) as picture:
        assert picture.format == "PNG"
    several = light.explain(reference[None], distorted[None])
    assert several._repr_png_() is None
