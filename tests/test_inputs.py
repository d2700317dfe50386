"""Images as people have them: paths, Pillow's, tensors, batches with a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_metric import small_metric

from spips_jax import ImageError, MeanScore, as_image

SMALL = small_metric()
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


@pytest.fixture
def forms(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    tensor = torch.from_numpy(PIXELS)
    return {
        "path": (path, False),
        "text": (str(path), False),
        "Pillow": (Image.open(path), False),
        "NumPy": (PIXELS, False),
        "JAX": (jnp.asarray(PIXELS), False),
        "tensor": (tensor, False),
        "channels first": (tensor.movedim(-1, 0), True),
        "NumPy, channels first": (np.moveaxis(PIXELS, -1, 0), True),
    }


def test_every_form_is_the_same_image(forms):
    for name, (image, channels_first) in forms.items():
        found = as_image(image, channels_first=channels_first)
        assert found.dtype == np.uint8, name
        np.testing.assert_array_equal(found, PIXELS, err_msg=name)


def test_grey_is_repeated_and_a_gradient_is_left_behind():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    grey = as_image(Image.fromarray(PIXELS[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=-1))
    batch = torch.rand(2, 3, 40, 48, requires_grad=True)
    assert as_image(batch, channels_first=True).shape == (2, 40, 48, 3)


@pytest.mark.parametrize(
    ("image", "channels_first", "message"),
    [
        (np.zeros((3, 40, 48)), False, r"shape \(3, 40, 48\), not \(\.\.\., H, W, 3\)"),
        (np.zeros((40, 48, 3)), True, r"not \(\.\.\., 3, H, W\): channels_first says"),
        (np.zeros((40, 48)), False, r"image has shape \(40, 48\)"),
        (Image.new("RGBA", (40, 40)), False, "of mode RGBA: give RGB or grey"),
        ([[1.0]], False, "image is a builtins.list: give a path, a Pillow image"),
        ("nowhere.png", False, "nowhere.png: no such file"),
    ],
)
def test_what_is_none_is_refused(image, channels_first, message):
    with pytest.raises(ImageError, match=message):
        as_image(image, channels_first=channels_first)


def test_a_mean_over_batches_leaves_out_what_fills_them():
    x, y = (
        np.random.default_rng(seed).random((6, 5, 7, 3), np.float32) for seed in (0, 1)
    )
    expected = np.square(x.astype(np.float64) - y).mean((1, 2)).sum(-1)
    filled = y.copy()
    filled[5] = np.nan

    @jax.jit
    def step(mean, x, y, mask):
        return mean.merge(MeanScore.of(SMALL, x, y, mask=mask))

    mean = step(MeanScore.empty(), x[:3], filled[:3], np.ones(3))
    mean = step(mean, x[3:], filled[3:], np.array([True, True, False]))
    assert mean.count == 5
    # float32 sums of a hundred numbers, in another order
    np.testing.assert_allclose(mean.compute(), expected[:5].mean(), rtol=1e-5)
    assert np.isnan(MeanScore.empty().compute())

    stacked = jax.vmap(lambda x, y: MeanScore.of(SMALL, x, y, value_range=(0, 2)))(x, y)
    found = stacked.reduce()
    assert found.count == 6
    np.testing.assert_allclose(found.compute(), expected.mean() / 4, rtol=1e-5)
