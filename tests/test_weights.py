"""Weight files: written whole, read strictly."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
import safetensors.numpy

from spips_jax import weights
from spips_jax.cache import cache_folder
from spips_jax.weights import WeightsError


def test_weights_come_back_as_written(tmp_path, random_params, network):
    params = random_params(network)
    path = tmp_path / "folder" / "weights.safetensors"
    weights.write_weights(path, params, network=network, metadata={"source": "x.pth"})
    loaded = weights.read_weights(path, network=network)
    assert set(loaded) == set(params)
    for name, shape in weights.expected_shapes(network).items():
        first, second = loaded, params
        for part in name.split("."):
            first, second = first[part], second[part]
        assert first.shape == shape
        np.testing.assert_array_equal(first, second)
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_files_are_readable_as_the_umask_says(tmp_path, random_params):
    path = tmp_path / "alexnet.safetensors"
    before = os.umask(0o027)
    try:
        weights.write_weights(path, random_params("alexnet"), network="alexnet")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_half_precision_files_are_read_as_float32(tmp_path, random_params):
    params = random_params("alexnet")
    halves = {
        name: {leaf: x.astype(np.float16) for leaf, x in layer.items()}
        for name, layer in params.items()
    }
    path = tmp_path / "half.safetensors"
    weights.write_weights(path, halves, network="alexnet")
    kernel = weights.read_weights(path, network="alexnet")["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    # float16 keeps 11 bits.
    np.testing.assert_allclose(kernel, params["conv1"]["kernel"], rtol=1e-3, atol=1e-6)


def test_writing_a_wrong_tree_leaves_nothing(tmp_path, random_params):
    path = tmp_path / "alexnet.safetensors"
    params = random_params("alexnet")
    del params["conv3"]["bias"]
    with pytest.raises(
        WeightsError, match=r"conv3\.bias \(384,\) of alexnet is missing"
    ):
        weights.write_weights(path, params, network="alexnet")
    assert list(tmp_path.iterdir()) == []


def damaged(kind: str, path, params: dict) -> None:
    if kind == "text":
        path.write_text("no weights")
    elif kind == "foreign":
        safetensors.numpy.save_file({"features.0.weight": np.zeros(3)}, path)
    elif kind == "truncated":
        weights.write_weights(path, params, network="alexnet")
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "not finite":
        params["conv2"]["bias"][7] = np.nan
        weights.write_weights(path, params, network="alexnet")
    elif kind in ("misshapen", "extra"):
        weights.write_weights(path, params, network="alexnet")
        flat = safetensors.numpy.load_file(path)
        if kind == "extra":
            flat["conv6.bias"] = np.zeros(3, np.float32)
        else:
            flat["conv5.bias"] = np.zeros(3, np.float32)
        metadata = {"network": "alexnet"}
        safetensors.numpy.save_file(flat, path, metadata=metadata)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file.*spips convert alexnet"),
        ("text", "not a whole safetensors file"),
        ("truncated", "not a whole safetensors file"),
        ("foreign", "was not written by weights_convert, wanted alexnet"),
        ("not finite", r"conv2\.bias contains NaN or inf"),
        ("misshapen", r"conv5\.bias has shape \(3,\), alexnet has \(256,\)"),
        ("extra", r"conv6\.bias is none of alexnet's"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, random_params, kind, message):
    path = tmp_path / "alexnet.safetensors"
    damaged(kind, path, random_params("alexnet"))
    with pytest.raises(WeightsError, match=message) as caught:
        weights.read_weights(path, network="alexnet")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(tmp_path, random_weights):
    with safetensors.safe_open(random_weights("alexnet"), framework="numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file(random_weights("alexnet"))
    path = tmp_path / "newer.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={**metadata, "version": "9"})
    with pytest.raises(WeightsError, match=r"has version 9 of the format, .*1, 2, 3"):
        weights.read_weights(path, network="alexnet")


def test_another_networks_file_is_named(random_weights):
    with pytest.raises(WeightsError, match="holds alexnet, wanted vgg16"):
        weights.read_weights(random_weights("alexnet"), network="vgg16")


def test_an_unknown_network_is_an_error():
    with pytest.raises(WeightsError, match="'resnet' is not one of lite, alexnet"):
        weights.expected_shapes("resnet")


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SPIPS_HOME", raising=False)
    monkeypatch.setattr(
        "platformdirs.user_cache_path", lambda name, appauthor: tmp_path / name
    )
    assert cache_folder() == tmp_path / "spips_jax"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPIPS_HOME", "~/weights")
    assert weights.weights_path("vgg16") == tmp_path / "weights" / "vgg16.safetensors"
