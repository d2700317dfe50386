"""The backbones in PyTorch, for `--verify` and for `torch_spips`.

Written from torchvision's definitions (https://github.com/pytorch/vision/tree/main/
torchvision/models, {vgg,alexnet,squeezenet}.py) and not from `spips_jax.backbones`, so
that the two don't share mistakes. PyTorch is imported when it is needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from spips_jax.weights import WeightsError

_VGG_LAYERS = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}


def require_torch(what: str = "--verify") -> None:
    """Raises `WeightsError` if PyTorch isn't installed, which `what` needs."""
    if importlib.util.find_spec("torch") is None:
        raise WeightsError(
            f"{what} compares with PyTorch, which is not installed: pip install torch"
        )


def activations(
    network: str, tensors: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns every activation that has a name in the literature.

    Args:
      network: "vgg16", "vgg19", "alexnet" or "squeezenet".
      tensors: the convolutions' tensors, float32, under torchvision's names.
      images: (N, H, W, 3), float32, ImageNet-normalised.

    Returns:
      {"relu1_1": (N, h, w, C), ...}, after the ReLU.

    Raises:
      WeightsError: another network.
    """
    import torch
    from torch.nn import functional

    def convolve(x: Any, name: str, **options: int) -> Any:
        weight, bias = (
            torch.from_numpy(tensors[f"features.{name}.{part}"])
            for part in ("weight", "bias")
        )
        return functional.relu(functional.conv2d(x, weight, bias, **options))

    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        found = taps(network, x, convolve)
    return {tap: value.permute(0, 2, 3, 1).numpy() for tap, value in found.items()}


def taps(network: str, x: Any, convolve: Callable[..., Any]) -> dict[str, Any]:
    """The activations of normalised images `(N, 3, H, W)`, `(N, C, h, w)` by name.

    Args:
      network: "vgg16", "vgg19", "alexnet" or "squeezenet".
      x: the images, a tensor.
      convolve: `(x, number, **options) -> y`, the convolution that torchvision's
        `features` has at a number, and its ReLU.

    Raises:
      WeightsError: another network.
    """
    from torch.nn import functional

    def fire(x: Any, index: int) -> Any:
        import torch

        x = convolve(x, f"{index}.squeeze")
        narrow = convolve(x, f"{index}.expand1x1")
        wide = convolve(x, f"{index}.expand3x3", padding=1)
        return torch.cat([narrow, wide], dim=1)

    def vgg(x: Any, layers: str) -> dict[str, Any]:
        taps, index, stage, layer = {}, 0, 1, 0
        for step in layers.split():
            if step == "M":
                x = functional.max_pool2d(x, 2, 2)
                index, stage, layer = index + 1, stage + 1, 0
            else:
                x = convolve(x, str(index), padding=1)
                index, layer = index + 2, layer + 1
                taps[f"relu{stage}_{layer}"] = x
        return taps

    def alexnet(x: Any) -> dict[str, Any]:
        taps = {}
        taps["relu1"] = x = convolve(x, "0", stride=4, padding=2)
        x = functional.max_pool2d(x, 3, 2)
        taps["relu2"] = x = convolve(x, "3", padding=2)
        x = functional.max_pool2d(x, 3, 2)
        taps["relu3"] = x = convolve(x, "6", padding=1)
        taps["relu4"] = x = convolve(x, "8", padding=1)
        taps["relu5"] = convolve(x, "10", padding=1)
        return taps

    def squeezenet(x: Any) -> dict[str, Any]:
        taps = {}
        taps["relu1"] = x = convolve(x, "0", stride=2)
        for index in range(2, 13):
            if index in (2, 5, 8):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            else:
                x = fire(x, index)
                taps[f"fire{len(taps) + 1}"] = x
        return taps

    twins: dict[str, Callable[..., dict[str, Any]]] = {
        "alexnet": alexnet,
        "squeezenet": squeezenet,
        **{name: partial(vgg, layers=layers) for name, layers in _VGG_LAYERS.items()},
    }
    if network not in twins:
        raise WeightsError(
            f"--verify: {network} has no PyTorch twin; only {', '.join(twins)} have one"
        )
    return twins[network](x)
