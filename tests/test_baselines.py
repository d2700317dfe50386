"""LPIPS and DISTS against published values and against PyTorch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import spips_jax
from spips_jax import read_image, weights


@pytest.mark.parametrize(
    ("network", "expected"),
    # alexnet: as published in the README of richzhang/PerceptualSimilarity; squeezenet:
    # the lpips package's own output.
    [("alexnet", (0.7219, 0.1376)), ("squeezenet", (0.7110, 0.1479))],
)
def test_lpips_gives_the_published_values(shared, real_weights, network, expected):
    images = shared("data/lpips_example")
    metric = spips_jax.load(
        f"lpips-{network}",
        weights=real_weights(network),
        head=real_weights(f"lpips-{network}"),
    )
    reference, *distorted = (
        read_image(images / f"ex_{name}.png") for name in ("ref", "p0", "p1")
    )
    # Published to four digits.
    np.testing.assert_allclose(
        metric(reference, np.stack(distorted)), expected, atol=1e-4
    )
    assert metric(reference, reference) == 0


def write_head(network: str, path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    params: dict = {}
    for name, shape in weights.expected_shapes(network).items():
        first, last = name.split(".")
        params.setdefault(first, {})[last] = rng.random(shape).astype(np.float32)
    weights.write_weights(path, params, network=network)
    return params


@pytest.fixture
def vgg16_features(random_params):
    """VGG16's taps in PyTorch, float64, written from DISTS's and LPIPS's papers."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer here")
    params = random_params("vgg16")

    def features(image: np.ndarray, *, l2_pooling: bool) -> list:
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
        x = torch.from_numpy(image.astype(np.float64))
        x = ((x - mean) / std).permute(2, 0, 1)[None]
        hann = torch.tensor([0.5, 1, 0.5], dtype=torch.float64)
        window = torch.outer(hann, hann)
        window = window / window.sum()
        taps = []
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            if stage > 1 and l2_pooling:
                kernel = window.expand(x.shape[1], 1, 3, 3)
                x = torch.nn.functional.conv2d(
                    x**2, kernel, stride=2, padding=1, groups=x.shape[1]
                )
                x = (x + 1e-12).sqrt()
            elif stage > 1:
                x = torch.nn.functional.max_pool2d(x, 2)
            for layer in range(1, depth + 1):
                conv = params[f"conv{stage}_{layer}"]
                kernel = torch.from_numpy(conv["kernel"].transpose(3, 2, 0, 1).copy())
                bias = torch.from_numpy(conv["bias"])
                x = torch.nn.functional.conv2d(
                    x, kernel.double(), bias.double(), padding=1
                ).relu()
            taps.append(x[0].numpy())
        return taps

    return features


def test_lpips_follows_its_equation(vgg16_features, random_weights, pair, tmp_path):
    head = write_head("lpips-vgg16", tmp_path / "head.safetensors")
    metric = spips_jax.load(
        "lpips-vgg16",
        weights=random_weights("vgg16"),
        head=tmp_path / "head.safetensors",
    )
    reference, distorted = pair(48, 57)
    expected = 0.0
    taps = metric.module.backbone.taps
    pairs = [vgg16_features(x, l2_pooling=False) for x in (reference, distorted)]
    for tap, x, y in zip(taps, *pairs, strict=True):
        x, y = (f / (np.sqrt((f**2).sum(0)) + 1e-10) for f in (x, y))
        expected += np.einsum("c,chw->hw", head[tap]["weight"], (x - y) ** 2).mean()
    # float32 features of thirteen layers.
    np.testing.assert_allclose(metric(reference, distorted), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (45, 58)])
def test_dists_follows_its_equation(
    vgg16_features, random_weights, pair, tmp_path, size
):
    head = write_head("dists", tmp_path / "dists.safetensors")
    metric = spips_jax.load(
        "dists", weights=random_weights("vgg16"), head=tmp_path / "dists.safetensors"
    )
    reference, distorted = pair(*size)
    names = ("input", *metric.module.backbone.taps)
    similarity = total = 0.0
    pairs = (
        [image.transpose(2, 0, 1), *vgg16_features(image, l2_pooling=True)]
        for image in (reference, distorted)
    )
    for name, x, y in zip(names, *pairs, strict=True):
        # Ding et al. 2020, eq. 5 to 7, c1 = c2 = 1e-6 as in the authors' code.
        alpha, beta = head["alpha"][name], head["beta"][name]
        mx, my = x.mean((1, 2), dtype=np.float64), y.mean((1, 2), dtype=np.float64)
        vx, vy = x.var((1, 2), dtype=np.float64), y.var((1, 2), dtype=np.float64)
        cov = (x.astype(np.float64) * y).mean((1, 2)) - mx * my
        similarity += alpha @ ((2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6))
        similarity += beta @ ((2 * cov + 1e-6) / (vx + vy + 1e-6))
        total += alpha.sum() + beta.sum()
    # One minus a number near one, of float32 features of thirteen layers.
    np.testing.assert_allclose(
        metric(reference, distorted), 1 - similarity / total, atol=1e-5
    )
    assert metric(reference, reference) == 0


