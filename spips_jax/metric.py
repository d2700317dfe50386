"""Metric: a network and its variables in one value that compares images."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from spips_jax import images, model_file, weights
from spips_jax.calibration import Calibration, fit_choices, fit_opinions
from spips_jax.images import Images
from spips_jax.process import check_process
from spips_jax.spips import Comparison, Features, Spips


@nnx.register_data_type  # so that an attribute of an nnx.Module may be one
@flax.struct.dataclass(eq=False, repr=False)  # compared by identity, like functions
class Metric:
    """A full-reference image quality metric.

    A pytree whose leaves are its weights: it can be an argument of `jax.jit`,
    `jax.grad`, `jax.vmap` or `jax.pmap`, be mapped by `jax.tree.map` and be saved in a
    checkpoint. Calling it is pure and compiled on first use for each shape of images.
    Programs take memory (20 to 30 MB of spips-lite on a CPU), so after 16 shapes the
    earlier ones are dropped, and compiled again where they return.

    Images are arrays `(..., H, W, 3)`, RGB as stored, H and W at least 32 for SPIPS;
    for others see `module.min_size`. Floats lie in `value_range`, uint8 means (0, 255).
    Leading dimensions broadcast, so one reference can meet a batch.
    `spips_jax.images` states the contract in full.

    >>> import numpy as np, spips_jax
    >>> metric = spips_jax.load()
    >>> image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    >>> float(metric(image, image)), bool(metric(image, 255 - image) > 0)
    (0.0, True)

    Attributes:
      variables: the network's Flax variables.
      module: the network, with the methods `extract`, `compare` and, where it is less
        work, `score` of `spips_jax.spips.Spips`.
      name: the model's name.
      calibration: a map from scores to opinions; None where there is none.
      card_json: the model's card as JSON; "" where there is none. `card` reads it.
    """

    variables: Any
    module: Any = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="")
    calibration: Calibration | None = flax.struct.field(pytree_node=False, default=None)
    # Text, because what is not a leaf of a pytree must be hashable.
    card_json: str = flax.struct.field(pytree_node=False, default="")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Metric:
        """Reads the SPIPS model that `save` or `spips train export` wrote.

        `spips_jax.load` loads models by name, too.

        Args:
          path: the file, .safetensors.
          weights: the backbone's file, for a model that leaves it out; by default the
            one in the cache folder.
          dtype: of the backbone's arithmetic.

        Raises:
          WeightsError: a file is missing, damaged or not a model's, or the backbone is
            another than the one that the model was trained on.
        """
        model = model_file.read_model(path, backbone=weights, dtype=dtype)
        return cls(
            variables={"params": model.params},
            module=model.module,
            name=model.name,
            calibration=model.calibration,
            card_json=json.dumps(model.card),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes this SPIPS model, with its calibration and card, for `load` to read.

        The file is written whole or not at all. A published backbone (AlexNet, VGG16,
        ...) that is still the one that the model was trained on is left out, as its
        card says, and `load` needs its file; any other is in the file.

        Raises:
          ValueError: this metric is not a SPIPS model.
          WeightsError: a parameter is missing, extra or misshapen.
          OSError: the file cannot be written.
        """
        if not isinstance(self.module, Spips):
            raise ValueError(f"{self.name} is not a SPIPS model: only those are saved")
        params, card = self.variables["params"], self.card
        left_out = not card.get("backbone_in_file", True) and (
            weights.digest(params[weights.BACKBONE]) == card["backbone_sha256"]
        )
        model = model_file.Model(
            name=self.name,
            module=self.module,
            params=params,
            calibration=self.calibration,
            card=card,
        )
        model_file.write_model(path, model, with_backbone=not left_out)

    @property
    def card(self) -> dict[str, Any]:
        """How the model was made and how good it is; empty where nothing is known.

        With the calibration that this metric has.
        """
        card = json.loads(self.card_json or "{}")
        if self.calibration is not None:
            card["calibration"] = self.calibration.to_dict()
        return card

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.variables)
        count = sum(getattr(leaf, "size", 0) for leaf in leaves)
        parts = [repr(self.name), f"{type(self.module).__name__}"]
        backbone = getattr(self.module, "backbone", None)
        if backbone is not None:
            parts.append(f"backbone {backbone.network or type(backbone).__name__}")
        parts.append(f"{count:,} parameters")
        if self.calibration is not None:
            known = self.calibration
            parts.append(f"calibrated to {known.opinion} of {known.dataset}")
        return f"Metric({', '.join(parts)})"

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score means a better image; False for every distance."""
        return self.module.higher_is_better

    @property
    def made_by(self) -> str:
        """What `features` of this metric have as `made_by`."""
        kind = type(self.module).__name__
        backbone = getattr(self.module, "backbone", None)
        if backbone is None:
            return kind
        return f"{kind} over {backbone.network} in {jnp.dtype(backbone.dtype)}"

    def __call__(
        self,
        reference: Images | Features,
        distorted: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> jax.Array:
        """Scores distorted images against their references.

        Args:
          reference: images `(..., H, W, 3)`, or what `features` returned for them.
          distorted: images `(..., H, W, 3)`.
          value_range: lowest and highest value of both, where they are floats.

        Returns:
          float32 `(...)`. Of SPIPS: exactly 0 for identical images, never negative,
          larger is worse. It is not symmetric: exchanged images score differently, by
          5 to 9 % in the median and up to 53 % (docs/method.md).

        Raises:
          ImageError: images that break the contract; see `images.check_images`.
        """
        return run(_score, *self._checked(reference, distorted, value_range))

    def explain(
        self,
        reference: Images | Features,
        distorted: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Comparison:
        """Scores as `__call__` does, and returns the parts the score is made of.

        Returns:
          A `Comparison`: `score`, the score of each stream alone in `streams`, and
          `maps` at the images' size. Of SPIPS, the maps named after a tap, its
          "_structure", "psnr", "ssim" and "ms_ssim" are the head's inputs where they
          are; "perceptual", "semantic", "classical" and "fused" are the head applied at
          every pixel, in the unit of the score.
        """
        return run(_explain, *self._checked(reference, distorted, value_range))

    def features(
        self,
        reference: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Features:
        """Returns the features of `reference`, which later calls take in its place.

        The score is the same. Comparing one reference with many images this way runs
        the network once for each image instead of twice.

        Args:
          reference: images `(..., H, W, 3)`.
          value_range: their lowest and highest value, where they are floats.

        Raises:
          ImageError: images that break the contract; see `images.check_images`.
        """
        self._check(reference, value_range, name="reference")
        image = images.to_unit_range(reference, value_range=value_range)
        features: Features = run(_features, self.plain(), image)
        return dataclasses.replace(features, made_by=self.made_by)

    def calibrate(
        self,
        scores: Any,
        opinions: ArrayLike,
        *,
        opinion: str,
        dataset: str,
        scale: tuple[float, float] | None = None,
    ) -> Metric:
        """Returns this metric with a calibration, which maps its scores to opinions.

            calibrated = metric.calibrate(
                scores, mos, opinion="mos", scale=(0, 9), dataset="tid2013"
            )
            calibrated.calibration(metric(reference, distorted))  # the MOS to expect
            calibrated.save("calibrated.safetensors")

        Needs SciPy, which the extra [data] brings.

        Args:
          scores: `(N,)`, this metric's, on images that it was not trained on; for
            "preference" two such, (d0, d1), of image 0 and of image 1.
          opinions: `(N,)`, what people said; for "preference" the shares of votes for
            image 1, in [0, 1].
          opinion: "mos" (higher is better), "dmos" (higher is worse) or "preference".
          dataset: the name of the set that these are of.
          scale: lowest and highest opinion there can be; None for "preference".

        Raises:
          ValueError: the data cannot be fitted, or this metric is no distance.
        """
        if self.higher_is_better:
            raise ValueError(
                f"{self.name} is higher for better images: only distances are"
                " calibrated"
            )
        if opinion != "preference":
            if scale is None:
                raise ValueError(f"scale is None: give lowest and highest {opinion}")
            fitted = fit_opinions(
                scores, opinions, opinion=opinion, scale=scale, dataset=dataset
            )
            return dataclasses.replace(self, calibration=fitted)
        if scale is not None:
            raise ValueError(f"scale is {scale}: leave it out, a preference is a share")
        if len(scores) != 2:
            raise ValueError(
                f"scores are {len(scores)}: preferences need those of two images,"
                " (d0, d1)"
            )
        d0, d1 = scores
        fitted = fit_choices(d0, d1, opinions, dataset=dataset)
        return dataclasses.replace(self, calibration=fitted)

    def plain(self) -> Metric:
        """Without calibration and card, on which no compiled program depends."""
        return dataclasses.replace(self, calibration=None, card_json="")

    def _checked(
        self,
        reference: Images | Features,
        distorted: Images,
        value_range: tuple[float, float],
    ) -> tuple[Metric, jax.Array | Features, jax.Array]:
        """Both images checked and in [0, 1]."""
        self.check(reference, distorted, value_range=value_range)
        unit_range = partial(images.to_unit_range, value_range=value_range)
        if isinstance(reference, Features):
            return self.plain(), reference, unit_range(distorted)
        return self.plain(), unit_range(reference), unit_range(distorted)

    def check(
        self,
        reference: Images | Features,
        distorted: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Raises `ImageError` for images that this metric cannot compare.

        Features of another kind of metric, backbone or precision are a `ValueError`.
        """
        self._check(distorted, value_range, name="distorted")
        if isinstance(reference, Features):
            if reference.made_by not in ("", self.made_by):
                raise ValueError(
                    f"features are of {reference.made_by}, {self.name or 'the metric'}"
                    f" is {self.made_by}: use features of its own"
                )
            images.check_same_size(reference.image.shape, distorted.shape)
            return
        self._check(reference, value_range, name="reference")
        images.check_same_size(reference.shape, distorted.shape)

    def _check(
        self, array: Images, value_range: tuple[float, float], *, name: str
    ) -> None:
        check_process()
        images.check_images(
            array,
            value_range=value_range,
            name=name,
            min_size=self.module.min_size,
            needed_by=self.name or type(self.module).__name__,
        )


