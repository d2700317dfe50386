"""The SPIPS network: backbone, two feature streams, classical maps, fusion and head.

Z. Lao, H. Yu, "Scene Perceived Image Perceptual Score (SPIPS): combining global and
local perception for image quality assessment", arXiv 2504.17234, 2025. The paper fixes
the parts; how each is written down is said where it is our choice.

Everything that compares images here has the same two methods, so that one `Metric`
serves them all: `extract(images) -> Features` sees one image at a time, and
`compare(reference, distorted) -> Comparison` sees two Features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax import classical
from spips_jax.facts import facts
from spips_jax.head import (
    Attention,
    FreeHead,
    Gain,
    MonotoneHead,
    attention_pool,
    attention_weights,
    resize,
)
from spips_jax.images import imagenet_normalize
from spips_jax.streams import (
    FeatureStream,
    squared_difference,
    structure_difference,
    texture_difference,
    unit_normalize,
)

STREAMS = ("perceptual", "semantic", "classical")
STATISTICS = ("squares", "texture", "structure")
"""What is told of a tap: see `spips_jax.streams`."""

CLASSICAL = ("psnr", "ssim", "ms_ssim")


@flax.struct.dataclass
class Features:
    """What is kept of an image, in place of which it can be compared.

    Attributes:
      image: `(..., H, W, 3)` float32 in [0, 1], for the classical maps.
      taps: `{tap: (..., h, w, C)}`, the backbone's activations as the metric uses them,
        float32.
    """

    image: jax.Array
    taps: dict[str, jax.Array]


@flax.struct.dataclass
class Pooled:
    """A pair pooled over its positions: all that the streams' weights and head see.

    As long as the backbone and the attention stay as they are it is the same, so that
    training the rest needs no images.

    Attributes:
      deep: `{input: (..., C)}`, of each tap and statistic what its channels differ by.
      classical: `{map: (...)}`, means of the classical maps; PSNR's of the error before
        its logarithm, so that it is 1 - PSNR / 60 dB of the whole image.
      facts: `(..., 7)`, what `spips_jax.facts` says of the pair.
    """

    deep: dict[str, jax.Array]
    classical: dict[str, jax.Array]
    facts: jax.Array


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

    Its inputs to the head are numbers in [0, 1]: of the backbone's taps, perceptual
    then semantic, each statistic of `STATISTICS`; and the three classical maps. The
    facts of the pair scale what the head says. Before any training the score is the
    mean of the streams' means.

    Attributes:
      backbone: a module of `spips_jax.backbones`.
      width: hidden units of the head.
      streams: which of `STREAMS` the head sees, in that order. All but the default are
        for ablations.
      statistics: likewise, of `STATISTICS`.
      monotone: whether the head is a `MonotoneHead`, else a `FreeHead`.
    """

    backbone: nn.Module
    width: int = 32
    streams: Sequence[str] = STREAMS
    statistics: Sequence[str] = STATISTICS
    monotone: bool = True

    higher_is_better: ClassVar[bool] = False

    def setup(self) -> None:
        for stream in self.streams:
            if stream != "classical":
                taps = tuple(self._deep_names(getattr(self.backbone, stream)))
                setattr(self, stream, FeatureStream(taps=taps))
        self.attention = Attention()
        of = list(self._inputs().values())
        initial = [1.0 / len(self.streams) / of.count(stream) for stream in of]
        head = MonotoneHead if self.monotone else FreeHead
        self.head = head(initial=tuple(initial), width=self.width)
        self.gain = Gain()

    def _inputs(self) -> dict[str, str]:
        """The head's inputs in order: their names, and the stream each is of."""
        names = {
            "perceptual": self._deep_names(self.backbone.perceptual),
            "semantic": self._deep_names(self.backbone.semantic),
            "classical": CLASSICAL,
        }
        return {name: stream for stream in self.streams for name in names[stream]}

    def _deep_names(self, taps: Sequence[str]) -> list[str]:
        return [_input(tap, one) for tap in taps for one in self.statistics]

    def extract(self, images: jax.Array) -> Features:
        """Features of images `(..., H, W, 3)` in [0, 1]."""
        taps = extract_taps(self.backbone, images)
        taps = {tap: x.astype(jnp.float32) for tap, x in taps.items()}
        return Features(image=images, taps=taps)

    def pool(self, reference: Features, distorted: Features) -> Pooled:
        """Pools the differences of two Features of the same shapes."""
        return self._differences(reference, distorted)[0]

    def _differences(
        self, reference: Features, distorted: Features
    ) -> tuple[Pooled, dict[str, jax.Array], dict[str, jax.Array]]:
        """What differs: pooled, and where each deep and each classical input has maps,
        `{input: (..., h, w, C)}` and `{input: (..., H, W)}`.
        """
        logits = self.attention(
            unit_normalize(reference.taps[self.backbone.semantic[-1]])
        )
        deep, deep_maps = {}, {}
        for tap, x in reference.taps.items():
            y = distorted.taps[tap]
            weights = attention_weights(logits, *x.shape[-3:-1])
            maps = {
                "squares": squared_difference(x, y),
                "structure": structure_difference(x, y, weights),
            }
            for statistic, differences in maps.items():
                name = _input(tap, statistic)
                deep_maps[name] = differences
                deep[name] = jnp.sum(weights[..., None] * differences, axis=(-3, -2))
            deep[_input(tap, "texture")] = texture_difference(x, y, weights)
        images = reference.image, distorted.image
        maps = classical.quality_maps(*images, names=CLASSICAL)
        # A mean of logarithms cannot tell a few large errors from many small ones.
        linear = {**maps, "psnr": classical.squared_error(*images)}
        means = {name: attention_pool(map_, logits) for name, map_ in linear.items()}
        means["psnr"] = classical.psnr_quality(means["psnr"])
        pooled = Pooled(deep=deep, classical=means, facts=facts(*images))
        return pooled, deep_maps, maps

    def judge(self, pooled: Pooled) -> jax.Array:
        """The score `(...)` of pairs that were pooled."""
        return self._scores(pooled)["fused"]

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        """Compares two Features of the same shapes; maps that are not used are free."""
        pooled, deep_maps, classical_maps = self._differences(reference, distorted)
        scores = self._scores(pooled)
        height, width = reference.image.shape[-3:-1]
        maps = {
            name: resize(map_, height, width)
            for name, map_ in self._inputs_of(deep_maps, classical_maps).items()
        }
        # Texture has no map: it counts everywhere alike.
        everywhere = {
            name: jnp.broadcast_to(value[..., None, None], reference.image.shape[:-1])
            for name, value in self._inputs_of(pooled.deep, pooled.classical).items()
        }
        local = {**everywhere, **maps}
        gain = self.gain(pooled.facts)[..., None, None]
        fused = self._judge(jnp.stack(list(local.values()), axis=-1), gain)
        return Comparison(
            score=scores.pop("fused"), streams=scores, maps={**maps, **fused}
        )

    def _inputs_of(
        self, deep: Mapping[str, jax.Array], classical: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Those of the head's inputs that are given, in order: at each position, or
        pooled.
        """
        found = dict(classical)
        for stream in self.streams:
            if stream != "classical":
                found |= getattr(self, stream)(deep)
        for tap in self.backbone.taps:
            if tap in found:
                # N of the paper: at the initial weights 1/C the greatest difference of
                # rectified features is 2/C. So a map starts as 1 - cosine similarity.
                found[tap] = found[tap] * (deep[tap].shape[-1] / 2)
        return {name: found[name] for name in self._inputs() if name in found}

    def _scores(self, pooled: Pooled) -> dict[str, jax.Array]:
        inputs = self._inputs_of(pooled.deep, pooled.classical)
        stacked = jnp.stack(list(inputs.values()), axis=-1)
        return self._judge(stacked, self.gain(pooled.facts))

    def _judge(self, inputs: jax.Array, gain: jax.Array) -> dict[str, jax.Array]:
        """Head and gain on inputs `(..., n)`: on all, and on each stream alone."""
        judged = {"fused": gain * self.head(inputs)}
        for stream in self.streams:
            chosen = np.array([of == stream for of in self._inputs().values()])
            chosen = chosen.reshape((1,) * (inputs.ndim - 1) + chosen.shape)
            judged[stream] = gain * self.head(jnp.where(chosen, inputs, 0.0))
        return judged

    def __call__(self, reference: jax.Array, distorted: jax.Array) -> Comparison:
        """Compares images of one shape, in [0, 1]; what `init` runs."""
        return self.compare(self.extract(reference), self.extract(distorted))


def _input(tap: str, statistic: str) -> str:
    """The name of a head's input; the paper's own, the squares', is the tap's."""
    return tap if statistic == "squares" else f"{tap}_{statistic}"
