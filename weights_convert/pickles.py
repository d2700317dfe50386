"""Reads the pickles inside PyTorch checkpoints without running any code in them.

A pickle is a program: Python's own `pickle.load` imports and calls whatever it names.
The interpreter below supports only the instructions of protocols 2 to 5 that build
numbers, strings and containers. The few names a state dict needs become records
(`Storage`, `StoredTensor`); every other name is refused as soon as it is read. Memory
stays proportional to the bytes read, which `pickle.Unpickler` doesn't guarantee (one
LONG_BINPUT can make its memo table gigabytes large).
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickletools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from spips_jax.weights import WeightsError

_FLOATS = {"Half": "<f2", "BFloat16": jnp.bfloat16, "Float": "<f4", "Double": "<f8"}
_INTS = {"Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8"}
_STORAGE_DTYPES = {
    f"{module}.{kind}Storage": np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for kind, dtype in {**_FLOATS, **_INTS, "Bool": "?"}.items()
}
_ORDERED_DICT = "collections.OrderedDict"
# torchvision's VGG16 and VGG19 files date from 2017 and use the first of the two.
_REBUILD_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_ALLOWED = {*_STORAGE_DTYPES, _ORDERED_DICT, *_REBUILD_TENSOR, _REBUILD_PARAMETER}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}


@dataclasses.dataclass(frozen=True)
class Storage:
    """`size` elements stored outside the pickle; a view begins at element `start`."""

    key: str
    dtype: np.dtype
    size: int
    start: int = 0


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as a strided view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(str):
    """A name the pickle imports; its own type, because a plain string may be data."""


def load(
    stream: io.BytesIO | mmap.mmap, storages: dict[str, Storage] | None = None
) -> Any:
    """Reads one pickle and leaves `stream` just after it.

    Tensors are returned as `StoredTensor`, OrderedDicts as dicts; every storage that
    the pickle refers to is added to `storages`. `stream` must not be a file object:
    reading one allocates the requested length even if the file is shorter.

    Raises:
      WeightsError: the pickle uses a name or an instruction that no state dict uses.
      ValueError, KeyError, IndexError, ...: the pickle is malformed.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    instructions: Iterator[Any] = pickletools.genops(stream)  # type: ignore[arg-type]
    for opcode, arg, _ in instructions:
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case (
                ("BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT")
                | ("BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8")
                | ("BINSTRING" | "SHORT_BINSTRING")  # Python 2's
            ):
                stack.append(arg)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _CONTAINERS:
                stack.append(_CONTAINERS[name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS":
                items = pop_to_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [(key, value)])
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(_import(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_import(module, name))
            case "BINPERSID":
                storage = _storage(stack.pop())
                stack.append(storage)
                if storages is not None:
                    storages.setdefault(storage.key, storage)
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_call(function, _expect(args, tuple)))
            case "BUILD":
                stack.pop()  # a state dict's `_metadata`: version numbers
                _expect(stack[-1], dict)
            case "STOP":
                return stack.pop()
            case name:
                subject = f" {arg!r:.80}" if arg is not None else ""
                raise WeightsError(
                    f"refused: the pickle uses {name}{subject}; no state dict does"
                )
    raise ValueError("the pickle has no end")


def _import(module: Any, name: Any) -> _Global:
    imported = f"{_expect(module, str)}.{_expect(name, str)}"
    if imported not in _ALLOWED:
        raise WeightsError(
            f"refused: the pickle names {imported:.120}, and only tensors and "
            "containers are read; save it again as torch.save(model.state_dict(), ...)"
        )
    return _Global(imported)


def _call(function: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(function, _Global):
        if function == _ORDERED_DICT and len(args) <= 1:
            pairs = _expect(args[0], list) if args else []
            result = _set_items({}, pairs)
            pairs.clear()  # else a list used a thousand times would fill as many dicts
            return result
        if function in _REBUILD_TENSOR and len(args) >= 4:
            return _tensor(*args[:4])
        if function == _REBUILD_PARAMETER and args:
            return _expect(args[0], StoredTensor)
    raise WeightsError(
        f"refused: the pickle calls {_describe(function)} with {len(args)} arguments"
    )


def _storage(persistent_id: Any) -> Storage:
    match persistent_id:
        case ("storage", _Global() as kind, str() as key, _, int() as size, *view):
            # Legacy files can have a view, (key, start, size), of part of a storage.
            start = view[0][1] if view and view[0] else 0
            if size < 0:
                raise ValueError(f"storage {key!r:.80} has {size} elements")
            return Storage(key, _STORAGE_DTYPES[kind], size, start)
    raise WeightsError("refused: the pickle refers to something that is not a storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    offset = _expect(storage, Storage).start + offset
    if len(_expect(shape, tuple)) != len(_expect(strides, tuple)) or len(shape) > 64:
        raise ValueError(f"{len(shape)} dimensions with {len(strides)} strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's offset, shape or strides are not whole numbers")
    steps = zip(shape, strides, strict=True)
    stop = offset + sum((n - 1) * stride for n, stride in steps) + 1
    if 0 not in shape and stop > storage.size:
        raise ValueError(
            f"a tensor of shape {shape} reaches element {stop} of storage "
            f"{storage.key!r:.80}, which has {storage.size}"
        )
    return StoredTensor(storage, offset, shape, strides)


def _set_items(target: Any, items: Any) -> dict[Any, Any]:
    _expect(target, dict)
    for key, value in items:
        # Hashing a tuple nested a million deep would overflow the C stack.
        if not isinstance(key, str | int):
            raise TypeError(f"a dict key is a {type(key).__name__}")
        target[key] = value
    return target


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise WeightsError(
            f"refused: the pickle has {_describe(value)} where {kind.__name__} belongs"
        )
    return value


def _describe(value: Any) -> str:
    return str(value) if isinstance(value, _Global) else f"a {type(value).__name__}"
