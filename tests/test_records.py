"""A backbone, a baseline, a classical map: a record is all it takes to add one."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spips_jax
from spips_jax import backbones, baselines, classical, loading, weights
from spips_jax.backbones import Backbone, Network, Published
from spips_jax.baselines import Baseline
from spips_jax.classical import QualityMap
from spips_jax.spips import Comparison, Features, Spips, initialize
from weights_convert.networks import open_source, to_flax


class Toy(Network):
    """Two convolutions of stride 2."""

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        relu1 = nn.relu(nn.Conv(4, (3, 3), strides=2, name="conv1")(images))
        relu2 = nn.relu(nn.Conv(8, (3, 3), strides=2, name="conv2")(relu1))
        return self._chosen({"relu1": relu1, "relu2": relu2})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    record = Backbone(
        module=Toy,
        perceptual=("relu1",),
        semantic=("relu2",),
        normalize=lambda images: 2 * images - 1,
        min_size=40,
        published=Published(
            origin="nowhere",
            tensors={
                f"net.{layer}.{theirs}": (f"conv{layer}.{ours}",)
                for layer in (1, 2)
                for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
            },
        ),
        stored_dtype="float16",
    )
    monkeypatch.setitem(backbones.BACKBONES, "toy", record)
    # What is made from the records when the package is imported.
    monkeypatch.setitem(weights.PUBLISHED, "toy", record.published)
    monkeypatch.setitem(loading.MODELS, "spips-toy", "toy")
    monkeypatch.setattr(loading, "NAMES", (*loading.NAMES, "spips-toy"))
    return record


def test_a_backbone_is_added_by_its_record(toy, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    tensors = {
        f"net.{layer}.{name}": rng.normal(size=shape).astype(np.float32)
        for layer, out, into in ((1, 4, 3), (2, 8, 4))
        for name, shape in (("weight", (out, into, 3, 3)), ("bias", (out,)))
    }
    np.savez(tmp_path / "toy.npz", **tensors)
    converted = to_flax("toy", open_source("toy", tmp_path / "toy.npz").read("toy"))
    with pytest.raises(weights.WeightsError, match="spips convert toy --source FILE"):
        spips_jax.load("spips-toy")
    weights.write_weights(weights.weights_path("toy"), converted, network="toy")
    metric = spips_jax.load("spips-toy")
    reference, distorted = pair(48, 56)
    assert metric(reference, distorted) > metric(reference, reference) == 0
    assert "backbone toy" in repr(metric)

    taps = metric.features(reference).taps
    assert list(taps) == ["relu1", "relu2"]
    expected = metric.module.backbone.apply(
        {"params": converted}, 2 * reference[None] - 1
    )
    np.testing.assert_allclose(taps["relu1"], expected["relu1"][0], rtol=1e-5)
    with pytest.raises(ValueError, match="height 39 is below the 40 that spips-toy-un"):
        metric(reference[:39], distorted[:39])
    metric.save(tmp_path / "model.safetensors")
    kernel = spips_jax.load(tmp_path / "model.safetensors").variables["params"][
        "backbone"
    ]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        kernel, converted["conv1"]["kernel"].astype(np.float16)
    )


class MeanAbsolute(nn.Module):
    """The mean absolute error."""

    min_size = 1
    higher_is_better = False

    def extract(self, images: jax.Array) -> Features:
        return Features(image=images, taps={})

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        error = jnp.abs(reference.image - distorted.image).mean(-1)
        return Comparison(score=error.mean((-2, -1)), streams={}, maps={"mae": error})


def test_a_baseline_is_added_by_its_record(pair, monkeypatch):
    monkeypatch.setitem(baselines.BASELINES, "mae", Baseline(module=MeanAbsolute))
    monkeypatch.setattr(loading, "NAMES", (*loading.NAMES, "mae"))
    metric = spips_jax.load("mae")
    reference, distorted = pair(20, 24)
    expected = np.abs(reference.astype(np.float64) - distorted).mean()
    np.testing.assert_allclose(metric(reference, distorted), expected, rtol=1e-5)
    parts = metric.explain(reference, distorted)  # the module has no `score`
    np.testing.assert_allclose(parts.score, expected, rtol=1e-5)
    assert parts.maps["mae"].shape == (20, 24)
    assert loading.networks("mae") == ()
    with pytest.raises(ValueError, match="mae has no weights"):
        spips_jax.load("mae", weights="x.safetensors")


def test_a_classical_map_is_added_by_its_record(
    random_metric, pair, tmp_path, monkeypatch
):
    cubed = QualityMap(
        error=lambda x, y: jnp.square(x - y).mean(-1),
        quality=lambda error: jnp.cbrt(error),
        min_size=50,
    )
    monkeypatch.setitem(classical.MAPS, "cubed", cubed)
    backbone = random_metric("squeezenet").variables["params"]["backbone"]
    module = Spips(
        backbone=backbones.build("squeezenet"), classical=("psnr", "cubed"), width=4
    )
    params = {**initialize(module), "backbone": backbone}
    metric = spips_jax.Metric(variables={"params": params}, module=module, name="m")
    metric.save(tmp_path / "model.safetensors")
    metric = spips_jax.load(tmp_path / "model.safetensors")
    assert metric.module.classical == ("psnr", "cubed")
    reference, distorted = pair(52, 60)
    parts = metric.explain(reference, distorted)
    assert {"psnr", "cubed"} < set(parts.maps)
    assert "ssim" not in parts.maps
    # The untrained stream is the mean of its maps' inputs, of which the mean over
    # images comes before the root.
    squares = np.square(reference.astype(np.float64) - distorted).mean()
    quality = [math.log1p(squares / 1e-6) / math.log1p(1e6), math.cbrt(squares)]
    np.testing.assert_allclose(
        parts.streams["classical"], np.mean(quality) / 3, rtol=1e-4
    )
    with pytest.raises(ValueError, match="width 44 is below the 50 that m needs"):
        metric(reference[:, :44], distorted[:, :44])
