"""Backbones: ImageNet networks as Flax modules that return their named activations.

A backbone maps normalised images `(N, H, W, 3)` to `{tap name: activation}`,
activations `(N, h, w, C)` after their ReLU, and computes nothing past its deepest tap.
Its taps come in two groups, from shallow to deep: `perceptual` (low-level) and
`semantic` (high-level). SPIPS, arXiv 2504.17234, splits a CNN in this way; the place of
the cut is our choice. Parameters carry the literature's layer names
(`conv1_1/kernel`, ...); `weights_convert` fills them from published files.

All that the package knows of a backbone is its record in `BACKBONES`: to add one, write
its module and its record here.

A backbone takes images on a canvas, too, as a `spips_jax.boxes.Placed`, and returns
such: its layers are those of this module, which know of boxes.

float32 runs at `Precision.HIGHEST` whatever the global setting, because TF32 moves
distances by half a per cent; `dtype=jnp.bfloat16` is opt-in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from spips_jax import winograd
from spips_jax.boxes import Placed, through
from spips_jax.images import MIN_SIZE, imagenet_normalize
from spips_jax.messages import one_of

Taps = dict[str, Any]
"""Activations by tap: arrays, or `Placed` of images on a canvas."""


def relu(x: Any) -> Any:
    """Rectifies images or images on a canvas; what lies between them becomes 0."""
    return through(nn.relu, x)


def max_pool_2x2(x: Any) -> Any:
    """Max pooling 2x2, stride 2; a last odd row or column is dropped, as in PyTorch."""
    return through(_max_pool_2x2, x, stride=2, length=lambda n: n // 2)


def _max_pool_2x2(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    # Reshape and maximum: XLA's reduce_window is slower, its gradient far more so.
    rows = x.reshape(n, h // 2, 2, w // 2 * 2, c)
    x = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    columns = x.reshape(n, h // 2, w // 2, 2, c)
    return jnp.maximum(columns[:, :, :, 0], columns[:, :, :, 1])


def max_pool_3x3(x: Any, *, ceil_mode: bool = False) -> Any:
    """Max pooling 3x3, stride 2; `ceil_mode` keeps a last incomplete window."""

    def pool(x: jax.Array) -> jax.Array:
        pad = [(size - 3) % 2 if ceil_mode else 0 for size in x.shape[1:3]]
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(0, p) for p in pad])

    more = 1 if ceil_mode else 0
    return through(pool, x, stride=2, length=lambda n: (n - 3 + more) // 2 + 1)


class Convolution(nn.Conv):
    """A convolution of images, or of images on a canvas."""

    def __call__(self, x: Any) -> Any:
        options: Any = (self.kernel_size, self.strides, self.padding)
        (size, _), (stride, _), ((padding, _), _) = options
        return through(
            super().__call__,
            x,
            stride=stride,
            length=lambda n: (n + 2 * padding - size) // stride + 1,
            masks=False,  # `relu` does
        )


def convolution(
    features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    dtype: DTypeLike,
    name: str,
) -> Convolution:
    """A square convolution with PyTorch's explicit padding, float32 at HIGHEST."""
    return Convolution(
        features,
        (kernel_size, kernel_size),
        strides=(strides, strides),
        padding=((padding, padding), (padding, padding)),
        dtype=dtype,
        precision=jax.lax.Precision.HIGHEST,
        conv_general_dilated_cls=lambda: winograd.conv_general_dilated,
        name=name,
    )