SIZES_KEPT = 16
"""How many sizes of images a metric's programs are kept of: half a GB of spips-lite's.

`jax.jit` itself keeps them of all.
"""

_sizes_met: dict[Any, dict[Any, set[Any]]] = {}
"""By function and network: the sizes that there may be programs of."""

_sizes_lock = threading.Lock()


def run(
    function: Any, metric: Metric, *images: Images | Features, **options: Any
) -> Any:
    """Calls a compiled function, whose programs it drops after too many sizes.

    It drops all of them: to drop the oldest alone would be no better where sizes come
    in turns. A program that another thread runs, or that a program of the caller's
    contains, is not affected.

    Args:
      function: what `jax.jit` returned.
      metric: its first argument.
      *images: those that follow, `(..., H, W, 3)`.
      **options: the others.
    """
    shapes = tuple(
        x.image.shape if isinstance(x, Features) else x.shape for x in images
    )
    size = (*map(type, images), *shapes)
    with _sizes_lock:
        met = _sizes_met.setdefault(function, {})
        full = len(met.setdefault(metric.module, set()) | {size}) > SIZES_KEPT
        if full:
            met.clear()
        met.setdefault(metric.module, set()).add(size)
    if full:
        function.clear_cache()
    return function(metric, *images, **options)


@jax.jit
def _features(metric: Metric, reference: jax.Array) -> Features:
    return metric.module.apply(metric.variables, reference, method="extract")


