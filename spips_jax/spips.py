"""The SPIPS network: backbone, two feature streams, classical maps, fusion and head.

Z. Lao, H. Yu, "Scene Perceived Image Perceptual Score (SPIPS): combining global and
local perception for image quality assessment", arXiv 2504.17234, 2025. The paper fixes
the parts; where the way to compute one is our choice, its docstring says so.

Every module that compares images, here and in `spips_jax.baselines`, has the same two
methods, so that one `Metric` serves them all: `extract(images) -> Features` sees one
image at a time, and `compare(reference, distorted) -> Comparison` sees two Features.
Where `compare` has maps, `score(reference, distorted)` returns its score alone: a
compiler leaves out the maps, but only after JAX has traced and differentiated them,
which takes longer than the score. Those that can score images on canvases
(`spips_jax.boxes`) have two more: `measure` sees a canvas and returns sums over each of
its images, which add up over the pieces of a large one, and `score_measured` turns
those of whole images into scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spips_jax import classical as classical_maps
from spips_jax.boxes import Canvas, Placed
from spips_jax.classical.filters import mean
from spips_jax.classical.sheets import ERRORS, error_sums, mean_errors
from spips_jax.facts import fact_sums, facts, facts_of_sums
from spips_jax.head import FreeHead, Gain, MonotoneHead
from spips_jax.streams import (
    MOMENT_EPSILON,
    STREAMS,
    FeatureStream,
    resize,
    squared_difference,
    statistics_of_sums,
    structure_difference,
    tap_sums,
    texture_difference,
)

STATISTICS = ("squares", "texture", "structure")
"""Statistics of a tap: see `spips_jax.streams`."""

CLASSICAL = ("psnr", "ssim", "ms_ssim")
"""The paper's classical maps: keys of `spips_jax.classical.MAPS`."""


@nnx.register_data_type  # so that an attribute of an nnx.Module may be one
@flax.struct.dataclass
class Features:
    """What can stand in for an image in comparisons.

    Attributes:
      image: `(..., H, W, 3)` float32 in [0, 1], for the classical maps.
      taps: `{tap: (..., h, w, C)}`, the backbone's activations as the metric uses them,
        float32.
      made_by: kind of metric, backbone and precision, of features that a `Metric`
        made; "" of others. Metrics that differ in it cannot share features.
    """

    image: jax.Array
    taps: dict[str, jax.Array]
    made_by: str = flax.struct.field(pytree_node=False, default="")


@flax.struct.dataclass
class Pooled:
    """The differences of a pair, averaged over its positions.

    The streams' weights, the head and the gain see nothing else of a pair. It depends
    on no parameters but the backbone's: with a frozen backbone it can be computed once,
    and training needs no images.

    Attributes:
      deep: `{input: (..., C)}`, of each tap and statistic, by channel.
      classical: `{map: (...)}`, the quality of each classical map's mean error.
      facts: `(..., 3)`, see `spips_jax.facts`.
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

    def _repr_png_(self) -> bytes | None:
        """The maps of one pair, in a notebook; needs matplotlib."""
        if jnp.ndim(self.score) or not self.maps:
            return None
        try:
            from spips_jax.heatmaps import draw_heat_maps
        except ModuleNotFoundError:
            return None
        return draw_heat_maps(jax.device_get(self), title=f"{float(self.score):.4f}")


@flax.struct.dataclass
class Terms:
    """What of a score is to be another than trained.

    Attributes:
      stream_weights: what the head's inputs of a stream are multiplied by, 0 or more,
        by name of `Spips.streams`; 1 where none is given.
      uniform: the share in [0, 1] that the untrained score, the mean of the streams'
        means, has beside the head's; None for nothing.
      facts: whether the facts of the pair scale the score.
    """

    stream_weights: Mapping[str, Any] | None = None
    uniform: Any = None
    facts: bool = flax.struct.field(pytree_node=False, default=True)


def extract_taps(backbone: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Runs a backbone on images `(..., H, W, 3)` in [0, 1], any leading dimensions."""
    batch = images.shape[:-3]
    flat = images.reshape(-1, *images.shape[-3:])
    taps = backbone(backbone.normalize(flat))
    return {tap: x.reshape(*batch, *x.shape[1:]) for tap, x in taps.items()}


