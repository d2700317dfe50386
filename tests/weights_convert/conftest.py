"""Weights files to convert: random ones of any network, hand-made and real ones."""

import io
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from spips_jax import backbones
from weights_convert import networks

SHARED_WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture
def shared_weights():
    """A function that finds a file of ../shared/weights or skips the test."""

    def find(name):
        path = SHARED_WEIGHTS / name
        if not path.is_file():
            pytest.skip(f"the real weights {name} are not in ../shared/weights")
        return path

    return find


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SPIPS_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def random_tensors():
    """A function: network -> its PyTorch tensors with random, non-negative-safe values.

    Kernels get He's scale, so that activations stay of order one in deep networks.
    """

    def make(network):
        rng = np.random.default_rng(0)
        tensors = {}
        for name, shape in networks.torch_shapes(network).items():
            if network not in backbones.BACKBONES:
                values = rng.random(shape)
            else:
                fan_in = np.prod(shape[1:]) if len(shape) == 4 else 100.0
                values = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
            tensors[name] = values.astype(np.float32)
        return tensors

    return make


class _Assembler:
    """Writes the pickles that torch.save would refuse to write."""

    @staticmethod
    def text(value):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    @staticmethod
    def number(value):
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(self, values):
        return b"(" + b"".join(map(self.number, values)) + b"t"

    def tensor(self, size, offset, shape, strides, view=None):
        view_code = b"N"
        if view is not None:
            view_code = b"(" + self.text("view") + self.numbers(view)[1:]
        storage = (
            (b"(" + self.text("storage") + b"ctorch\nFloatStorage\n")
            + (self.text("0") + self.text("cpu") + self.number(size))
            + (view_code + b"tQ")
        )
        window = self.number(offset) + self.numbers(shape) + self.numbers(strides)
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + window + b"\x89NtR"

    def state_dict(self, **tensors):
        items = b"".join(self.text(name) + code for name, code in tensors.items())
        return b"\x80\x02}(" + items + b"u."

    @staticmethod
    def zip(root, storages=None, byteorder=b"little", compression=zipfile.ZIP_STORED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("archive/data.pkl", root)
            archive.writestr("archive/byteorder", byteorder)
            for key, data in (storages or {}).items():
                archive.writestr(f"archive/data/{key}", data)
        return file.getvalue()

    @staticmethod
    def legacy(root, storages=None, little_endian=True):
        system = {"protocol_version": 1001, "little_endian": little_endian}
        keys = list(storages or {})
        head = (0x1950A86A20F9469CFC6C, 1001, system)
        raw = [
            struct.pack("<q", len(data) // 4) + data
            for data in (storages or {}).values()
        ]
        pickled = [pickle.dumps(value, 2) for value in head]
        return b"".join([*pickled, root, pickle.dumps(keys, 2), *raw])


@pytest.fixture(scope="session")
def assemble():
    return _Assembler()
