"""Trained models as files: read as written, and refused in one line otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import spips_jax
from spips_jax import (
    Calibration,
    Metric,
    WeightsError,
    backbones,
    model_file,
    spips,
    weights,
)
from spips_jax.spips import Spips


@pytest.fixture
def trained(random_metric: Callable[..., Metric]) -> Metric:
    """A metric whose parameters were moved a little, as by training."""
    metric = random_metric("alexnet")
    rng = np.random.default_rng(0)
    params = {
        part: tree
        if part == "backbone"
        else jax.tree.map(
            lambda w: (w + 0.01 * rng.random(w.shape)).astype(np.float32), tree
        )
        for part, tree in metric.variables["params"].items()
    }
    return metric.replace(variables={"params": params})


CALIBRATION = Calibration("mos", (0.1, 8.3, 1 / 3, 0.07), (0.0, 9.0), "ours", 60, 0.5)


def write(path: Path, metric: Metric, *, whole: bool = False) -> Path:
    model = model_file.Model("mine", metric.module, params_of(metric), None, CARD)
    model_file.write_model(path, model, with_backbone=whole)
    return path


def params_of(metric: Metric) -> dict:
    return jax.device_get(metric.variables["params"])


CARD = {"step": 7}


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_comes_back_as_it_was(trained, pair, tmp_path, random_weights, whole):
    path = write(tmp_path / "model.safetensors", trained, whole=whole)
    backbone = None if whole else random_weights("alexnet")
    loaded = spips_jax.load(path, weights=backbone)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    images = pair(40, 44)
    np.testing.assert_array_equal(loaded(*images), trained(*images))
    assert loaded.name == "mine"
    digest = weights.digest(trained.variables["params"]["backbone"])
    assert loaded.card == model_file.read_card(path)
    assert loaded.card == {
        "step": 7,
        "name": "mine",
        "backbone": "alexnet",
        "backbone_in_file": whole,
        "backbone_sha256": digest,
    }
    assert (path.stat().st_size > 9_000_000) == whole


@pytest.mark.parametrize("whole", [False, True])
def test_saving_and_loading_are_symmetrical(trained, tmp_path, random_weights, whole):
    path = write(tmp_path / "model.safetensors", trained, whole=whole)
    backbone = None if whole else random_weights("alexnet")
    first = Metric.load(path, weights=backbone).replace(calibration=CALIBRATION)
    first.save(tmp_path / "again.safetensors")
    second = Metric.load(tmp_path / "again.safetensors", weights=backbone)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    for name in ("name", "module", "calibration", "card"):
        assert getattr(first, name) == getattr(second, name)
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_a_backbone_that_was_changed_is_saved(trained, tmp_path, random_weights):
    path = write(tmp_path / "model.safetensors", trained)
    metric = Metric.load(path, weights=random_weights("alexnet"))
    params = {**metric.variables["params"]}
    params["backbone"] = jax.tree.map(lambda w: 1.5 * w, params["backbone"])
    tuned = metric.replace(variables={"params": params})
    tuned.save(tmp_path / "tuned.safetensors")
    loaded = spips_jax.load(tmp_path / "tuned.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, tuned.variables)


def test_a_model_without_a_card_is_saved_whole(random_metric, tmp_path):
    untrained = random_metric("squeezenet")
    untrained.save(tmp_path / "model.safetensors")
    loaded = spips_jax.load(tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, untrained.variables)
    assert loaded.name == "spips-squeezenet-untrained"


def test_only_spips_models_are_saved(tmp_path):
    with pytest.raises(ValueError, match="psnr is not a SPIPS model"):
        spips_jax.load("psnr").save(tmp_path / "psnr.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_metric_is_told_in_three_lines(trained):
    told = repr(trained.replace(calibration=CALIBRATION))
    assert told.count("\n") <= 2
    assert len(told) < 3 * 88
    for part in ("spips-alexnet-untrained", "alexnet", "parameters", "mos of ours"):
        assert part in told


def test_the_options_of_the_network_come_back(random_metric, random_weights, tmp_path):
    backbone = random_metric("alexnet").variables["params"]["backbone"]
    options = {
        "width": 8,
        "streams": ("semantic", "classical"),
        "statistics": ("squares", "structure"),
        "classical": ("ms_ssim", "psnr"),
        "monotone": False,
        "moment_epsilon": 1e-2,
    }
    module = Spips(backbone=backbones.build("alexnet"), **options)
    params = {**spips.initialize(module), "backbone": backbone}
    path = tmp_path / "model.safetensors"
    Metric(variables={"params": params}, module=module, name="mine").save(path)
    loaded = spips_jax.load(path).module
    assert {name: getattr(loaded, name) for name in options} == options
    assert set(options) == set(model_file.OPTIONS)


@pytest.mark.parametrize(
    "options",
    [{}, {"streams": ("semantic",)}, {"monotone": False, "statistics": ("texture",)}],
    ids=["default", "one stream", "free head"],
)
def test_touching_meets_every_parameter(options):
    """Those that a comparison of two images meets."""
    module = Spips(backbone=backbones.build("alexnet"), **options)
    image = jnp.zeros((module.min_size, module.min_size, 3))
    init = partial(module.init, jax.random.key(0))
    touched = jax.eval_shape(partial(init, method="touch"), image)
    assert touched == jax.eval_shape(init, image, image)


def of_version(version, path, tensors, metadata) -> Path:
    """A file as earlier versions wrote it, from the parts of one of this version."""
    options = json.loads(metadata["options"])
    del options["moment_epsilon"]
    gain = {"kernel": np.ones((7, 16)), "bias": np.ones(16), "output": np.zeros(16)}
    tensors = {k: v for k, v in tensors.items() if not k.startswith("gain.")}
    tensors |= {f"gain.{name}": np.float32(value) for name, value in gain.items()}
    if version == "1":
        del options["classical"]
        tensors["attention.weight"] = np.zeros(256, np.float32)
    metadata = {**metadata, "version": version, "options": json.dumps(options)}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize("version", ["1", "2"])
def test_files_of_older_versions_load(random_metric, pair, tmp_path, version):
    """Their gains of seven facts were not trained: they are 1, as one of three.

    They do not name the constant of texture and structure, which was 1e-6.
    """
    metric = random_metric("alexnet")
    metric = metric.replace(module=metric.module.clone(moment_epsilon=1e-6))
    tensors, metadata = read(write(tmp_path / "model.safetensors", metric, whole=True))
    old = of_version(version, tmp_path / "old.safetensors", tensors, metadata)
    loaded, images = spips_jax.load(old), pair(40, 44)
    np.testing.assert_array_equal(loaded(*images), metric(*images))
    loaded.save(old)
    assert read(old)[1] == metadata


@pytest.mark.parametrize(
    ("version", "name", "told"),
    [
        ("1", "attention.weight", "has learned attention over positions, which SPIPS"),
        ("1", "gain.output", "version 1 .* has learned gain of other facts, which"),
        ("2", "gain.output", "version 2 .* has learned gain of other facts, which"),
    ],
)
def test_what_spips_no_longer_has_is_refused(
    random_metric, tmp_path, version, name, told
):
    path = write(tmp_path / "model.safetensors", random_metric("alexnet"), whole=True)
    tensors, metadata = read(path)
    old = of_version(version, tmp_path / "old.safetensors", tensors, metadata)
    tensors, metadata = read(old)
    tensors[name][3] = 0.1
    safetensors.numpy.save_file(tensors, old, metadata=metadata)
    with pytest.raises(WeightsError, match=told):
        spips_jax.load(old)


def test_lites_backbone_is_stored_as_float16(random_metric, tmp_path):
    """Rounded once: what is read, written again and calibrated stays as it is."""
    path = tmp_path / "lite.safetensors"
    metric = random_metric("lite")
    metric.save(path)
    loaded = spips_jax.load(path)
    assert path.stat().st_size < 4_000_000
    found = loaded.variables["params"]
    for part, tree in params_of(metric).items():
        kind = np.float16 if part == "backbone" else np.float32
        rounded = jax.tree.map(lambda x, kind=kind: np.float32(kind(x)), tree)
        jax.tree.map(np.testing.assert_array_equal, found[part], rounded)
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    assert loaded.card["backbone_sha256"] == weights.digest(found["backbone"])

    again = tmp_path / "again.safetensors"
    loaded.replace(calibration=CALIBRATION).save(again)
    before, after = (safetensors.numpy.load_file(file) for file in (path, again))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype, name
        np.testing.assert_array_equal(tensor, before[name])


def test_a_models_file_will_do_for_its_backbone(trained, tmp_path):
    whole = write(tmp_path / "whole.safetensors", trained, whole=True)
    expected = trained.variables["params"]["backbone"]
    found = weights.read_network("alexnet", whole)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(WeightsError, match="holds spips-alexnet, wanted lite"):
        weights.read_network("lite", whole)
    without = write(tmp_path / "without.safetensors", trained)
    with pytest.raises(WeightsError, match=r"without\S+: has no backbone in it"):
        weights.read_network("alexnet", without)


def test_the_digest_is_of_names_shapes_and_values():
    tree = {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": np.zeros(2)}
    other = {"b": np.zeros(2, np.float32), "a": {"kernel": tree["a"]["kernel"]}}
    assert weights.digest(tree) == weights.digest(other)
    for changed in (
        {**tree, "b": np.ones(2)},
        {**tree, "a": {"kernel": tree["a"]["kernel"].T}},
        {"a": tree["a"], "c": tree["b"]},
    ):
        assert weights.digest(changed) != weights.digest(tree)


def test_another_backbone_is_refused(trained, tmp_path, random_params):
    path = write(tmp_path / "model.safetensors", trained)
    other = tmp_path / "other.safetensors"
    params = random_params("alexnet", seed=1)
    weights.write_weights(other, params, network="alexnet")
    digest = weights.digest(params)[:16]
    with pytest.raises(WeightsError, match=rf"{digest}\.\.\., model.safetensors was"):
        spips_jax.load(path, weights=other)
    whole = write(tmp_path / "whole.safetensors", trained, whole=True)
    with pytest.raises(WeightsError, match="has a backbone of its own: leave weights"):
        spips_jax.load(whole, weights=other)


def test_files_that_are_no_models_are_refused(
    trained, tmp_path, random_weights, monkeypatch
):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "model.safetensors", trained)
    with pytest.raises(WeightsError, match="spips convert alexnet"):
        spips_jax.load(path)
    with pytest.raises(WeightsError, match=r"no such file; give a file that `spips"):
        spips_jax.load(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="holds alexnet, not a trained model"):
        spips_jax.load(random_weights("alexnet"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        WeightsError, match=r"not a whole safetensors file.*write it ag"
    ):
        spips_jax.load(cut)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors["head.linear"] = tensors["head.linear"][:3]
    safetensors.numpy.save_file(tensors, cut, metadata=metadata)
    with pytest.raises(WeightsError, match=r"head.linear has shape \(3,\), spips-alex"):
        spips_jax.load(cut)
    safetensors.numpy.save_file(
        tensors, cut, metadata={**metadata, "backbone": "resnet"}
    )
    with pytest.raises(
        WeightsError, match="stands on the backbone resnet, which is none"
    ) as caught:
        spips_jax.load(cut)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_width_is_not_written(trained, tmp_path):
    other = trained.replace(module=trained.module.clone(width=8))
    with pytest.raises(WeightsError, match=r"head.bias has shape \(32,\), spips-al"):
        write(tmp_path / "model.safetensors", other)
    assert not list(tmp_path.iterdir())


def read(path: Path) -> tuple[dict, dict]:
    """The tensors and the metadata as they lie in the file."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return safetensors.numpy.load_file(path), file.metadata()


