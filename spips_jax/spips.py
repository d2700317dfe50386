"""The SPIPS network: backbone, two feature streams, classical maps, fusion and head.

Z. Lao, H. Yu, "Scene Perceived Image Perceptual Score (SPIPS): combining global and
local perception for image quality assessment", arXiv 2504.17234, 2025. The paper fixes
the parts; how each is written down is said where it is our choice.

Everything that compares images here has the same two methods, so that one `Metric`
serves them all: `extract(images) -> Features` sees one image at a time, and
`compare(reference, distorted) -> Comparison` sees two Features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax import classical
from spips_jax.head import (
    Attention,
    Gain,
    MonotoneHead,
    attention_pool,
    attention_weights,
    resize,
)
from spips_jax.images import imagenet_normalize
from spips_jax.signed import signed_changes
from spips_jax.streams import FeatureStream, squared_differences, unit_normalize

CLASSICAL = ("psnr", "ssim", "ms_ssim")
STREAMS = ("perceptual", "semantic", "classical")


@flax.struct.dataclass
class Features:
    """What is kept of an image, in place of which it can be compared.

    Attributes:
      image: `(..., H, W, 3)` float32 in [0, 1], for the classical maps.
      taps: `{tap: (..., h, w, C)}`, the backbone's activations as the metric uses them.
    """

    image: jax.Array
    taps: dict[str, jax.Array]


@flax.struct.dataclass
class Pooled:
    """A pair pooled over its positions: all that the streams' weights and head see.

    As long as the backbone and the attention stay as they are it is the same, so that
    training the rest needs no images.

    Attributes:
      squares: `{tap: (..., C)}`, means of the squared differences of each channel.
      classical: `{map: (...)}`, means of the classical maps.
      signed: `(..., 4)`, what `spips_jax.signed` says of the pair.
    """

    squares: dict[str, jax.Array]
    classical: dict[str, jax.Array]
    signed: jax.Array


@flax.struct.dataclass
class Comparison:
    """A score and what it is made of.

    Attributes:
      score: `(...)` float32.
      streams: `{stream: (...)}`, the score if the images differed in that stream alone;
        before any training they add up to the score. Empty for single-part metrics.
      maps: `{name: (..., H, W)}`, all at the images' size, higher is worse.
    """

    score: jax.Array
    streams: dict[str, jax.Array]
    maps: dict[str, jax.Array]


def extract_taps(backbone: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Runs a backbone on images `(..., H, W, 3)` in [0, 1], any leading dimensions."""
    batch = images.shape[:-3]
    flat = images.reshape(-1, *images.shape[-3:])
    taps = backbone(imagenet_normalize(flat))
    return {tap: x.reshape(*batch, *x.shape[1:]) for tap, x in taps.items()}


