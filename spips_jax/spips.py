"""The SPIPS network: backbone, two feature streams, classical maps, fusion and head.

Z. Lao, H. Yu, "Scene Perceived Image Perceptual Score (SPIPS): combining global and
local perception for image quality assessment", arXiv 2504.17234, 2025. The paper fixes
the parts; how each is written down is said where it is our choice.

Everything that compares images here has the same two methods, so that one `Metric`
serves them all: `extract(images) -> Features` sees one image at a time, and
`compare(reference, distorted) -> Comparison` sees two Features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spips_jax import classical
from spips_jax.head import Attention, MonotoneHead, attention_pool, resize
from spips_jax.images import imagenet_normalize
from spips_jax.streams import FeatureStream, unit_normalize

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
    perceptual then semantic, and the three classical maps. Before any training the
    score is the mean of the three streams' means.

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

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        """Compares two Features of the same shapes; maps that are not used are free."""
        deep = {
            **self.perceptual(reference.taps, distorted.taps),
            **self.semantic(reference.taps, distorted.taps),
        }
        # N of the paper: at the initial weights 1/C the greatest difference of
        # rectified features is 2/C. So a map starts as 1 - cosine similarity.
        maps = {tap: d * (reference.taps[tap].shape[-1] / 2) for tap, d in deep.items()}
        maps |= classical.quality_maps(reference.image, distorted.image)
        names = list(self._inputs())

        logits = self.attention(reference.taps[self.backbone.semantic[-1]])
        pooled = [attention_pool(maps[name], logits) for name in names]
        scores = self._judge(jnp.stack(pooled, axis=-1))
        height, width = reference.image.shape[-3:-1]
        sized = {name: resize(maps[name], height, width) for name in names}
        fused = self._judge(jnp.stack(list(sized.values()), axis=-1))
        return Comparison(
            score=scores.pop("fused"), streams=scores, maps={**sized, **fused}
        )

    def _judge(self, inputs: jax.Array) -> dict[str, jax.Array]:
        """The head on inputs `(..., n)`: on all, and on each stream alone."""
        judged = {"fused": self.head(inputs)}
        for stream in STREAMS:
            chosen = np.array([of == stream for of in self._inputs().values()])
            chosen = chosen.reshape((1,) * (inputs.ndim - 1) + chosen.shape)
            judged[stream] = self.head(jnp.where(chosen, inputs, 0.0))
        return judged

    def __call__(self, reference: jax.Array, distorted: jax.Array) -> Comparison:
        """Compares images of one shape, in [0, 1]; what `init` runs."""
        return self.compare(self.extract(reference), self.extract(distorted))