class Network(nn.Module):
    """What every backbone has; `build` fills it in from the record.

    Attributes:
      perceptual: names of the shallow taps.
      semantic: names of the deep taps.
      dtype: of the computation; parameters are float32.
      network: its name in `BACKBONES`.
      normalize: maps images in [0, 1] to what the network was trained on.
      min_size: smallest height and width that it takes, in pixels.
    """

    perceptual: Sequence[str] = ()
    semantic: Sequence[str] = ()
    dtype: DTypeLike = jnp.float32
    network: str = ""
    normalize: Callable[[jax.Array], jax.Array] = imagenet_normalize
    min_size: int = MIN_SIZE

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of all taps, from shallow to deep."""
        return (*self.perceptual, *self.semantic)

    def _chosen(self, activations: Mapping[str, jax.Array]) -> Taps:
        """Those activations that are taps, in the order of the taps."""
        return {tap: activations[tap] for tap in self.taps}


class Vgg(Network):
    """VGG of Simonyan & Zisserman (arXiv 1409.1556), 3x3 convolutions in stages.

    Its activations are named `relu<stage>_<convolution>`.

    Attributes:
      depths: convolutions in each stage; the default is VGG16.
      pool: between stages; the default is VGG's own.
    """

    depths: Sequence[int] = (2, 2, 3, 3, 3)
    pool: Callable[[Any], Any] = max_pool_2x2

    @nn.compact
    def __call__(self, images: Any) -> Taps:
        taps: Taps = {}
        x = images
        for stage, depth in enumerate(self.depths, start=1):
            if stage > 1:
                x = self.pool(x)
            for layer in range(1, depth + 1):
                width = 64 * 2 ** min(stage - 1, 3)
                name = f"conv{stage}_{layer}"
                conv = convolution(width, 3, padding=1, dtype=self.dtype, name=name)
                x = relu(conv(x))
                taps[f"relu{stage}_{layer}"] = x
                if set(self.taps) <= set(taps):
                    return self._chosen(taps)
        raise ValueError(f"taps {self.taps} are not all among {tuple(taps)}")


class AlexNet(Network):
    """AlexNet's five convolutions (torchvision's, after arXiv 1404.5997)."""

    @nn.compact
    def __call__(self, images: Any) -> Taps:
        conv = partial(convolution, dtype=self.dtype)
        relu1 = relu(conv(64, 11, strides=4, padding=2, name="conv1")(images))
        relu2 = relu(conv(192, 5, padding=2, name="conv2")(max_pool_3x3(relu1)))
        relu3 = relu(conv(384, 3, padding=1, name="conv3")(max_pool_3x3(relu2)))
        relu4 = relu(conv(256, 3, padding=1, name="conv4")(relu3))
        relu5 = relu(conv(256, 3, padding=1, name="conv5")(relu4))
        return self._chosen(_numbered(relu1, relu2, relu3, relu4, relu5))


class Lite(Network):
    """A compact network whose activations have the sizes of AlexNet's, tap by tap.

    This lets it learn from AlexNet at every position (`spips_jax.training.distill`).
    Its channels are half as many or fewer: 0.63 million parameters where AlexNet's
    convolutions have 2.47 million. The first kernel is 7x7 and not 11x11: without
    padding it gives AlexNet's sizes, centre on centre.
    """

    @nn.compact
    def __call__(self, images: Any) -> Taps:
        conv = partial(convolution, dtype=self.dtype)
        relu1 = relu(conv(48, 7, strides=4, name="conv1")(images))
        x = relu(conv(64, 3, padding=1, name="conv2_1")(max_pool_3x3(relu1)))
        relu2 = relu(conv(128, 3, padding=1, name="conv2_2")(x))
        relu3 = relu(conv(160, 3, padding=1, name="conv3")(max_pool_3x3(relu2)))
        relu4 = relu(conv(128, 3, padding=1, name="conv4")(relu3))
        relu5 = relu(conv(128, 3, padding=1, name="conv5")(relu4))
        return self._chosen(_numbered(relu1, relu2, relu3, relu4, relu5))


def _numbered(*activations: jax.Array) -> Taps:
    return {f"relu{k}": x for k, x in enumerate(activations, start=1)}


class Fire(nn.Module):
    """SqueezeNet's module: squeeze to `squeeze` channels, expand to `2 * expand`."""

    squeeze: int
    expand: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Any) -> Any:
        conv = partial(convolution, dtype=self.dtype)
        x = relu(conv(self.squeeze, 1, name="squeeze")(x))
        narrow = conv(self.expand, 1, name="expand1x1")(x)
        wide = conv(self.expand, 3, padding=1, name="expand3x3")(x)
        return relu(_side_by_side(narrow, wide))


