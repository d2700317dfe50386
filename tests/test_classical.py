"""Classical metrics against NumPy float64 from the papers and against scikit-image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics

from spips_jax import ImageError, classical
from spips_jax.messages import UserError

SIZES = [(32, 32), (48, 33), (97, 128), (161, 190)]
"""1, 2, 3 (or 2) and 5 scales of MS-SSIM; odd and even."""

# Compiled: op by op, every test would compile a hundred small programs.
psnr, ssim, ms_ssim, quality_maps = (
    jax.jit(f)
    for f in (classical.psnr, classical.ssim, classical.ms_ssim, classical.quality_maps)
)

# float32 means of squares lose about 1e-7 of 1, which C2 = 9e-4 magnifies by 1e3.
MAP_TOLERANCE = 2e-4
# Averaging over the image brings it back near float32's own error.
MEAN_TOLERANCE = 1e-5


def float64_filter(images: np.ndarray) -> np.ndarray:
    """The 11x11 Gaussian, sigma 1.5, of Wang et al. 2004, by SciPy."""
    sigmas = (1.5, 1.5, 0)
    return scipy.ndimage.gaussian_filter(images, sigmas, mode="reflect", radius=5)


def float64_terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure: Wang et al. 2004, eq. 6, 9, 10."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = float64_filter(x), float64_filter(y)
    var_x = float64_filter(x * x) - mean_x**2
    var_y = float64_filter(y * y) - mean_y**2
    cov = float64_filter(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def float64_scales(x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Wang et al. 2003, eq. 7: the terms per scale and their exponents."""
    betas = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    terms = []
    while True:
        luminance, contrast_structure = float64_terms(x, y)
        half = [(side + 1) // 2 for side in x.shape[:2]]
        if len(terms) == 4 or min(half) < 11:
            terms.append(luminance * contrast_structure)
            break
        terms.append(contrast_structure)
        x, y = (
            np.pad(image, [(0, s % 2) for s in image.shape[:2]] + [(0, 0)], "edge")
            .reshape(half[0], 2, half[1], 2, 3)
            .mean((1, 3))
            for image in (x, y)
        )
    betas = betas[: len(terms)]
    return terms, betas / betas.sum()


def inside(maps: np.ndarray) -> np.ndarray:
    return maps[5:-5, 5:-5].mean((0, 1))


@pytest.mark.parametrize("size", SIZES)
def test_psnr_equals_scikit_image(pair, size):
    reference, distorted = pair(*size)
    expected = metrics.peak_signal_noise_ratio(
        reference.astype(np.float64), distorted.astype(np.float64), data_range=1
    )
    # dB of a float32 mean: 4.3 times its relative error.
    np.testing.assert_allclose(psnr(reference, distorted), expected, rtol=1e-6)


def test_psnr_of_identical_images_is_the_cap(pair):
    reference, _ = pair(32, 32)
    value, gradient = jax.value_and_grad(psnr)(
        jnp.asarray(reference), jnp.asarray(reference)
    )
    assert value == classical.MAX_PSNR
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("size", SIZES)
def test_ssim_equals_scikit_image(pair, size):
    reference, distorted = pair(*size)
    expected, expected_map = metrics.structural_similarity(
        reference.astype(np.float64),
        distorted.astype(np.float64),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    np.testing.assert_allclose(
        ssim(reference, distorted), expected, atol=MEAN_TOLERANCE
    )
    np.testing.assert_allclose(
        quality_maps(reference, distorted)["ssim"],
        (1 - expected_map.mean(-1)) / 2,
        atol=MAP_TOLERANCE,
    )


@pytest.mark.parametrize("size", SIZES)
def test_ssim_equals_the_papers_equation(pair, size):
    reference, distorted = pair(*size)
    terms = float64_terms(reference.astype(np.float64), distorted.astype(np.float64))
    expected = terms[0] * terms[1]
    np.testing.assert_allclose(
        ssim(reference, distorted),
        inside(expected).mean(),
        atol=MEAN_TOLERANCE,
    )


@pytest.mark.parametrize("size", SIZES)
def test_ms_ssim_equals_the_papers_equation(pair, size):
    reference, distorted = pair(*size)
    terms, betas = float64_scales(
        reference.astype(np.float64), distorted.astype(np.float64)
    )
    assert classical.num_scales(*size) == len(terms)
    means = [np.maximum(inside(term), 0) for term in terms]
    expected = np.prod([m**b for m, b in zip(means, betas, strict=True)], axis=0)
    np.testing.assert_allclose(
        ms_ssim(reference, distorted), expected.mean(), atol=MEAN_TOLERANCE
    )


@pytest.mark.parametrize("size", [(176, 176), (192, 256)])
def test_ms_ssim_equals_pytorch_msssim(pair, size):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer here")
    peer = pytest.importorskip("pytorch_msssim", reason="the peer is not installed")
    reference, distorted = pair(*size)
    expected = peer.ms_ssim(
        *(
            torch.from_numpy(image.transpose(2, 0, 1)[None]).double()
            for image in (reference, distorted)
        ),
        data_range=1.0,
    )
    # Sizes that halve evenly: the peer pads odd ones with zeros.
    np.testing.assert_allclose(
        ms_ssim(reference, distorted), float(expected), atol=MEAN_TOLERANCE
    )


@pytest.mark.parametrize("size", SIZES)
def test_quality_maps_equal_their_definitions(pair, size):
    reference, distorted = pair(*size)
    x, y = reference.astype(np.float64), distorted.astype(np.float64)
    maps = quality_maps(reference, distorted)

    error = ((x - y) ** 2).mean(-1)
    expected = np.log1p(error / 1e-6) / np.log1p(1e6)
    np.testing.assert_allclose(maps["psnr"], expected, atol=1e-5)

    terms, betas = float64_scales(x, y)
    total = np.zeros((1, 1, 3))
    for term, beta in zip(terms[::-1], betas[::-1], strict=True):
        if total.size > 3:
            # Half-pixel bilinear interpolation to twice the size, by SciPy.
            total = scipy.ndimage.zoom(
                total, (2, 2, 1), order=1, mode="nearest", grid_mode=True
            )[: term.shape[0], : term.shape[1]]
        total = total + beta * np.log(np.clip(term, 1e-4, 1))
    # The logarithm of small terms magnifies their error again, up to
    # beta / 1e-4; few pixels of this pair come near.
    np.testing.assert_allclose(
        maps["ms_ssim"], 1 - np.exp(total).mean(-1), atol=10 * MAP_TOLERANCE
    )
    np.testing.assert_allclose(
        maps["ms_ssim"].mean(), (1 - np.exp(total).mean(-1)).mean(), atol=MEAN_TOLERANCE
    )


def test_the_psnr_map_is_one_minus_psnr_over_60_db():
    reference = np.full((32, 32, 3), 0.5, np.float32)
    for step in (0.1, 0.03, 0.01):
        value = quality_maps(reference, reference + np.float32(step))["psnr"]
        decibels = -20 * np.log10(step)
        # log1p(e / 1e-6) against log(e / 1e-6): 1e-6 / e / log(1e6) apart.
        np.testing.assert_allclose(
            value, 1 - decibels / 60, atol=1e-6 / step**2 / 13 + 1e-5
        )


@pytest.mark.parametrize(
    ("side", "scales"), [(32, 2), (40, 2), (41, 3), (82, 4), (161, 5), (4000, 5)]
)
def test_ms_ssim_uses_as_many_scales_as_fit(side, scales):
    assert classical.num_scales(side, 5000) == scales


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    contrast=st.floats(0, 1),
    shape=st.sampled_from([(32, 32), (33, 40)]),
)
def test_maps_lie_in_the_unit_interval(seed, contrast, shape):
    rng = np.random.default_rng(seed)
    images = rng.random((2, *shape, 3)).astype(np.float32)
    images = np.clip(contrast * images + (1 - contrast) * rng.random(), 0, 1)
    for name, values in quality_maps(*images.astype(np.float32)).items():
        assert values.shape == shape, name
        assert values.dtype == jnp.float32, name
        assert (values >= 0).all(), name
        assert (values <= 1 + 1e-6).all(), name  # float32's rounding of log1p


def test_leading_dimensions_are_kept(pair):
    reference, distorted = pair(2, 3, 32, 40)
    for measure in (psnr, ssim, ms_ssim):
        together = measure(reference, distorted)
        assert together.shape == (2, 3)
        one = measure(reference[1, 2], distorted[1, 2])
        np.testing.assert_allclose(together[1, 2], one, rtol=1e-6)


def test_the_global_precision_setting_changes_nothing(pair):
    reference, distorted = pair(64, 64)
    expected = quality_maps(reference, distorted)
    with jax.default_matmul_precision("bfloat16"):
        actual = quality_maps(reference, distorted)  # compiled anew: a part of the key
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values)