def test_dists_weights_are_the_published_ones(shared, tmp_path):
    """The .pt file converted by the command against the authors' .mat file."""
    import scipy.io

    from spips_jax.commands import main

    source = shared("weights/dists/weights.pt")
    output = tmp_path / "dists.safetensors"
    assert (
        main(["convert", "dists", "--source", str(source), "--output", str(output)])
        == 0
    )
    loaded = weights.read_weights(output, network="dists")
    published = scipy.io.loadmat(shared("weights/dists/alpha_beta.mat"))
    order = ("input", "relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    for vector in ("alpha", "beta"):
        joined = np.concatenate([loaded[vector][tap] for tap in order])
        np.testing.assert_array_equal(joined, published[vector].ravel())
    assert weights.PUBLISHED["dists"].tensors["alpha"][0] == "alpha.input"


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms-ssim"])
def test_classical_baselines_are_metrics(name, pair):
    metric = spips_jax.load(name)
    assert metric.higher_is_better
    assert jax.tree.leaves(metric) == []
    reference, distorted = pair(2, 40, 48)
    scores = metric(reference, distorted)
    assert scores.shape == (2,)
    assert (metric(reference, reference) > scores).all()
    np.testing.assert_allclose(
        metric(metric.features(reference), distorted), scores, rtol=1e-6
    )
    parts = metric.explain(reference, distorted)
    np.testing.assert_allclose(parts.score, scores, rtol=1e-5)
    assert {m.shape for m in parts.maps.values()} == {(2, 40, 48)}


def test_lpips_maps_average_to_the_score(random_weights, pair, tmp_path):
    write_head("lpips-alexnet", tmp_path / "head.safetensors")
    metric = spips_jax.load(
        "lpips-alexnet",
        weights=random_weights("alexnet"),
        head=tmp_path / "head.safetensors",
    )
    parts = metric.explain(*pair(64, 64))
    # Another program: sums in another order.
    np.testing.assert_allclose(metric(*pair(64, 64)), parts.score, rtol=1e-5)
    assert parts.maps["fused"].shape == (64, 64)
    # Interpolation weighs the edges of a coarse map more than its middle.
    np.testing.assert_allclose(parts.maps["fused"].mean(), parts.score, rtol=0.02)


def test_calls_that_make_no_sense_are_errors(tmp_path, monkeypatch, random_weights):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="'vmaf' is not one of spips-lite"):
        spips_jax.load("vmaf")
    with pytest.raises(ValueError, match="psnr has no weights"):
        spips_jax.load("psnr", weights="x.safetensors")
    with pytest.raises(weights.WeightsError, match="spips convert lpips-alexnet"):
        spips_jax.load("lpips-alexnet", weights=random_weights("alexnet"))
    with pytest.raises(weights.WeightsError, match="holds alexnet, wanted squeezenet"):
        spips_jax.load("lpips-squeezenet", weights=random_weights("alexnet"))


def test_published_heads_convert(real_weights):
    for network, key in (("lpips-alexnet", "relu5"), ("lpips-squeezenet", "fire9")):
        head = weights.read_weights(real_weights(network), network=network)
        assert (head[key]["weight"] >= 0).all()


@pytest.mark.parametrize("name", ["lpips-alexnet", "dists"])
def test_gradients_are_finite(name, random_weights, tmp_path):
    backbone = "vgg16" if name == "dists" else "alexnet"
    write_head(name, tmp_path / "head.safetensors")
    metric = spips_jax.load(
        name, weights=random_weights(backbone), head=tmp_path / "head.safetensors"
    )
    black = np.zeros((32, 32, 3), np.float32)
    noise = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    for x, y in ((black, noise), (noise, black), (noise, noise), (black, black)):
        gradient = jax.grad(metric, argnums=(0, 1))(x, y)
        assert all(np.isfinite(g).all() for g in gradient)
