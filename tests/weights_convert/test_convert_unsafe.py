"""Files that are damaged or mean harm: `WeightsError`, no code run, no memory eaten."""

import contextlib
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spips_jax.weights import WeightsError
from weights_convert import networks, reader

FORMATS = ("zip", "legacy", "npz", "compressed npz", "safetensors")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.fixture
def write(tmp_path, assemble):
    def write(kind, root, storages=None):
        path = tmp_path / "weights.pth"
        path.write_bytes(getattr(assemble, kind)(root, storages))
        return path

    return write


def read_all(path):
    return [tensor.read() for tensor in reader.read_tensors(path).values()]


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "builtins.eval|__builtin__.eval"),
        (getattr, "builtins.getattr|__builtin__.getattr"),
        (np.load, r"numpy\S*.load"),
    ],
)
def test_code_is_refused_by_name(
    write, tmp_path, kind, protocol, nested, function, name
):
    marker = tmp_path / "ran"
    root = Call(function, f"open({str(marker)!r}, 'w')")
    root = {"state_dict": {"a": root}} if nested else root
    path = write(kind, pickle.dumps(root, protocol))
    with pytest.raises(WeightsError, match=f"refused: the pickle names ({name})"):
        reader.read_tensors(path)
    assert not marker.exists()


def test_code_in_the_first_pickle_of_a_legacy_file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {tmp_path / 'ran'}"), 2))
    with pytest.raises(WeightsError, match="system"):
        reader.read_tensors(path)
    assert not (tmp_path / "ran").exists()


ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (REBUILD + b"}b", "torch._utils._rebuild_tensor_v2 where dict belongs"),
        (ORDERED_DICT + b"}b", "collections.OrderedDict where dict belongs"),
        (b"X\x01\x00\x00\x00a}b", "a str where dict belongs"),
        (b"ctorch\nFloatStorage\n)R", "calls torch.FloatStorage"),
        (REBUILD + b")R", "calls torch._utils._rebuild_tensor_v2 with 0"),
        (b"X\x17\x00\x00\x00collections.OrderedDict)R", "calls a str"),
        (ORDERED_DICT + b")\x81", "uses NEWOBJ"),
        (b"(iposix\nsystem\n", "uses INST 'posix system'"),
        (b"\x82\x01", "uses EXT1 1"),
        (b"Pabc\n", "uses PERSID 'abc'"),
        (b"ctorch.nn.modules.container\nSequential\n", "container.Sequential"),
        (b"ccollections\nOrderedDict.update\n", "OrderedDict.update"),
        (b"X\x01\x00\x00\x00aQ", "not a storage"),
        (b"(X\x06\x00\x00\x00moduleK\x01tQ", "not a storage"),
        (b"}(K\x01K\x02u", "1 is a int, not a named tensor"),
        (b"]", "holds a list instead of a state dict"),
    ],
)
def test_odd_instructions_are_refused(write, code, reason):
    with pytest.raises(WeightsError) as error:
        reader.read_tensors(write("zip", b"\x80\x02" + code + b"."))
    assert reason in str(error.value)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("size", "offset", "shape", "strides"),
    [
        (4, 0, (5,), (1,)),
        (4, 4, (1,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2**40,), (1,)),
        (4, 2**62, (1,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 3, (2,), (-1,)),
        (4, -1, (2,), (1,)),
        (4, 0, (-1,), (1,)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (1,) * 65, (1,) * 65),
        (4, 0, (2**70, 0), (1, 1)),
        (2**40, 0, (4,), (1,)),
        (5, 0, (4,), (1,)),
        (3, 0, (3,), (1,)),
        (-4, 0, (0,), (1,)),
    ],
)
def test_windows_past_the_storage(write, assemble, kind, size, offset, shape, strides):
    """The storage has four elements, whatever size the pickle says."""
    tensor = assemble.tensor(size, offset, shape, strides)
    path = write(kind, assemble.state_dict(x=tensor), {"0": bytes(16)})
    with pytest.raises(WeightsError, match="damaged or truncated"):
        read_all(path)


@pytest.mark.parametrize("view", [(3, 2), (-1, 2), (2**62, 1)])
def test_storage_views_past_the_storage(write, assemble, view):
    tensor = assemble.tensor(4, 0, (2,), (1,), view=view)
    path = write("legacy", assemble.state_dict(x=tensor), {"0": bytes(16)})
    with pytest.raises(WeightsError):
        read_all(path)


def test_a_name_without_its_storage(write, assemble):
    root = assemble.state_dict(x=assemble.tensor(4, 0, (4,), (1,)))
    for kind in ("zip", "legacy"):
        with pytest.raises(WeightsError, match="KeyError"):
            read_all(write(kind, root, {"1": bytes(16)}))


def test_big_endian_is_refused(tmp_path, assemble):
    root = assemble.state_dict(x=assemble.tensor(1, 0, (1,), (1,)))
    path = tmp_path / "weights.pth"
    for content in (
        assemble.zip(root, {"0": bytes(4)}, byteorder=b"big"),
        assemble.legacy(root, {"0": bytes(4)}, little_endian=False),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="big-endian"):
            reader.read_tensors(path)


