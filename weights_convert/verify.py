"""Compares converted weights with PyTorch: backbones' activations, heads' values."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from spips_jax import backbones
from spips_jax.weights import read_weights
from weights_convert import networks, torch_twin

# Relative to the largest value. After VGG19's sixteen convolutions, float32 sums in
# another order differ by about 1e-6; a wrong weight, layout or padding by 1e-2 or more.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of one tap, or of one tensor of a head, from PyTorch's."""

    name: str
    shape: tuple[int, ...]
    absolute: float
    relative: float

    @property
    def within_tolerance(self) -> bool:
        return self.relative <= TOLERANCE  # false for NaN


def verify(
    network: str, tensors: Mapping[str, np.ndarray], path: pathlib.Path
) -> list[Difference]:
    """Reads the converted file back and compares it with PyTorch's `tensors`.

    Backbones run on two images in both frameworks, which needs PyTorch; heads are
    compared value by value.
    """
    params = read_weights(path, network=network)
    if network not in backbones.BACKBONES:
        converted = traverse_util.flatten_dict(params, sep=".")
        source = traverse_util.flatten_dict(networks.to_flax(network, tensors), sep=".")
        return [_difference(name, converted[name], source[name]) for name in source]
    images = random_images()
    ours = backbones.build(network).apply({"params": params}, images)
    theirs = torch_twin.activations(network, tensors, images)
    return [_difference(tap, np.asarray(ours[tap]), theirs[tap]) for tap in ours]


def random_images() -> np.ndarray:
    """Two smooth random images (2, 97, 128, 3), normalised; the same on every call.

    The odd height exposes differences in how strides and pooling round sizes.
    """
    noise = np.random.default_rng(0).standard_normal((2, 97, 128, 3))
    walk = noise.cumsum(axis=1).cumsum(axis=2)
    axes = (1, 2, 3)
    walk = (walk - walk.mean(axes, keepdims=True)) / walk.std(axes, keepdims=True)
    return walk.astype(np.float32)


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    absolute = float(np.abs(ours - theirs).max())
    scale = float(np.abs(theirs).max())
    relative = absolute / scale if scale else float(absolute > 0)
    return Difference(name, theirs.shape, absolute, relative)


def table(differences: list[Difference]) -> str:
    """One line per tap: name, shape, largest absolute and relative difference."""
    lines = [f"{'tap':<20} {'shape':<20} {'max abs diff':>12} {'relative':>9}"]
    lines += [
        f"{d.name:<20} {d.shape!s:<20} {d.absolute:12.1e} {d.relative:9.1e}"
        f"{'' if d.within_tolerance else f'  over {TOLERANCE:g}'}"
        for d in differences
    ]
    return "\n".join(lines)
