"""The PyTorch peers. Imports no JAX, so that PyTorch's memory is measured alone.

python benchmarks/peer.py NETWORK HEIGHT WIDTH scores one random pair and prints the
process's status from Linux, which includes its peak memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_msssim  # type: ignore[import-untyped]
import torch
from torch.nn import functional

Network = Callable[[torch.Tensor], list[torch.Tensor]]

TAPS = {
    "vgg16": ("1_2", "2_2", "3_3", "4_3", "5_3"),
    "alexnet": ("1", "2", "3", "4", "5"),
}


def layers(network: str) -> list[tuple[str, dict[str, Any]]]:
    """(name of a convolution or "pool", its options), first to last."""
    table: list[tuple[str, dict[str, Any]]] = []
    channels = 3
    if network == "vgg16":
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            if stage > 1:
                table.append(("pool", {"kernel_size": 2}))
            for layer in range(1, depth + 1):
                width = min(32 * 2**stage, 512)
                options = {"shape": (width, channels, 3, 3), "padding": 1}
                table.append((f"{stage}_{layer}", options))
                channels = width
        return table
    rows = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1))
    for n, (width, size, stride, padding) in enumerate((*rows, rows[-1]), start=1):
        if n in (2, 3):
            table.append(("pool", {"kernel_size": 3, "stride": 2}))
        shape = (width, channels, size, size)
        table.append((f"{n}", {"shape": shape, "stride": stride, "padding": padding}))
        channels = width
    return table


def build(
    network: str, weights: Mapping[str, Mapping[str, Any]] | None = None
) -> Network:
    """Builds a function from normalised NCHW images to taps, in channels_last.

    Args:
      network: "vgg16" or "alexnet".
      weights: `{"conv1_1": {"kernel": HWIO, "bias": O}, ...}`; random by default.
    """
    steps: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = []

    def pooling(**options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: functional.max_pool2d(x, **options)

    def convolution(
        name: str, shape: tuple[int, ...], **options: Any
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        if weights is None:
            kernel = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
            bias = torch.zeros(shape[0])
        else:
            layer = weights[f"conv{name}"]
            kernel = torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1)
            bias = torch.from_numpy(np.array(layer["bias"]))
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return lambda x: torch.relu(functional.conv2d(x, kernel, bias, **options))

    for name, options in layers(network):
        step = pooling(**options) if name == "pool" else convolution(name, **options)
        steps.append((name, step))

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for name, step in steps:
            x = step(x)
            if name in TAPS[network]:
                taps.append(x)
        return taps

    return run


def score(network: Network, images: torch.Tensor) -> float:
    """The parts of a score: distances of unit features, and MS-SSIM."""
    total = 0.0
    with torch.inference_mode():
        for tap in network((images - 0.45) / 0.225):
            reference, distorted = functional.normalize(tap)
            total += (reference - distorted).square().sum(0).mean().item()
        reference, distorted = images.split(1)
        return total + pytorch_msssim.ms_ssim(reference, distorted, 1.0).item()


if __name__ == "__main__":
    name, height, width = sys.argv[1:]
    pair = torch.rand(2, int(height), int(width), 3).permute(0, 3, 1, 2)
    score(build(name), pair)
    print(Path("/proc/self/status").read_text())