MEASURES = {
    name: getattr(classical, name)
    for name in (
        "psnr", "ssim", "ms_ssim", "vif", "fsim", "fsimc", "vsi", "gmsd", "mdsi",
        "haarpsi",
    )
}  # fmt: skip
LEAST = {**{name: one.min_size for name, one in classical.MAPS.items()}, "vif": 41}

measures = pytest.mark.parametrize("name", MEASURES)


@measures
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: np.moveaxis(x, -1, -3), "move the channels last"),
        (lambda x: (255 * x).astype(np.uint8), "dtype uint8: .* floats in"),
        (lambda x: np.where(x > 0.99, np.nan, x), "distorted contains NaN"),
        (lambda x: 255 * x, "far outside its value_range"),
        (lambda x: x[:, :-1], "a pair must have one size"),
        (lambda x: x.tolist(), "give a NumPy or JAX array"),
    ],
    ids=["channels first", "uint8", "nan", "range", "sizes", "list"],
)
def test_functions_refuse_what_they_would_score_wrongly(name, spoil, message):
    image = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    with pytest.raises(ImageError, match=message):
        MEASURES[name](image, spoil(image))


@measures
def test_functions_name_the_least_size_that_they_need(name):
    least = LEAST[name]
    image = np.full((64, least - 1, 3), 0.5, np.float32)
    with pytest.raises(ImageError) as caught:
        MEASURES[name](image, image)
    side = f"reference: width {least - 1} is below the {least} that {name} needs"
    assert str(caught.value) == side


