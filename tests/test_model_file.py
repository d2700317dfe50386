"""Trained models as files: read as written, and refused in one line otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import spips_jax
from spips_jax import (
    Calibration,
    Metric,
    WeightsError,
    backbones,
    metric,
    model_file,
    weights,
)
from spips_jax.cli import main
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


def write(path: Path, metric: Metric, *, whole: bool = False, width: int = 32) -> Path:
    model_file.write_model(
        path,
        jax.device_get(metric.variables["params"]),
        name="mine",
        network="alexnet",
        options={"width": width},
        whole=whole,
        card={"step": 7},
    )
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_comes_back_as_it_was(trained, pair, tmp_path, random_weights, whole):
    path = write(tmp_path / "model.safetensors", trained, whole=whole)
    backbone = None if whole else random_weights("alexnet")
    loaded = spips_jax.load(path, weights=backbone)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    images = pair(40, 44)
    np.testing.assert_array_equal(loaded(*images), trained(*images))
    assert loaded.name == "mine"
    card = model_file.read_card(path)
    backbone_digest = weights.digest(trained.variables["params"]["backbone"])
    assert card == {"step": 7, "name": "mine", "backbone_sha256": backbone_digest}
    assert (path.stat().st_size > 9_000_000) == whole


def test_the_options_of_the_network_come_back(random_metric, random_weights, tmp_path):
    backbone = random_metric("alexnet").variables["params"]["backbone"]
    options = {"width": 8, "streams": ["semantic", "classical"], "monotone": False}
    module = Spips(backbone=backbones.build("alexnet"), **options)
    params = {**metric.untrained(module), "backbone": backbone}
    path = tmp_path / "model.safetensors"
    model_file.write_model(
        path, params, name="mine", network="alexnet", options=options, whole=False,
        card={},
    )  # fmt: skip
    loaded = spips_jax.load(path, weights=random_weights("alexnet")).module
    assert (loaded.width, loaded.monotone) == (8, False)
    assert loaded.streams == ("semantic", "classical")


def test_lites_backbone_is_stored_as_float16(random_metric, pair, tmp_path):
    """Rounded once: what is read, written again and calibrated stays as it is."""
    path = tmp_path / "lite.safetensors"
    params = jax.device_get(random_metric("lite").variables["params"])

    def write_lite(path, params):
        model_file.write_model(
            path, params, name="mine", network="lite", options={}, whole=True, card={}
        )
        return spips_jax.load(path)

    loaded = write_lite(path, params)
    assert path.stat().st_size < 4_000_000
    read = loaded.variables["params"]
    for part, tree in params.items():
        kind = np.float16 if part == "backbone" else np.float32
        rounded = jax.tree.map(lambda x, kind=kind: np.float32(kind(x)), tree)
        jax.tree.map(np.testing.assert_array_equal, read[part], rounded)
    assert {x.dtype for x in jax.tree.leaves(read)} == {np.dtype(np.float32)}
    digest = model_file.read_card(path)["backbone_sha256"]
    assert digest == weights.digest(read["backbone"])

    again = write_lite(tmp_path / "again.safetensors", jax.device_get(read))
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)
    before = safetensors.numpy.load_file(path)
    model_file.write_calibration(path, CALIBRATION)
    for name, tensor in safetensors.numpy.load_file(path).items():
        assert tensor.dtype == before[name].dtype, name
        np.testing.assert_array_equal(tensor, before[name])


def test_a_models_file_will_do_for_its_backbone(trained, tmp_path):
    whole = write(tmp_path / "whole.safetensors", trained, whole=True)
    expected = trained.variables["params"]["backbone"]
    found = metric.read_network("alexnet", whole)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(WeightsError, match="holds spips-alexnet, wanted lite"):
        metric.read_network("lite", whole)
    without = write(tmp_path / "without.safetensors", trained)
    with pytest.raises(WeightsError, match=r"without\S+: has no backbone in it"):
        metric.read_network("alexnet", without)


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
    trained, tmp_path, random_weights, monkeypatch, capsys
):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "model.safetensors", trained)
    with pytest.raises(WeightsError, match="weights_convert alexnet"):
        spips_jax.load(path)
    with pytest.raises(WeightsError, match=r"no such file; give a file that `train.py"):
        spips_jax.load(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="holds alexnet, not a trained model"):
        spips_jax.load(random_weights("alexnet"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        WeightsError, match=r"not a whole safetensors file.*write it an"
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
        WeightsError, match="is over the backbone resnet, which is none"
    ):
        spips_jax.load(cut)
    assert main(["score", "a.png", "b.png", "--model", str(cut)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_of_another_width_is_not_written(trained, tmp_path):
    with pytest.raises(WeightsError, match=r"head.bias has shape \(32,\), spips-al"):
        write(tmp_path / "model.safetensors", trained, width=8)
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
    card = model_file.read_card(path)
    assert spips_jax.load(path, weights=backbone).calibration is None

    other = Calibration("preference", (0.1,), (0.0, 1.0), "ours", 60, 0.2)
    for calibration in (other, CALIBRATION):  # the second replaces the first
        model_file.write_calibration(path, calibration)
        loaded = spips_jax.load(path, weights=backbone)
        assert loaded.calibration == calibration
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    again, more = read(path)
    assert {k: v.tobytes() for k, v in again.items()} == {
        k: v.tobytes() for k, v in tensors.items()
    }
    assert json.loads(more.pop("calibration")) == CALIBRATION.to_dict()
    assert more == metadata
    assert model_file.read_card(path) == card
    assert path.with_suffix(".md").read_text() == "the card"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.md",
        "model.safetensors",
    ]


def test_a_calibration_that_fails_leaves_the_file(trained, tmp_path, monkeypatch):
    path = write(tmp_path / "model.safetensors", trained)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        model_file.write_calibration(path, CALIBRATION)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_only_models_take_a_calibration(tmp_path, random_weights):
    with pytest.raises(WeightsError, match="no such file; give a file that `train"):
        model_file.write_calibration(tmp_path / "none.safetensors", CALIBRATION)
    with pytest.raises(WeightsError, match="holds alexnet, not a trained model"):
        model_file.write_calibration(random_weights("alexnet"), CALIBRATION)


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
    match = rf"model.safetensors: its calibration is damaged \(.*{message}.*write it an"
    with pytest.raises(WeightsError, match=match) as error:
        spips_jax.load(path, weights=random_weights("alexnet"))
    assert "\n" not in str(error.value)
    model_file.write_calibration(path, CALIBRATION)  # which mends it
    loaded = spips_jax.load(path, weights=random_weights("alexnet"))
    assert loaded.calibration == CALIBRATION