def _side_by_side(x: Any, y: Any) -> Any:
    """The channels of both."""
    if isinstance(x, Placed):
        return Placed(_side_by_side(x.array, y.array), x.boxes)
    return jnp.concatenate([x, y], axis=-1)


class SqueezeNet(Network):
    """SqueezeNet 1.1 (arXiv 1602.07360)."""

    @nn.compact
    def __call__(self, images: Any) -> Taps:
        fire = partial(Fire, dtype=self.dtype)
        pool = partial(max_pool_3x3, ceil_mode=True)
        taps: Taps = {}
        x = convolution(64, 3, strides=2, dtype=self.dtype, name="conv1")(images)
        taps["relu1"] = x = relu(x)
        x = fire(16, 64, name="fire2")(pool(x))
        taps["fire3"] = x = fire(16, 64, name="fire3")(x)
        x = fire(32, 128, name="fire4")(pool(x))
        taps["fire5"] = x = fire(32, 128, name="fire5")(x)
        taps["fire6"] = x = fire(48, 192, name="fire6")(pool(x))
        taps["fire7"] = x = fire(48, 192, name="fire7")(x)
        taps["fire8"] = x = fire(64, 256, name="fire8")(x)
        taps["fire9"] = fire(64, 256, name="fire9")(x)
        return self._chosen(taps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """Where others publish weights, and under which names.

    Attributes:
      origin: where the file is to be had, for people.
      tensors: published tensor to the tensors of ours that it becomes, more than one
        where it is cut: {"features.0.weight": ("conv1.kernel",)}.
      url: of the file; "" where it can't be downloaded by itself.
      sha256: of that file, or its first digits.
      ignored: beginnings of the names of published tensors that are left out.
    """

    origin: str
    tensors: Mapping[str, tuple[str, ...]]
    url: str = ""
    sha256: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A backbone: all that the package knows of it.

    Attributes:
      module: the class of its module, a `Network`, or a partial of it.
      perceptual: names of the shallow taps.
      semantic: names of the deep taps.
      normalize: maps images in [0, 1] to what the network was trained on.
      min_size: smallest height and width that it takes, in pixels.
      published: where its weights are published; None for one that is trained here,
        whose weights are in the file of the SPIPS model that stands on it.
      stored_dtype: of its weights in model files.
    """

    module: Callable[..., Any]
    perceptual: tuple[str, ...]
    semantic: tuple[str, ...]
    normalize: Callable[[jax.Array], jax.Array] = imagenet_normalize
    min_size: int = MIN_SIZE
    published: Published | None = None
    stored_dtype: str = "float32"


def _torchvision(
    file: str, convolutions: Mapping[str, str], *, ignored: Iterable[int]
) -> Published:
    """Torchvision's file of a network.

    Args:
      file: its name on torchvision's server.
      convolutions: our layer to the place in torchvision's `features`.
      ignored: the layers with weights in its `classifier`.
    """
    return Published(
        origin="https://github.com/pytorch/vision",
        url=f"https://download.pytorch.org/models/{file}",
        sha256=file.rpartition("-")[2].partition(".")[0],  # torchvision's names have it
        tensors={
            f"features.{theirs}.{tensor}": (f"{ours}.{flax_tensor}",)
            for ours, theirs in convolutions.items()
            for tensor, flax_tensor in (("weight", "kernel"), ("bias", "bias"))
        },
        ignored=tuple(f"classifier.{index}." for index in ignored),
    )


def _vgg_convolutions(depths: Sequence[int]) -> dict[str, str]:
    """Our layers of a VGG to their places in torchvision's `features`."""
    places, index = {}, 0
    for stage, depth in enumerate(depths, start=1):
        for layer in range(1, depth + 1):
            places[f"conv{stage}_{layer}"] = str(index)
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling
    return places


def _fire_convolutions(places: Sequence[int]) -> dict[str, str]:
    """Our layers of fire2, fire3, ... to their places in torchvision's `features`."""
    return {
        f"fire{number}.{part}": f"{place}.{part}"
        for number, place in enumerate(places, start=2)
        for part in ("squeeze", "expand1x1", "expand3x3")
    }


_VGG19_DEPTHS = (2, 2, 4, 4, 4)

BACKBONES: dict[str, Backbone] = {
    "lite": Backbone(
        module=Lite,
        perceptual=("relu1", "relu2"),
        semantic=("relu3", "relu4", "relu5"),
        stored_dtype="float16",  # half the size in the package
    ),
    "alexnet": Backbone(
        module=AlexNet,
        perceptual=("relu1", "relu2"),
        semantic=("relu3", "relu4", "relu5"),
        published=_torchvision(
            "alexnet-owt-7be5be79.pth",
            {"conv1": "0", "conv2": "3", "conv3": "6", "conv4": "8", "conv5": "10"},
            ignored=(1, 4, 6),
        ),
    ),
    "squeezenet": Backbone(
        module=SqueezeNet,
        # LPIPS's seven slices.
        perceptual=("relu1", "fire3", "fire5"),
        semantic=("fire6", "fire7", "fire8", "fire9"),
        published=_torchvision(
            "squeezenet1_1-b8a52dc0.pth",
            {"conv1": "0", **_fire_convolutions((3, 4, 6, 7, 9, 10, 11, 12))},
            ignored=(1,),
        ),
    ),
    "vgg16": Backbone(
        module=Vgg,
        perceptual=("relu1_2", "relu2_2", "relu3_3"),
        semantic=("relu4_3", "relu5_3"),
        published=_torchvision(
            "vgg16-397923af.pth", _vgg_convolutions(Vgg.depths), ignored=(0, 3, 6)
        ),
    ),
    "vgg19": Backbone(
        module=partial(Vgg, depths=_VGG19_DEPTHS),
        perceptual=("relu1_2", "relu2_2", "relu3_4"),
        semantic=("relu4_4", "relu5_4"),
        published=_torchvision(
            "vgg19-dcbb9e9d.pth", _vgg_convolutions(_VGG19_DEPTHS), ignored=(0, 3, 6)
        ),
    ),
}


def build(name: str, **options: Any) -> Any:
    """Returns the module of the backbone `name`.

    Args:
      name: a key of `BACKBONES`.
      **options: attributes of the module, such as `dtype=jnp.bfloat16`.

    Raises:
      ValueError: there is no such backbone.
    """
    if name not in BACKBONES:
        raise ValueError(one_of("backbone", name, BACKBONES))
    record = BACKBONES[name]
    fields = {
        "network": name,
        "perceptual": record.perceptual,
        "semantic": record.semantic,
        "normalize": record.normalize,
        "min_size": record.min_size,
    }
    return record.module(**{**fields, **options})


def shapes(
    name: str, *, height: int | None = None, width: int | None = None
) -> tuple[Taps, dict[str, Any]]:
    """Shapes of a backbone's taps and parameters, without computing anything.

    Args:
      name: a key of `BACKBONES`.
      height: of the one image, in pixels; by default the smallest that it takes.
      width: of the image, likewise.

    Returns:
      Trees of `jax.ShapeDtypeStruct`: taps `(1, h, w, C)`, and the parameters.
    """
    module = build(name)
    size = (height or module.min_size, width or module.min_size)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    taps, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    return taps, variables["params"]


def initialize(name: str, key: jax.Array) -> dict[str, Any]:
    """Random parameters of the backbone `name`: He et al., arXiv 1502.01852.

    Kernels are normal with variance 2 / fan-in, so that activations keep their scale in
    depth; biases are 0. Even such features tell images apart (Zhang et al., arXiv
    1801.03924, section 4), so a network can be tried without a download.
    """
    _, params = shapes(name)
    leaves, structure = jax.tree.flatten(params)
    init = nn.initializers.he_normal()
    drawn = [
        init(one, leaf.shape) if len(leaf.shape) > 1 else jnp.zeros(leaf.shape)
        for one, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
