"""Which PyTorch tensor becomes which Flax tensor, network by network.

Backbones have torchvision's names (https://github.com/pytorch/vision/tree/main/
torchvision/models), the heads those of https://github.com/richzhang/
PerceptualSimilarity (v0.1) and https://github.com/dingkeyan93/DISTS.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from spips_jax import backbones
from spips_jax.weights import NETWORKS, WeightsError, expected_shapes
from weights_convert import reader

BACKBONES = tuple(network for network in NETWORKS if network in backbones.BACKBONES)
HEADS = tuple(network for network in NETWORKS if network not in BACKBONES)

_CLASSIFIER_LAYERS = {
    "vgg16": (0, 3, 6),
    "vgg19": (0, 3, 6),
    "alexnet": (1, 4, 6),
    "squeezenet": (1,),
}
_expected_shapes = functools.cache(expected_shapes)  # traces the network each time
_FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def layout(network: str) -> dict[str, tuple[str, ...]]:
    """PyTorch tensor -> the Flax tensors it becomes, more than one where it is cut."""
    if network == "dists":
        taps = ("input", *backbones.build("vgg16").taps)
        return {
            vector: tuple(f"{vector}.{tap}" for tap in taps)
            for vector in ("alpha", "beta")
        }
    if network in HEADS:
        taps = backbones.build(network.removeprefix("lpips-")).taps
        return {
            f"lin{k}.model.1.weight": (f"{tap}.weight",) for k, tap in enumerate(taps)
        }
    return {
        f"features.{layer}.{tensor}": (f"{name}.{flax_tensor}",)
        for layer, name in _convolutions(network)
        for tensor, flax_tensor in (("weight", "kernel"), ("bias", "bias"))
    }


def _convolutions(network: str) -> Iterator[tuple[str, str]]:
    """The name of each convolution, torchvision's and ours."""
    match network:
        case "alexnet":
            for k, index in enumerate((0, 3, 6, 8, 10), start=1):
                yield str(index), f"conv{k}"
        case "squeezenet":
            yield "0", "conv1"
            for k, index in enumerate((3, 4, 6, 7, 9, 10, 11, 12), start=2):
                for part in ("squeeze", "expand1x1", "expand3x3"):
                    yield f"{index}.{part}", f"fire{k}.{part}"
        case _:
            index = 0
            for stage, depth in enumerate(backbones.build(network).depths, start=1):
                for k in range(1, depth + 1):
                    yield str(index), f"conv{stage}_{k}"
                    index += 2  # the convolution and its ReLU
                index += 1  # the pooling


def torch_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """PyTorch tensor -> its shape, convolution kernels in OIHW."""
    expected = _expected_shapes(network)

    def shape(names: tuple[str, ...]) -> tuple[int, ...]:
        if network in HEADS:
            return (1, sum(expected[name][0] for name in names), 1, 1)
        shape = expected[names[0]]
        return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape

    return {key: shape(names) for key, names in layout(network).items()}


def read_source(network: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of `network` in a PyTorch weights file, float32, PyTorch's names.

    Raises:
      WeightsError: the file can't be read, a tensor is missing, extra or misshapen
        (torchvision's classifier excepted, which is left out), not of floats or not
        finite, or a linear head of LPIPS is negative.
    """
    found = reader.read_tensors(path)
    shapes = {key: tensor.shape for key, tensor in found.items()}
    problems = _mismatches(network, shapes)
    if problems:
        hint = _hint(path, shapes)
        raise WeightsError(f"{path}: not {network}; {'; '.join(problems)}{hint}")
    return {key: _values(network, key, found[key]) for key in torch_shapes(network)}


def _mismatches(network: str, found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps a file with these tensors from being `network`, in words."""
    needed = torch_shapes(network)
    classifier = {
        f"classifier.{index}.{tensor}"
        for index in _CLASSIFIER_LAYERS.get(network, ())
        for tensor in ("weight", "bias")
    }
    missing = [f"{key} {needed[key]}" for key in needed if key not in found]
    extra = [
        f"{key!r:.80} {found[key]!s:.80}"
        for key in found
        if key not in needed and key not in classifier
    ]
    misshapen = [
        f"{key} has {found[key]!s:.80} and needs {needed[key]}"
        for key in needed
        if key in found and found[key] != needed[key]
    ]
    named = (("missing", missing), ("extra", extra), ("of another shape", misshapen))
    return [f"{kind}: {_some(items)}" for kind, items in named if items]


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def _hint(path: pathlib.Path, found: Mapping[str, tuple[int, ...]]) -> str:
    for network in NETWORKS:
        if not _mismatches(network, found):
            command = f"python -m weights_convert {network} --source {path}"
            return f"; it looks like {network}: run `{command}`"
        if found == _expected_shapes(network):
            return f"; it is {network}, converted already"
    return ""


def _values(network: str, key: str, tensor: reader.Tensor) -> np.ndarray:
    if tensor.dtype not in _FLOAT_DTYPES:
        raise WeightsError(
            f"{tensor.path}: {key} is of {tensor.dtype}; needs one of "
            f"{', '.join(_FLOAT_DTYPES)}"
        )
    with np.errstate(over="ignore"):  # float64 past float32's range is found below
        values = tensor.read().astype(np.float32, order="C")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise WeightsError(
            f"{tensor.path}: {key} has {count} values that are NaN or inf in float32; "
            "get the file again"
        )
    if network.startswith("lpips-") and values.min() < 0:
        raise WeightsError(
            f"{tensor.path}: {key} goes down to {values.min():g}; LPIPS needs 0 or more"
        )
    return values


def to_flax(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """PyTorch's tensors as the nested dict of Flax parameters, kernels in HWIO."""
    expected = _expected_shapes(network)
    flat: dict[str, np.ndarray] = {}
    for key, names in layout(network).items():
        if len(expected[names[0]]) == 4:
            flat[names[0]] = tensors[key].transpose(2, 3, 1, 0)
        else:
            ends = np.cumsum([expected[name][0] for name in names])
            flat |= zip(names, np.split(tensors[key].ravel(), ends[:-1]), strict=True)
    return traverse_util.unflatten_dict(flat, sep=".")
