"""Backbones: ImageNet networks as Flax modules that return their named activations.

A backbone maps ImageNet-normalised images `(N, H, W, 3)` to `{tap name: activation}`,
activations `(N, h, w, C)` after their ReLU, and computes nothing past its deepest tap.
Its taps come in two groups, from shallow to deep: `perceptual` (low-level) and
`semantic` (high-level); SPIPS, arXiv 2504.17234, splits a CNN so, the place of the cut
is our choice. Parameters carry torchvision's layers under the literature's names
(`conv1_1/kernel`, ...); `weights_convert` fills them. `Lite` is nobody else's: it is
trained here, on what AlexNet makes of images (`spips_jax.training.distill`).

float32 runs at `Precision.HIGHEST` whatever the global setting, because TF32 moves
distances by half a per cent; `dtype=jnp.bfloat16` is there to be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from spips_jax import winograd

Taps = dict[str, jax.Array]


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Max pooling 2x2, stride 2; a last odd row or column is dropped, as in PyTorch."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    # Reshape and maximum: XLA's reduce_window is slower, its gradient far more so.
    rows = x.reshape(n, h // 2, 2, w // 2 * 2, c)
    x = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    columns = x.reshape(n, h // 2, w // 2, 2, c)
    return jnp.maximum(columns[:, :, :, 0], columns[:, :, :, 1])


def max_pool_3x3(x: jax.Array, *, ceil_mode: bool = False) -> jax.Array:
    """Max pooling 3x3, stride 2; `ceil_mode` keeps a last incomplete window."""
    pad = [(size - 3) % 2 if ceil_mode else 0 for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(0, p) for p in pad])


def convolution(
    features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    dtype: DTypeLike,
    name: str,
) -> nn.Conv:
    """A square convolution with PyTorch's explicit padding, float32 at HIGHEST."""
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=(strides, strides),
        padding=((padding, padding), (padding, padding)),
        dtype=dtype,
        precision=jax.lax.Precision.HIGHEST,
        conv_general_dilated_cls=lambda: winograd.conv_general_dilated,
        name=name,
    )


class Vgg(nn.Module):
    """VGG of Simonyan & Zisserman (arXiv 1409.1556), 3x3 convolutions in stages.

    Attributes:
      depths: convolutions in each stage; (2, 2, 3, 3, 3) is VGG16.
      perceptual, semantic: names of the taps, `relu<stage>_<convolution>`.
      dtype: of the computation; parameters are float32.
      pool: between stages; the default is VGG's own.
    """

    depths: Sequence[int]
    perceptual: Sequence[str]
    semantic: Sequence[str]
    dtype: DTypeLike = jnp.float32
    pool: Callable[[jax.Array], jax.Array] = max_pool_2x2

    @property
    def taps(self) -> tuple[str, ...]:
        return (*self.perceptual, *self.semantic)

    @nn.compact
    def __call__(self, images: jax.Array) -> Taps:
        taps: Taps = {}
        x = images
        for stage, depth in enumerate(self.depths, start=1):
            if stage > 1:
                x = self.pool(x)
            for layer in range(1, depth + 1):
                width = 64 * 2 ** min(stage - 1, 3)
                name = f"conv{stage}_{layer}"
                conv = convolution(width, 3, padding=1, dtype=self.dtype, name=name)
                x = nn.relu(conv(x))
                taps[f"relu{stage}_{layer}"] = x
                if set(self.taps) <= set(taps):
                    return {tap: taps[tap] for tap in self.taps}
        raise ValueError(f"taps {self.taps} are not all among {tuple(taps)}")


class AlexNet(nn.Module):
    """AlexNet's five convolutions (torchvision's, after arXiv 1404.5997)."""

    perceptual: Sequence[str] = ("relu1", "relu2")
    semantic: Sequence[str] = ("relu3", "relu4", "relu5")
    dtype: DTypeLike = jnp.float32

    @property
    def taps(self) -> tuple[str, ...]:
        return (*self.perceptual, *self.semantic)

    def _named(self, *activations: jax.Array) -> Taps:
        """Those of relu1, relu2 and so on that are taps."""
        named = {f"relu{k}": x for k, x in enumerate(activations, start=1)}
        return {tap: named[tap] for tap in self.taps}

    @nn.compact
    def __call__(self, images: jax.Array) -> Taps:
        conv = partial(convolution, dtype=self.dtype)
        relu1 = nn.relu(conv(64, 11, strides=4, padding=2, name="conv1")(images))
        relu2 = nn.relu(conv(192, 5, padding=2, name="conv2")(max_pool_3x3(relu1)))
        relu3 = nn.relu(conv(384, 3, padding=1, name="conv3")(max_pool_3x3(relu2)))
        relu4 = nn.relu(conv(256, 3, padding=1, name="conv4")(relu3))
        relu5 = nn.relu(conv(256, 3, padding=1, name="conv5")(relu4))
        return self._named(relu1, relu2, relu3, relu4, relu5)