def place_taps(backbone: Any, canvas: Canvas) -> dict[str, tuple[Placed, Placed]]:
    """Runs a backbone on the images of a canvas: reference and distorted, by tap."""
    images = backbone.normalize(canvas.images())
    taps = backbone(Placed(images, canvas.boxes).masked())
    return {
        tap: (Placed(x.array[:1], x.boxes), Placed(x.array[1:], x.boxes))
        for tap, x in taps.items()
    }


class Spips(nn.Module):
    """SPIPS over a backbone.

    The head's inputs are numbers in [0, 1]: each statistic of each tap, perceptual then
    semantic, and the classical maps, all averaged over the image. The facts of the pair
    scale the head's output. The untrained score is the mean of the streams' means.

    Attributes:
      backbone: a module of `spips_jax.backbones`.
      width: hidden units of the head.
      streams: which of `STREAMS` the head sees, in that order. All but the default are
        for ablations.
      statistics: which of `STATISTICS` the head sees, in that order.
      classical: which maps of `spips_jax.classical.MAPS` the classical stream has.
      monotone: whether the head is a `MonotoneHead`, else a `FreeHead`.
      moment_epsilon: the constant in the denominators of texture and structure, above
        0, in squared units of the activations.
    """

    backbone: nn.Module
    width: int = 32
    streams: Sequence[str] = STREAMS
    statistics: Sequence[str] = STATISTICS
    classical: Sequence[str] = CLASSICAL
    monotone: bool = True
    moment_epsilon: float = MOMENT_EPSILON

    higher_is_better: ClassVar[bool] = False

    def setup(self) -> None:
        for stream in self.streams:
            if stream != "classical":
                taps = tuple(self._deep_names(getattr(self.backbone, stream)))
                setattr(self, stream, FeatureStream(taps=taps))
        head = MonotoneHead if self.monotone else FreeHead
        self.head = head(initial=self._uniform(), width=self.width)
        self.gain = Gain()

    @property
    def min_size(self) -> int:
        """Smallest height and width of images, in pixels."""
        maps = [classical_maps.MAPS[name].min_size for name in self.classical]
        return max(self.backbone.min_size, *maps, 1)

    def _uniform(self) -> tuple[float, ...]:
        """The weights of the head's inputs that share alike among the streams."""
        streams = list(self._inputs().values())
        return tuple(1.0 / len(self.streams) / streams.count(one) for one in streams)

    def _inputs(self) -> dict[str, str]:
        """The head's inputs in order: their names, and the stream each is of."""
        names = {
            "perceptual": self._deep_names(self.backbone.perceptual),
            "semantic": self._deep_names(self.backbone.semantic),
            "classical": self.classical,
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
        """Averages the differences of two Features of the same shapes."""
        return self._differences(reference, distorted)[0]

    def _differences(
        self, reference: Features, distorted: Features
    ) -> tuple[Pooled, dict[str, jax.Array], dict[str, jax.Array]]:
        """The differences: pooled, and those that have maps, as deep maps
        `{input: (..., h, w, C)}` and errors of classical maps `{input: (..., H, W)}`.
        """
        deep, deep_maps = {}, {}
        epsilon = self.moment_epsilon
        for tap, x in reference.taps.items():
            y = distorted.taps[tap]
            maps = {
                "squares": squared_difference(x, y),
                "structure": structure_difference(x, y, epsilon=epsilon),
            }
            for statistic, differences in maps.items():
                name = _input(tap, statistic)
                deep_maps[name] = differences
                deep[name] = differences.mean((-3, -2))
            texture = texture_difference(x, y, epsilon=epsilon)
            deep[_input(tap, "texture")] = texture
        images = reference.image, distorted.image
        errors = classical_maps.errors(*images, names=self.classical)
        classical = {
            name: classical_maps.MAPS[name].quality(mean(error))
            for name, error in errors.items()
        }
        pooled = Pooled(deep=deep, classical=classical, facts=facts(*images))
        return pooled, deep_maps, errors

    @property
    def on_canvas(self) -> bool:
        """Whether there is `measure`: not for all classical maps."""
        return set(self.classical) <= set(ERRORS)

    @property
    def canvas_needs(self) -> frozenset[str]:
        """Which parts of a canvas beside the images `measure` looks at."""
        return frozenset().union(*(ERRORS[name].needs for name in self.classical))

    def measure(self, canvas: Canvas) -> dict[str, Any]:
        """Sums over each image of a canvas, `(S, ...)`, for `score_measured`."""
        taps = {}
        for tap, pair in place_taps(self.backbone, canvas).items():
            x, y = (Placed(one.array.astype(jnp.float32), one.boxes) for one in pair)
            taps[tap] = tap_sums(x, y)
        return {
            "taps": taps,
            "classical": error_sums(canvas, names=self.classical),
            "facts": fact_sums(canvas),
        }

    def score_measured(self, sums: Mapping[str, Any]) -> jax.Array:
        """The score `(...)` of pairs whose sums over whole images these are."""
        deep = {
            _input(tap, statistic): value
            for tap, of_tap in sums["taps"].items()
            for statistic, value in statistics_of_sums(
                of_tap, epsilon=self.moment_epsilon
            ).items()
        }
        errors = mean_errors(sums["classical"], names=self.classical)
        classical = {
            name: classical_maps.MAPS[name].quality(error)
            for name, error in errors.items()
        }
        facts = facts_of_sums(sums["facts"])
        return self.score_pooled(Pooled(deep=deep, classical=classical, facts=facts))

    def score_pooled(self, pooled: Pooled) -> jax.Array:
        """The score `(...)` of pairs that were pooled."""
        return self._score(pooled, Terms())

    def score(
        self,
        reference: Features,
        distorted: Features,
        *,
        terms: Terms | None = None,
    ) -> jax.Array:
        """The score `(...)` of `compare`, without the maps."""
        pooled = self.pool(reference, distorted)
        return self._score(pooled, Terms() if terms is None else terms)

    def compare(
        self,
        reference: Features,
        distorted: Features,
        *,
        terms: Terms | None = None,
    ) -> Comparison:
        """Compares two Features of the same shapes.

        Args:
          reference: of `extract`.
          distorted: likewise.
          terms: what to change of the score; by default nothing.
        """
        terms = Terms() if terms is None else terms
        pooled, deep_maps, errors = self._differences(reference, distorted)
        classical = {
            name: classical_maps.MAPS[name].quality(error)
            for name, error in errors.items()
        }
        gain = self._gain(pooled.facts, terms)
        scores = self._by_stream(self._stacked(pooled), gain, terms)
        height, width = reference.image.shape[-3:-1]
        maps = {
            name: resize(map_, height, width)
            for name, map_ in self._inputs_of(deep_maps, classical).items()
        }
        # Texture has no map: it is the same at every pixel.
        everywhere = {
            name: jnp.broadcast_to(value[..., None, None], reference.image.shape[:-1])
            for name, value in self._inputs_of(pooled.deep, pooled.classical).items()
        }
        local = {**everywhere, **maps}
        stacked = jnp.stack(list(local.values()), axis=-1)
        fused = self._by_stream(stacked, gain[..., None, None], terms)
        return Comparison(
            score=scores.pop("fused"), streams=scores, maps={**maps, **fused}
        )

    def _inputs_of(
        self, deep: Mapping[str, jax.Array], classical: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The head's inputs that are given, in order: per position, or pooled."""
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

    def _stacked(self, pooled: Pooled) -> jax.Array:
        """The head's inputs `(..., n)`."""
        inputs = self._inputs_of(pooled.deep, pooled.classical)
        return jnp.stack(list(inputs.values()), axis=-1)

    def _score(self, pooled: Pooled, terms: Terms) -> jax.Array:
        gain = self._gain(pooled.facts, terms)
        return self._fuse(self._stacked(pooled), gain, terms)

    def _gain(self, facts: jax.Array, terms: Terms) -> jax.Array:
        return self.gain(facts) if terms.facts else jnp.ones(facts.shape[:-1])

    def _by_stream(
        self, inputs: jax.Array, gain: jax.Array, terms: Terms
    ) -> dict[str, jax.Array]:
        """Head and gain on inputs `(..., n)`: on all, and on each stream alone."""
        streams = list(self._inputs().values())
        scores = {"fused": self._fuse(inputs, gain, terms)}
        for stream in self.streams:
            chosen = np.array([of == stream for of in streams])
            chosen = chosen.reshape(*(1,) * (inputs.ndim - 1), -1)
            scores[stream] = self._fuse(jnp.where(chosen, inputs, 0.0), gain, terms)
        return scores

    def _fuse(self, inputs: jax.Array, gain: jax.Array, terms: Terms) -> jax.Array:
        """Head and gain on inputs `(..., n)`."""
        leading = (1,) * (inputs.ndim - 1)
        if terms.stream_weights:
            weights = [
                jnp.asarray(terms.stream_weights.get(stream, 1.0), jnp.float32)
                for stream in self._inputs().values()
            ]
            inputs = inputs * jnp.stack(weights).reshape(*leading, -1)
        score = self.head(inputs)
        if terms.uniform is not None:
            alike = np.array(self._uniform(), np.float32).reshape(*leading, -1)
            untrained = (alike * inputs).sum(-1)
            score = (1 - terms.uniform) * score + terms.uniform * untrained
        return gain * score

    def stages(self, reference: jax.Array, distorted: jax.Array) -> dict[str, Any]:
        """All that a score is made of, in the order in which it is computed.

        It is for comparing implementations and machines, stage by stage.

        Args:
          reference: images `(..., H, W, 3)` in [0, 1].
          distorted: images of the same shape.

        Returns:
          By name: "image" and "normalised" of both images; "tap" of both and each tap,
          `(..., h, w, C)`; "squares", "structure" and "texture" of each tap,
          `(..., C)`; "map" of each classical map, its errors `(..., H, W)`, and
          "classical", the quality of their mean `(...)`; "facts" `(..., 3)`; "inputs"
          of the head `(..., n)`; "head", "gain" and "score" `(...)`.
        """
        found: dict[str, Any] = {}
        images = {"reference": reference, "distorted": distorted}
        for name, image in images.items():
            found[f"image {name}"] = image
        for name, image in images.items():
            found[f"normalised {name}"] = self.backbone.normalize(image)
        features = {name: self.extract(image) for name, image in images.items()}
        for tap in self.backbone.taps:
            for name in images:
                found[f"tap {tap} {name}"] = features[name].taps[tap]
        pooled = self.pool(*features.values())
        for tap in self.backbone.taps:
            for statistic in ("squares", "structure", "texture"):
                found[f"{statistic} {tap}"] = pooled.deep[_input(tap, statistic)]
        errors = classical_maps.errors(reference, distorted, names=self.classical)
        for name, error in errors.items():
            found[f"map {name}"] = error
        for name, value in pooled.classical.items():
            found[f"classical {name}"] = value
        found["facts"] = pooled.facts
        found["inputs"] = self._stacked(pooled)
        found["head"] = self.head(found["inputs"])
        found["gain"] = self.gain(pooled.facts)
        differ = jnp.any(reference != distorted, axis=(-3, -2, -1))
        found["score"] = jnp.where(differ, found["gain"] * found["head"], 0.0)
        return found

    def __call__(self, reference: jax.Array, distorted: jax.Array) -> Comparison:
        """Compares images of one shape, in [0, 1]; what `init` runs."""
        return self.compare(self.extract(reference), self.extract(distorted))

    def touch(self, image: jax.Array) -> None:
        """Meets every parameter once; what `init` runs where it must be quick.

        The classical maps have no parameters, and take longest to trace.
        """
        deep = {
            _input(tap, statistic): jnp.zeros(x.shape[-1:])
            for tap, x in self.extract(image).taps.items()
            for statistic in STATISTICS
        }
        classical = {name: jnp.zeros(()) for name in self.classical}
        self.score_pooled(Pooled(deep=deep, classical=classical, facts=jnp.zeros(3)))


def initialize(module: Spips, *, key: jax.Array | None = None) -> dict[str, Any]:
    """Initial parameters of all but the backbone, which is not run for it.

    Args:
      module: the network.
      key: for the random ones, which do not show in the score before training; by
        default `jax.random.key(0)`.
    """

    @jax.jit
    def init(key: jax.Array) -> dict[str, Any]:
        image = jnp.zeros((module.min_size, module.min_size, 3), jnp.float32)
        params = dict(module.init(key, image, method="touch")["params"])
        del params["backbone"]  # so its part of the program goes, too
        return params

    return init(jax.random.key(0) if key is None else key)


def _input(tap: str, statistic: str) -> str:
    """The name of a head's input; the paper's own, the squares', is the tap's."""
    return tap if statistic == "squares" else f"{tap}_{statistic}"
