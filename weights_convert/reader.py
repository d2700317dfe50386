"""Reads the tensors of .pth/.pt (zip or legacy), .safetensors and .npz files.

`read_tensors` reads only names, shapes and dtypes; values are read on request, so the
classifier of a 528 MB VGG16 is never loaded and a false header allocates nothing: check
a tensor's shape before reading its values.

Formats: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
(`_save`, `_legacy_save`), https://github.com/huggingface/safetensors and
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import mmap
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors

from spips_jax.weights import WeightsError
from weights_convert import pickles

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 3
_MAX_KEY = 64
"""Of dicts around a state dict: each of its names repeats the keys on the way to it,
which must not make many times the file's bytes of them."""
_SAFETENSORS_DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its shape and dtype; values are read on request."""

    path: pathlib.Path
    shape: tuple[int, ...]
    dtype: str
    _read: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Returns the values, of `shape`; `WeightsError` if they can't be read."""
        with _naming(self.path):
            return self._read()


def read_tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Name -> tensor of a weights file; its content, not its name, decides the format.

    Dicts in a dict make names with dots: {"model": {"a": tensor}} has "model.a". What
    is no tensor is left out, such as the number of an epoch. Raises `WeightsError`,
    naming the file, if it is missing, damaged, not a weights file, or contains code.
    """
    with _naming(path):
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"PK"):
            return _read_zip(path)
        if head[8:] == b"{":
            return _read_safetensors(path)
        if head.startswith(b"\x80"):
            return _read_legacy(path)
        raise WeightsError(
            f"not a weights file: it starts with {head!r}; give a .pth, .pt, "
            ".safetensors or .npz file"
        )


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turns every error in the block into a `WeightsError` that names the file."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    except Exception as error:
        # Whatever the parsers raise, and they raise all sorts of errors, the bytes are
        # at fault: the file may come from anybody.
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{path}: damaged or truncated ({reason:.300}); get the file again"
        ) from error


def _read_zip(path: pathlib.Path) -> dict[str, Tensor]:
    with _open_zip(path) as archive:
        names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return {name[:-4]: _npy_tensor(path, archive, name) for name in names}
        pickle_names = [name for name in names if name.endswith("/data.pkl")]
        if len(pickle_names) != 1:
            raise WeightsError(
                f"not a weights file: a zip file with {len(pickle_names)} data.pkl; a "
                "PyTorch checkpoint has one, an .npz file only .npy entries"
            )
        folder = pickle_names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names:
            _check_byte_order(_entry(archive, f"{folder}byteorder") == b"little")
        root = pickles.load(io.BytesIO(_entry(archive, f"{folder}data.pkl")))
        sizes = {info.filename: info.file_size for info in archive.infolist()}

    def locate(storage: pickles.Storage) -> Callable[[], bytes]:
        name = f"{folder}data/{storage.key}"
        _check_size(storage, sizes[name])
        return functools.partial(_read_entry, path, name)

    return _stored_tensors(path, root, locate)


def _open_zip(path: pathlib.Path) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(path)
    # zipfile allocates an entry's claimed size before it reads the entry.
    size = path.stat().st_size
    if any(info.compress_size > size for info in archive.infolist()):
        archive.close()
        raise ValueError(f"an entry claims to be larger than the file's {size} bytes")
    return archive


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An uncompressed entry's bytes; compressed ones could expand a thousandfold."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise WeightsError(f"{name!r:.80} is compressed, which torch.save never does")
    return archive.read(info)


def _read_entry(path: pathlib.Path, name: str) -> bytes:
    with _open_zip(path) as archive:
        return _entry(archive, name)


def _npy_tensor(path: pathlib.Path, archive: zipfile.ZipFile, name: str) -> Tensor:
    with archive.open(name) as file:
        # np.savez uses version 1 for plain arrays; it limits the header to 64 kB.
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise WeightsError(f"{name!r:.80} has .npy version {version}, not (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if not all(0 <= length < 2**63 for length in shape):
            raise ValueError(f"{name!r:.80} has an impossible shape")
    return Tensor(path, shape, dtype.name, functools.partial(_read_npy, path, name))


def _read_npy(path: pathlib.Path, name: str) -> np.ndarray:
    with _open_zip(path) as archive, archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118, it is not a dict
            part = file.get_slice(name)
            dtype = _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype())
            read = functools.partial(_read_safetensor, path, name)
            tensors[name] = Tensor(path, tuple(part.get_shape()), dtype, read)
    return tensors


def _read_safetensor(path: pathlib.Path, name: str) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _read_legacy(path: pathlib.Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, protocol = pickles.load(content), pickles.load(content)
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise WeightsError("not a weights file: a pickle, but not by torch.save")
    _check_byte_order(pickles.load(content)["little_endian"])
    storages: dict[str, pickles.Storage] = {}
    root = pickles.load(content, storages)
    spans = {}
    for key in pickles.load(content):
        (size,) = struct.unpack("<q", content.read(8))
        start = content.tell()
        stop = min(start + size * storages[key].dtype.itemsize, len(content))
        spans[key] = slice(start, stop)
        content.seek(stop)

    def locate(storage: pickles.Storage) -> Callable[[], bytes]:
        span = spans[storage.key]
        _check_size(storage, span.stop - span.start)
        return lambda: content[span]

    return _stored_tensors(path, root, locate)


def _check_size(storage: pickles.Storage, num_bytes: int) -> None:
    needed = storage.size * storage.dtype.itemsize
    if num_bytes != needed:
        raise ValueError(
            f"storage {storage.key!r:.80} has {num_bytes} bytes and needs {needed}"
        )


def _check_byte_order(little_endian: bool) -> None:
    if not little_endian:
        raise WeightsError("big-endian; save it again on a little-endian machine")


def _stored_tensors(
    path: pathlib.Path,
    root: Any,
    locate: Callable[[pickles.Storage], Callable[[], bytes]],
) -> dict[str, Tensor]:
    """The tensors of an unpickled state dict; `locate` returns a storage's reader."""
    if not isinstance(root, dict):
        raise WeightsError(f"holds a {type(root).__name__} instead of a state dict")
    tensors: dict[str, Tensor] = {}
    for name, value in _named(root, "", _MAX_DEPTH, set()):
        if name in tensors:
            raise WeightsError(f"{name!r:.80} is there twice")
        read = functools.partial(_window, value, locate(value.storage))
        tensors[name] = Tensor(path, value.shape, value.storage.dtype.name, read)
    if root and not tensors:
        name, value = next(iter(root.items()))
        kind = type(value).__name__
        raise WeightsError(f"{name!r:.80} is a {kind}, not a named tensor")
    return tensors


def _named(
    node: dict[Any, Any], path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, pickles.StoredTensor]]:
    """The tensors in a dict and in the dicts in it, by the keys on the way to each."""
    if id(node) in seen:  # one dict in many places is still one
        return
    seen.add(id(node))
    for key, value in node.items():
        if not isinstance(key, str):  # optimisers number their states
            continue
        if isinstance(value, pickles.StoredTensor):
            yield f"{path}{key}", value
        elif isinstance(value, dict) and depth and len(key) <= _MAX_KEY:
            yield from _named(value, f"{path}{key}.", depth - 1, seen)


def _window(tensor: pickles.StoredTensor, read: Callable[[], bytes]) -> np.ndarray:
    itemsize = tensor.storage.dtype.itemsize
    # NumPy checks again that offset and strides stay inside the bytes.
    return np.ndarray(
        tensor.shape,
        tensor.storage.dtype,
        read(),
        tensor.offset * itemsize,
        [stride * itemsize for stride in tensor.strides],
    )