def lying_npz(path, shape):
    """An .npz file whose header promises `shape` before 16 bytes."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n"
    size = len(header).to_bytes(2, "little")
    npy = b"\x93NUMPY\x01\x00" + size + header.encode() + bytes(16)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lin0.model.1.weight.npy", npy)


def bombs(assemble):
    def overlapping(path):  # 2**80 elements that are all the same one
        tensor = assemble.tensor(4, 0, (2**40, 2**40), (0, 0))
        root = assemble.state_dict(**{"lin0.model.1.weight": tensor})
        path.write_bytes(assemble.zip(root, {"0": bytes(16)}))

    def memo(path):  # makes the table of pickle.Unpickler 32 GB large
        root = b"\x80\x02}r\xff\xff\xff\x7f."
        path.write_bytes(assemble.zip(root))

    def length(path):  # a string of 4 GB, says the pickle
        path.write_bytes(b"\x80\x02X\xff\xff\xff\xff")

    def compressed(path):  # 64 MB of zeros in 64 kB
        root = assemble.state_dict(x=assemble.tensor(2**24, 0, (2**24,), (1,)))
        storages = {"0": bytes(2**26)}
        compression = zipfile.ZIP_DEFLATED
        path.write_bytes(assemble.zip(root, storages, compression=compression))

    def multiplied(path):  # ten thousand dicts of one list of ten thousand pairs
        pairs = b"](" + b"K\x01K\x02\x86" * 10_000 + b"eq\x00"
        dicts = (ORDERED_DICT + b"h\x00\x85R") * 10_000
        path.write_bytes(assemble.zip(b"\x80\x02" + pairs + b"](" + dicts + b"e."))

    def nested(path):  # a dict a thousand times in a dict that is so itself, and again
        def thousandfold(inner, memo):
            code = b"}(" + b"".join(
                assemble.text(f"k{n}") + (inner if n == 0 else b"h" + memo)
                for n in range(1000)
            )
            return code + b"u"

        code = assemble.state_dict(x=assemble.tensor(1, 0, (1,), (1,)))[2:-1]
        for memo in (b"\x01", b"\x02", b"\x03"):
            code = thousandfold(code + b"q" + memo, memo)
        path.write_bytes(assemble.zip(b"\x80\x02" + code + b".", {"0": bytes(4)}))

    def entry(path):  # tensors as wanted, on an entry of 2 GB, says the zip file
        size = 2**31 - 4
        tensors = {
            name: assemble.tensor(size // 4, 0, shape, (0, 1, 0, 0))
            for name, shape in networks.torch_shapes("lpips-alexnet").items()
        }
        content = assemble.zip(assemble.state_dict(**tensors), {"0": bytes(16)})
        sizes = (16).to_bytes(4, "little") * 2
        path.write_bytes(content.replace(sizes, size.to_bytes(4, "little") * 2))

    return {
        "overlapping": overlapping,
        "entry": entry,
        "memo": memo,
        "length": length,
        "compressed": compressed,
        "multiplied": multiplied,
        "nested": nested,
        "npz": lambda path: lying_npz(path, (2**50,)),
        "npz, absurd": lambda path: lying_npz(path, f"(0x{'f' * 5000},)"),
    }


@pytest.mark.parametrize("bomb", list(bombs(None)))
def test_bombs_allocate_next_to_nothing(tmp_path, assemble, bomb):
    path = tmp_path / "weights.pth"
    bombs(assemble)[bomb](path)
    networks.torch_shapes("lpips-alexnet")  # JAX's own allocations come first
    tracemalloc.start()
    with pytest.raises(WeightsError):
        networks.open_source("lpips-alexnet", path).read("lpips-alexnet")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The largest file has 200 kB, of which Python makes objects of some 50 bytes each.
    assert peak < 20e6


def test_deep_nesting(write):
    depth = 200_000
    with pytest.raises(WeightsError):
        reader.read_tensors(write("zip", b"\x80\x02)" + b"\x85" * depth + b"."))
    # As a dict's key, such a tuple would overflow the stack when hashed.
    root = b"\x80\x02})" + b"\x85" * depth + b"K\x01s."
    with pytest.raises(WeightsError, match="a dict key is a tuple"):
        reader.read_tensors(write("zip", root))


@pytest.fixture(scope="session")
def whole_files(assemble, tmp_path_factory):
    """One small file of each format, as bytes."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3)}
    folder = tmp_path_factory.mktemp("whole")
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "compressed.npz", **arrays)
    tensor = assemble.tensor(6, 0, (2, 3), (3, 1))
    root, storages = assemble.state_dict(a=tensor), {"0": arrays["a"].tobytes()}
    return {
        "zip": assemble.zip(root, storages),
        "legacy": assemble.legacy(root, storages),
        "npz": (folder / "plain.npz").read_bytes(),
        "compressed npz": (folder / "compressed.npz").read_bytes(),
        "safetensors": safetensors.numpy.save(arrays),
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_files_cut_short_anywhere(tmp_path, whole_files, kind):
    path = tmp_path / "weights.pth"
    whole = whole_files[kind]
    path.write_bytes(whole)
    assert read_all(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"weights\.pth: "):
            read_all(path)


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_files_with_wrong_bytes(tmp_path_factory, whole_files, kind, data):
    """They may still read, but nothing else than `WeightsError` comes out."""
    content = bytearray(whole_files[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("wrong") / "weights.pth"
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        read_all(path)


@given(st.binary(max_size=200))
@example(b"")
@example(b"PK")
@example(b"\x80")
@example(b"<!DOCTYPE html><html>")
@example(b"cposix\nsystem\n(S'touch ran'\ntR.")
@example(b"\x80\x00\x97")
@settings(max_examples=200, deadline=None)
def test_files_of_anything(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("anything") / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth: "):
        reader.read_tensors(path)
