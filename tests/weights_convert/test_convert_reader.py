"""The reader against torch.load, NumPy and safetensors, on every format it reads."""

import collections
import math

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from spips_jax.weights import WeightsError
from weights_convert import reader

needs_torch = "writes the checkpoints with torch.save"


def read_values(path):
    return {name: tensor.read() for name, tensor in reader.read_tensors(path).items()}


def assert_same_as_torch(path):
    torch = pytest.importorskip("torch", reason=needs_torch)
    # The restricted unpickler of PyTorch doesn't know protocols 4 and 5.
    expected = torch.load(path, weights_only=False)
    found = reader.read_tensors(path)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == str(tensor.dtype).removeprefix("torch.")
        # Through float64, which holds every value of the other types exactly.
        np.testing.assert_array_equal(
            found[name].read().astype(np.float64), tensor.detach().double().numpy()
        )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_formats_and_protocols(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch", reason=needs_torch)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "weights.pth"
    torch.save(
        module.state_dict(),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    assert_same_as_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_dtypes_views_and_parameters(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason=needs_torch)
    base = torch.arange(60, dtype=torch.float32)
    state = {
        "whole": base,
        "tail": base[50:],
        "transposed": base.view(6, 10).T,
        "every_other": base[1::2],
        "expanded": torch.ones(1).expand(3, 4),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(3, 0, 2),
        "parameter": torch.nn.Parameter(base[:3].clone()),
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    names = "float16 bfloat16 float64 bool uint8 int8 int16 int32 int64"
    for name in names.split():
        state[name] = torch.tensor([0, 1, 3, 5, 100]).to(getattr(torch, name))
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_same_as_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_window_on_a_storage(tmp_path_factory, zipped, data):
    torch = pytest.importorskip("torch", reason=needs_torch)
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [data.draw(st.integers(0, 9)) for _ in shape]
    offset = data.draw(st.integers(0, 5))
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
    storage = torch.rand(offset + reach + 1 + data.draw(st.integers(0, 3)))
    path = tmp_path_factory.mktemp("windows") / "weights.pth"
    window = storage.as_strided(shape, strides, offset)
    torch.save({"x": window}, path, _use_new_zipfile_serialization=zipped)
    assert_same_as_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mapping", [dict, collections.OrderedDict])
def test_dicts_in_dicts_make_names_with_dots(tmp_path, zipped, mapping):
    torch = pytest.importorskip("torch", reason=needs_torch)
    state = mapping({"a": torch.ones(2), "module.b": torch.zeros(3), "version": 2})
    optimiser = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}
    root = {"epoch": 3, "best": None, "model": state, "optimizer": optimiser}
    path = tmp_path / "weights.pth"
    torch.save(root | {"same": state}, path, _use_new_zipfile_serialization=zipped)
    values = read_values(path)
    assert list(values) == ["model.a", "model.module.b"]
    np.testing.assert_array_equal(values["model.a"], [1, 1])


def test_one_name_for_two_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason=needs_torch)
    path = tmp_path / "weights.pth"
    torch.save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"'a\.b' is there twice"):
        reader.read_tensors(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    arrays = {
        "features.0.weight": np.arange(24, dtype=np.float64).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "half": np.ones((), np.float16),
    }
    path = tmp_path / "weights.npz"
    save(path, **arrays)
    found = reader.read_tensors(path)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype.name)
        np.testing.assert_array_equal(found[name].read(), array)


def test_safetensors(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3).astype(jnp.bfloat16),
        "c": np.ones(2, np.int64),
    }
    path = tmp_path / "weights.bin"  # the content tells the format, not the suffix
    safetensors.numpy.save_file(arrays, path)
    found = reader.read_tensors(path)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a": "float32",
        "b": "bfloat16",
        "c": "I64",
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].read(), array)


def test_a_storage_view_of_a_legacy_file(tmp_path, assemble):
    values = np.arange(10, dtype="<f4")
    tensor = assemble.tensor(10, 1, (2,), (2,), view=(3, 7))
    path = tmp_path / "weights.pth"
    path.write_bytes(
        assemble.legacy(assemble.state_dict(x=tensor), {"0": values.tobytes()})
    )
    # Element 1 of the view is element 4 of the storage.
    np.testing.assert_array_equal(read_values(path)["x"], [4, 6])


def test_a_legacy_file_of_2017(tmp_path, assemble):
    """As torchvision's VGG16 and VGG19: the rebuilding function before "v2"."""
    tensor = assemble.tensor(4, 1, (3,), (1,))
    tensor = tensor.replace(b"_v2", b"").replace(b"\x89NtR", b"tR")
    tensor = tensor.replace(b"ctorch\nFloat", b"ctorch.cuda\nFloat")
    path = tmp_path / "weights.pth"
    values = np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(assemble.legacy(assemble.state_dict(x=tensor), {"0": values}))
    np.testing.assert_array_equal(read_values(path)["x"], [1, 2, 3])


def test_values_are_read_only_when_asked_for(tmp_path, assemble):
    """A damaged classifier doesn't matter to somebody who wants the features."""
    torch = pytest.importorskip("torch", reason=needs_torch)
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(100), "b": torch.full((100,), 7.0)}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(np.float32(7).tobytes() * 100, b"\x01" * 400))
    tensors = reader.read_tensors(path)
    assert math.isclose(tensors["a"].read().sum(), 100)  # exact in float32
    with pytest.raises(WeightsError, match="Bad CRC-32"):
        tensors["b"].read()