class Spips(nn.Module):
    """SPIPS over a backbone.

    Its inputs to the head are one number per map, each in [0, 1]: the backbone's taps,
    perceptual then semantic, and the three classical maps. The signed facts of the pair
    scale what the head says. Before any training the score is the mean of the three
    streams' means.

    Attributes:
      backbone: a module of `spips_jax.backbones`.
      width: hidden units of the head.
    """

    backbone: nn.Module
    width: int = 32

    higher_is_better: ClassVar[bool] = False

    def setup(self) -> None:
        self.perceptual = FeatureStream(taps=tuple(self.backbone.perceptual))
        self.semantic = FeatureStream(taps=tuple(self.backbone.semantic))
        self.attention = Attention()
        streams = list(self._inputs().values())
        initial = [1.0 / len(STREAMS) / streams.count(stream) for stream in streams]
        self.head = MonotoneHead(initial=tuple(initial), width=self.width)
        self.gain = Gain()

    def _inputs(self) -> dict[str, str]:
        """The head's inputs in order: the name of a map, and the stream it is of."""
        return {
            **dict.fromkeys(self.backbone.perceptual, "perceptual"),
            **dict.fromkeys(self.backbone.semantic, "semantic"),
            **dict.fromkeys(CLASSICAL, "classical"),
        }

    def extract(self, images: jax.Array) -> Features:
        """Features of images `(..., H, W, 3)` in [0, 1]; taps are unit-normalised."""
        taps = extract_taps(self.backbone, images)
        return Features(image=images, taps=jax.tree.map(unit_normalize, taps))

    def pool(self, reference: Features, distorted: Features) -> Pooled:
        """Pools the differences of two Features of the same shapes."""
        squares, maps = self._differences(reference, distorted)
        return self._pool(reference, distorted, squares, maps)

    def _differences(
        self, reference: Features, distorted: Features
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """At each position: `{tap: (..., h, w, C)}` and `{map: (..., H, W)}`."""
        return (
            squared_differences(reference.taps, distorted.taps),
            classical.quality_maps(reference.image, distorted.image),
        )

    def _pool(
        self,
        reference: Features,
        distorted: Features,
        squares: Mapping[str, jax.Array],
        maps: Mapping[str, jax.Array],
    ) -> Pooled:
        logits = self.attention(reference.taps[self.backbone.semantic[-1]])
        pooled = {}
        for tap, square in squares.items():
            weights = attention_weights(logits, *square.shape[-3:-1])
            pooled[tap] = jnp.sum(weights[..., None] * square, axis=(-3, -2))
        return Pooled(
            squares=pooled,
            classical={name: attention_pool(maps[name], logits) for name in CLASSICAL},
            signed=signed_changes(reference.image, distorted.image),
        )

    def judge(self, pooled: Pooled) -> jax.Array:
        """The score `(...)` of pairs that were pooled."""
        return self._scores(pooled)["fused"]

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        """Compares two Features of the same shapes; maps that are not used are free."""
        squares, quality = self._differences(reference, distorted)
        pooled = self._pool(reference, distorted, squares, quality)
        scores = self._scores(pooled)
        maps = self._maps(squares, quality)
        height, width = reference.image.shape[-3:-1]
        sized = {name: resize(d, height, width) for name, d in maps.items()}
        gain = self.gain(pooled.signed)[..., None, None]
        fused = self._judge(jnp.stack(list(sized.values()), axis=-1), gain)
        return Comparison(
            score=scores.pop("fused"), streams=scores, maps={**sized, **fused}
        )

    def _maps(
        self, squares: Mapping[str, jax.Array], classical: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The head's inputs in order, from what they are at each position or pooled."""
        deep = {**self.perceptual(squares), **self.semantic(squares)}
        # N of the paper: at the initial weights 1/C the greatest difference of
        # rectified features is 2/C. So a map starts as 1 - cosine similarity.
        maps = {tap: d * (squares[tap].shape[-1] / 2) for tap, d in deep.items()}
        return {**maps, **{name: classical[name] for name in CLASSICAL}}

    def _scores(self, pooled: Pooled) -> dict[str, jax.Array]:
        inputs = self._maps(pooled.squares, pooled.classical)
        stacked = jnp.stack(list(inputs.values()), axis=-1)
        return self._judge(stacked, self.gain(pooled.signed))

    def _judge(self, inputs: jax.Array, gain: jax.Array) -> dict[str, jax.Array]:
        """Head and gain on inputs `(..., n)`: on all, and on each stream alone."""
        judged = {"fused": gain * self.head(inputs)}
        for stream in STREAMS:
            chosen = np.array([of == stream for of in self._inputs().values()])
            chosen = chosen.reshape((1,) * (inputs.ndim - 1) + chosen.shape)
            judged[stream] = gain * self.head(jnp.where(chosen, inputs, 0.0))
        return judged

    def __call__(self, reference: jax.Array, distorted: jax.Array) -> Comparison:
        """Compares images of one shape, in [0, 1]; what `init` runs."""
        return self.compare(self.extract(reference), self.extract(distorted))