class Lite(AlexNet):
    """A compact network whose activations have the sizes of AlexNet's, tap by tap.

    So it can learn from AlexNet at every position. Its kernels are fewer and, past the
    first layer, all 3x3: 1.46 million parameters where AlexNet's convolutions have 2.47
    million.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> Taps:
        conv = partial(convolution, dtype=self.dtype)
        relu1 = nn.relu(conv(64, 11, strides=4, padding=2, name="conv1")(images))
        x = nn.relu(conv(96, 3, padding=1, name="conv2_1")(max_pool_3x3(relu1)))
        relu2 = nn.relu(conv(192, 3, padding=1, name="conv2_2")(x))
        relu3 = nn.relu(conv(256, 3, padding=1, name="conv3")(max_pool_3x3(relu2)))
        relu4 = nn.relu(conv(192, 3, padding=1, name="conv4")(relu3))
        relu5 = nn.relu(conv(192, 3, padding=1, name="conv5")(relu4))
        return self._named(relu1, relu2, relu3, relu4, relu5)


class Fire(nn.Module):
    """SqueezeNet's module: squeeze to `squeeze` channels, expand to `2 * expand`."""

    squeeze: int
    expand: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(convolution, dtype=self.dtype)
        x = nn.relu(conv(self.squeeze, 1, name="squeeze")(x))
        narrow = conv(self.expand, 1, name="expand1x1")(x)
        wide = conv(self.expand, 3, padding=1, name="expand3x3")(x)
        return nn.relu(jnp.concatenate([narrow, wide], axis=-1))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (arXiv 1602.07360); the taps are LPIPS's seven slices."""

    perceptual: Sequence[str] = ("relu1", "fire3", "fire5")
    semantic: Sequence[str] = ("fire6", "fire7", "fire8", "fire9")
    dtype: DTypeLike = jnp.float32

    @property
    def taps(self) -> tuple[str, ...]:
        return (*self.perceptual, *self.semantic)

    @nn.compact
    def __call__(self, images: jax.Array) -> Taps:
        fire = partial(Fire, dtype=self.dtype)
        pool = partial(max_pool_3x3, ceil_mode=True)
        taps: Taps = {}
        x = convolution(64, 3, strides=2, dtype=self.dtype, name="conv1")(images)
        taps["relu1"] = x = nn.relu(x)
        x = fire(16, 64, name="fire2")(pool(x))
        taps["fire3"] = x = fire(16, 64, name="fire3")(x)
        x = fire(32, 128, name="fire4")(pool(x))
        taps["fire5"] = x = fire(32, 128, name="fire5")(x)
        taps["fire6"] = x = fire(48, 192, name="fire6")(pool(x))
        taps["fire7"] = x = fire(48, 192, name="fire7")(x)
        taps["fire8"] = x = fire(64, 256, name="fire8")(x)
        taps["fire9"] = fire(64, 256, name="fire9")(x)
        return {tap: taps[tap] for tap in self.taps}


BACKBONES: dict[str, Callable[..., Any]] = {
    "lite": Lite,
    "alexnet": AlexNet,
    "squeezenet": SqueezeNet,
    "vgg16": partial(
        Vgg,
        depths=(2, 2, 3, 3, 3),
        perceptual=("relu1_2", "relu2_2", "relu3_3"),
        semantic=("relu4_3", "relu5_3"),
    ),
    "vgg19": partial(
        Vgg,
        depths=(2, 2, 4, 4, 4),
        perceptual=("relu1_2", "relu2_2", "relu3_4"),
        semantic=("relu4_4", "relu5_4"),
    ),
}


def build(name: str, **options: Any) -> Any:
    """Returns the backbone `name`, one of `BACKBONES`.

    Args:
      name: "lite", "vgg16", "vgg19", "alexnet" or "squeezenet".
      **options: attributes of the module, such as `dtype=jnp.bfloat16`.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is not one of {', '.join(BACKBONES)}")
    return BACKBONES[name](**options)


def initialize(name: str, key: jax.Array) -> dict[str, Any]:
    """Random parameters of the backbone `name`: He et al., arXiv 1502.01852.

    Kernels are normal with variance 2 / fan-in, so that activations keep their scale in
    depth; biases are 0. Even such features tell images apart (Zhang et al., arXiv
    1801.03924, section 4), so that a network needs no download to be tried.
    """
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(build(name).init, jax.random.key(0), image)["params"]
    leaves, structure = jax.tree.flatten(shapes)
    init = nn.initializers.he_normal()
    drawn = [
        init(one, leaf.shape) if len(leaf.shape) > 1 else jnp.zeros(leaf.shape)
        for one, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