@pytest.mark.parametrize("whole", [False, True])
def test_a_calibration_changes_nothing_else(trained, tmp_path, random_weights, whole):
    path = write(tmp_path / "model.safetensors", trained, whole=whole)
    path.with_suffix(".md").write_text("the card")
    backbone = None if whole else random_weights("alexnet")
    tensors, metadata = read(path)
    loaded = spips_jax.load(path, weights=backbone)
    assert loaded.calibration is None

    other = Calibration("preference", (0.1,), (0.0, 1.0), "ours", 60, 0.2)
    for calibration in (other, CALIBRATION):  # the second replaces the first
        loaded.replace(calibration=calibration).save(path)
        loaded = spips_jax.load(path, weights=backbone)
        assert loaded.calibration == calibration
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    again, more = read(path)
    assert {k: v.tobytes() for k, v in again.items()} == {
        k: v.tobytes() for k, v in tensors.items()
    }
    assert json.loads(more.pop("calibration")) == CALIBRATION.to_dict()
    assert more == metadata
    assert path.with_suffix(".md").read_text() == "the card"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.md",
        "model.safetensors",
    ]


def test_saving_that_fails_leaves_the_file(trained, tmp_path, monkeypatch):
    path = write(tmp_path / "model.safetensors", trained)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        trained.replace(calibration=CALIBRATION).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "a calibration has opinion"),
        (json.dumps({**CALIBRATION.to_dict(), "rmse": float("nan")}), "rmse nan"),
        (json.dumps({**CALIBRATION.to_dict(), "opinion": "dmos"}), "the wrong way"),
    ],
)
def test_a_damaged_calibration_is_refused(
    trained, tmp_path, random_weights, damaged, message
):
    path = write(tmp_path / "model.safetensors", trained)
    tensors, metadata = read(path)
    metadata["calibration"] = damaged
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    match = rf"model.safetensors: its calibration is damaged \(.*{message}.*write it ag"
    with pytest.raises(WeightsError, match=match) as error:
        spips_jax.load(path, weights=random_weights("alexnet"))
    assert "\n" not in str(error.value)
