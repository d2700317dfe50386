"""AlexNet with few channels, for tests of training that ask nothing of its features.

    python tests/narrow.py train.py --config=...

runs a script with it in AlexNet's place, as `replace_alexnet` does in this process. Its
layers, kernels, strides and taps are AlexNet's; its programs compile and run faster.
"""

from __future__ import annotations

import dataclasses
import runpy
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from spips_jax import backbones


class NarrowAlexNet(backbones.AlexNet):
    """AlexNet with 8 channels in the first layer and 16 in the others."""

    @nn.compact
    def __call__(self, images: jax.Array) -> backbones.Taps:
        conv = partial(backbones.convolution, dtype=self.dtype)
        pool = backbones.max_pool_3x3
        relu1 = nn.relu(conv(8, 11, strides=4, padding=2, name="conv1")(images))
        relu2 = nn.relu(conv(16, 5, padding=2, name="conv2")(pool(relu1)))
        relu3 = nn.relu(conv(16, 3, padding=1, name="conv3")(pool(relu2)))
        relu4 = nn.relu(conv(16, 3, padding=1, name="conv4")(relu3))
        relu5 = nn.relu(conv(16, 3, padding=1, name="conv5")(relu4))
        activations = (relu1, relu2, relu3, relu4, relu5)
        return self._chosen({f"relu{k}": x for k, x in enumerate(activations, 1)})


def replace_alexnet(table: MutableMapping[str, Any] = backbones.BACKBONES) -> None:
    """Puts the narrow network where "alexnet" is looked up."""
    table["alexnet"] = dataclasses.replace(table["alexnet"], module=NarrowAlexNet)


if __name__ == "__main__":
    replace_alexnet()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