@jax.jit
def _score(
    metric: Metric, reference: jax.Array | Features, distorted: jax.Array
) -> jax.Array:
    return score(metric, reference, distorted)


@jax.jit
def _explain(
    metric: Metric, reference: jax.Array | Features, distorted: jax.Array
) -> Comparison:
    return compare(metric, reference, distorted)


def score(
    metric: Metric,
    reference: jax.Array | Features,
    distorted: jax.Array,
    **options: Any,
) -> jax.Array:
    """The score alone of `compare`, `(...)`, with its arguments and errors."""
    method = "score" if hasattr(metric.module, "score") else "compare"
    found = _of_both(metric, reference, distorted, method=method, **options)
    return found if method == "score" else found.score


def compare(
    metric: Metric,
    reference: jax.Array | Features,
    distorted: jax.Array,
    **options: Any,
) -> Comparison:
    """Compares images `(..., H, W, 3)` in [0, 1], without checks.

    Args:
      metric: whose network compares them.
      reference: images, or their features.
      distorted: images.
      **options: of the network's `compare`.

    Raises:
      ValueError: the features have other channels than this network's.
    """
    return _of_both(metric, reference, distorted, method="compare", **options)


def _of_both(
    metric: Metric,
    reference: jax.Array | Features,
    distorted: jax.Array,
    *,
    method: str,
    **options: Any,
) -> Any:
    """What a method of the network returns for the features of both."""
    extract = partial(metric.module.apply, metric.variables, method="extract")
    # Separately, not as one batch: scoring takes the same time, and the gradient with
    # respect to one image, as a loss needs it, skips the other. That saves a third.
    first = reference if isinstance(reference, Features) else extract(reference)
    second = extract(distorted)
    theirs, ours = (
        ", ".join(f"{tap} {x.shape[-1]}" for tap, x in sorted(features.taps.items()))
        for features in (first, second)
    )
    if theirs != ours:  # networks may name their taps alike
        raise ValueError(
            f"features of {theirs} channels are another metric's: {metric.name}"
            f" compares {ours}; use its own"
        )
    batch = jnp.broadcast_shapes(first.image.shape[:-3], second.image.shape[:-3])
    first, second = (
        jax.tree.map(lambda x: jnp.broadcast_to(x, batch + x.shape[-3:]), features)
        for features in (first, second)
    )
    found = metric.module.apply(
        metric.variables, first, second, method=method, **options
    )
    if metric.higher_is_better:
        return found
    # Distances of identical images are 0 by the formula. A compiler may round the
    # features of two identical images differently, by their place in a batch.
    differ = jnp.any(first.image != second.image, axis=(-3, -2, -1))

    def exact(x: jax.Array) -> jax.Array:
        keep = differ.reshape(differ.shape + (1,) * (x.ndim - differ.ndim))
        return jnp.where(keep, x, 0.0)

    return jax.tree.map(exact, found)
