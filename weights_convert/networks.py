"""Maps PyTorch tensors to Flax tensors, network by network.

The names are in the records of `spips_jax.backbones` and `spips_jax.baselines`: for
backbones torchvision's (https://github.com/pytorch/vision/tree/main/torchvision/
models), for heads their authors'.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from spips_jax.backbones import BACKBONES
from spips_jax.baselines import BASELINES
from spips_jax.weights import PUBLISHED, WeightsError, expected_shapes
from weights_convert import reader

_FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def torch_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """PyTorch tensor name -> its shape, convolution kernels in OIHW."""
    expected = expected_shapes(network)

    def shape(names: tuple[str, ...]) -> tuple[int, ...]:
        if network not in BACKBONES:
            return (1, sum(expected[name][0] for name in names), 1, 1)
        shape = expected[names[0]]
        return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape

    return {key: shape(names) for key, names in PUBLISHED[network].tensors.items()}


def read_source(network: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of `network`: float32, under PyTorch's names.

    Raises:
      WeightsError: the file can't be read; a tensor is missing, extra (torchvision's
        classifier excepted, which is ignored), of the wrong shape, not of floats or
        not finite; or a linear head of LPIPS has negative values.
    """
    found = reader.read_tensors(path)
    shapes = {key: tensor.shape for key, tensor in found.items()}
    problems = _mismatches(network, shapes)
    if problems:
        hint = _hint(path, shapes)
        raise WeightsError(f"{path}: not {network}; {'; '.join(problems)}{hint}")
    return {key: _values(network, key, found[key]) for key in torch_shapes(network)}


def _mismatches(network: str, found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The problems, in words, that rule out these tensors as `network`."""
    needed = torch_shapes(network)
    ignored = PUBLISHED[network].ignored
    missing = [f"{key} {needed[key]}" for key in needed if key not in found]
    extra = [
        f"{key!r:.80} {found[key]!s:.80}"
        for key in found
        if key not in needed and not key.startswith(ignored)
    ]
    misshapen = [
        f"{key} has {found[key]!s:.80} and needs {needed[key]}"
        for key in needed
        if key in found and found[key] != needed[key]
    ]
    named = (("missing", missing), ("extra", extra), ("of the wrong shape", misshapen))
    return [f"{kind}: {_some(items)}" for kind, items in named if items]


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def _hint(path: pathlib.Path, found: Mapping[str, tuple[int, ...]]) -> str:
    for network in PUBLISHED:
        if not _mismatches(network, found):
            command = f"spips convert {network} --source {path}"
            return f"; it looks like {network}: run `{command}`"
        if found == expected_shapes(network):
            return f"; it is {network}, converted already"
    return ""


def _values(network: str, key: str, tensor: reader.Tensor) -> np.ndarray:
    if tensor.dtype not in _FLOAT_DTYPES:
        raise WeightsError(
            f"{tensor.path}: {key} is of {tensor.dtype}; needs one of "
            f"{', '.join(_FLOAT_DTYPES)}"
        )
    with np.errstate(over="ignore"):  # float64 beyond float32's range is found below
        values = tensor.read().astype(np.float32, order="C")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise WeightsError(
            f"{tensor.path}: {key} has {count} values that are NaN or inf in float32; "
            "get the file again"
        )
    head = BASELINES[network].head if network in BASELINES else None
    if head is not None and head.non_negative and values.min() < 0:
        raise WeightsError(
            f"{tensor.path}: {key} goes down to {values.min():g}; {network} needs 0 or"
            " more"
        )
    return values


def to_flax(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts PyTorch's tensors to nested Flax parameters, kernels in HWIO."""
    expected = expected_shapes(network)
    flat: dict[str, np.ndarray] = {}
    for key, names in PUBLISHED[network].tensors.items():
        if len(expected[names[0]]) == 4:
            flat[names[0]] = tensors[key].transpose(2, 3, 1, 0)
        else:
            ends = np.cumsum([expected[name][0] for name in names])
            flat |= zip(names, np.split(tensors[key].ravel(), ends[:-1]), strict=True)
    return traverse_util.unflatten_dict(flat, sep=".")