@pytest.mark.parametrize("name", classical.MAPS)
def test_maps_name_the_least_size_that_they_need(name):
    least = LEAST[name]
    image = np.full((64, least - 1, 3), 0.5, np.float32)
    with pytest.raises(ImageError, match=f"width {least - 1} is below.* that {name} n"):
        classical.quality_maps(image, image, names=("psnr", name))


def test_maps_that_there_are_not_are_named():
    image = np.full((32, 32, 3), 0.5, np.float32)
    with pytest.raises(UserError, match=r"map 'ms-ssim' is not one .*did you mean ms_"):
        classical.quality_maps(image, image, names=("psnr", "ms-ssim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_size": 10}, "filter_size is 10: take an odd number"),
        ({"filter_size": 2}, "filter_size is 2: take an odd number"),
        ({"filter_size": 0}, "filter_size is 0"),
        ({"filter_size": -3}, "filter_size is -3"),
        ({"filter_size": 4.5}, "filter_size is 4.5"),
        ({"filter_size": 19}, "needs 9 pixels to mirror, and a side .* is 8"),
        ({"filter_sigma": 0.0}, "filter_sigma is 0.0: take a number above 0"),
        ({"filter_sigma": -1.5}, "filter_sigma is -1.5"),
        ({"filter_sigma": np.nan}, "filter_sigma is nan"),
        ({"filter_sigma": np.inf}, "filter_sigma is inf"),
    ],
)
def test_windows_that_are_none_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        classical.gaussian_filter(jnp.ones((8, 12, 3)), **options)


@pytest.mark.parametrize("size", [1, 3, 11, 17])
def test_every_other_window_keeps_a_constant(size):
    images = jnp.ones((8, 12, 3))
    blurred = jax.jit(classical.gaussian_filter, static_argnames="filter_size")(
        images, filter_size=size
    )
    np.testing.assert_allclose(blurred, 1, rtol=1e-6)  # a float32 sum of 17 at most
