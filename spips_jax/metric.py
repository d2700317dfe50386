"""Metric: a network and its variables in one value that compares images."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from spips_jax import backbones, images, model_file, weights
from spips_jax.calibration import Calibration, fit_choices, fit_opinions
from spips_jax.images import Images
from spips_jax.spips import Comparison, Features, Spips

MODELS = {f"spips-{network}": network for network in backbones.BACKBONES}
"""Names of the SPIPS models and of the backbone that each stands on."""


@flax.struct.dataclass(eq=False)  # compared and hashed by identity, like functions
class Metric:
    """A full-reference image quality metric.

    A pytree whose leaves are its weights: it can be an argument of `jax.jit`,
    `jax.grad`, `jax.vmap` or `jax.pmap`, be mapped by `jax.tree.map` and be saved in a
    checkpoint. Calling it is pure and compiled on first use for each shape of images.

    Images are arrays `(..., H, W, 3)`, H and W at least 32, RGB as stored. Floats lie
    in `value_range`, uint8 means (0, 255). Leading dimensions broadcast, so one
    reference can meet a batch. `spips_jax.images` states the contract in full.

    Attributes:
      variables: the network's Flax variables.
      module: the network, with the methods `extract` and `compare` of
        `spips_jax.spips.Spips`.
      name: the model's name.
      calibration: a map from scores to what people would say; None where there is none.
    """

    variables: Any
    module: Any = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="")
    calibration: Calibration | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score means a better image; False for every distance."""
        return self.module.higher_is_better

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
          larger is worse.

        Raises:
          ImageError: images that break the contract; see `images.check_images`.
        """
        return _score(*self._checked(reference, distorted, value_range))

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
        return _explain(*self._checked(reference, distorted, value_range))

    def features(
        self,
        reference: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Features:
        """Returns what stands in for `reference` in later calls, to the same score.

        Comparing one reference with many images this way runs the network once an
        image instead of twice.
        """
        images.check_images(reference, value_range=value_range, name="reference")
        image = images.to_unit_range(reference, value_range=value_range)
        return _features(self._plain(), image)

    def calibrate(
        self,
        scores: Any,
        opinions: ArrayLike,
        *,
        opinion: str,
        dataset: str,
        scale: tuple[float, float] | None = None,
    ) -> Metric:
        """Returns this metric with a calibration: its scores in people's terms.

            calibrated = metric.calibrate(
                scores, mos, opinion="mos", scale=(0, 9), dataset="tid2013"
            )
            calibrated.calibration(metric(reference, distorted))  # the MOS to expect

        `model_file.write_calibration` puts it into a model's file. Needs SciPy, which
        the extra [data] brings.

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

    def _plain(self) -> Metric:
        """Without its calibration, on which no compiled program depends."""
        return dataclasses.replace(self, calibration=None)

    def _checked(
        self,
        reference: Images | Features,
        distorted: Images,
        value_range: tuple[float, float],
    ) -> tuple[Metric, jax.Array | Features, jax.Array]:
        """Both images checked and in [0, 1]."""
        images.check_images(distorted, value_range=value_range, name="distorted")
        unit_range = partial(images.to_unit_range, value_range=value_range)
        if isinstance(reference, Features):
            images.check_same_size(reference.image.shape, distorted.shape)
            return self._plain(), reference, unit_range(distorted)
        images.check_images(reference, value_range=value_range, name="reference")
        images.check_same_size(reference.shape, distorted.shape)
        return self._plain(), unit_range(reference), unit_range(distorted)


@jax.jit
def _features(metric: Metric, reference: jax.Array) -> Features:
    return metric.module.apply(metric.variables, reference, method="extract")


@jax.jit
def _score(
    metric: Metric, reference: jax.Array | Features, distorted: jax.Array
) -> jax.Array:
    return _compare(metric, reference, distorted).score


@jax.jit
def _explain(
    metric: Metric, reference: jax.Array | Features, distorted: jax.Array
) -> Comparison:
    return _compare(metric, reference, distorted)


def _compare(
    metric: Metric, reference: jax.Array | Features, distorted: jax.Array
) -> Comparison:
    extract = partial(metric.module.apply, metric.variables, method="extract")
    # Apart, not as one batch: scoring takes as long, and the gradient in one image
    # alone, a loss's, does not run back through the other. That saves a third.
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
    comparison = metric.module.apply(metric.variables, first, second, method="compare")
    if metric.higher_is_better:
        return comparison
    # Distances of identical images are 0 by the formula. Compilers may round the same
    # features of two images differently, by their place in a batch: make it exact.
    differ = jnp.any(first.image != second.image, axis=(-3, -2, -1))

    def exact(x: jax.Array) -> jax.Array:
        keep = differ.reshape(differ.shape + (1,) * (x.ndim - differ.ndim))
        return jnp.where(keep, x, 0.0)

    return jax.tree.map(exact, comparison)


def load(
    name: str | os.PathLike[str] = "spips-lite",
    *,
    trained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Metric:
    """Loads a SPIPS model.

    "spips-lite", "spips-alexnet" and "spips-squeezenet" come trained with the package;
    spips-lite needs no other file. "spips-vgg16" and "spips-vgg19" come untrained.

    Args:
      name: one of these, or the .safetensors file of a trained model, as `train.py
        export` writes it.
      trained: False takes the uniform head, the mean of the three streams, in place of
        what was learned.
      weights: the backbone's file, as `python -m weights_convert` writes it; by
        default `alexnet.safetensors` and so on in the cache folder (SPIPS_HOME, else
        ~/.cache/spips_jax), and for spips-lite the one in the package. A trained
        model that has a backbone of its own takes no other.
      dtype: of the backbone's arithmetic; float32 for scores to report, bfloat16 where
        speed counts more.

    Returns:
      The metric, with the calibration of the trained model. The name of one that is not
      trained ends with "-untrained".

    Raises:
      ValueError: there is no model of that name, or `trained` is False with a file.
      WeightsError: a file is missing, damaged, another network's, or the backbone is
        not the one that the model was trained on; the message says what to do.
    """
    name = os.fspath(name)
    file: str | os.PathLike[str] | None = name
    if name in MODELS:
        file = model_file.embedded(name)
        if weights is None:
            _check_at_hand(MODELS[name])
    elif not name.endswith(".safetensors"):
        raise ValueError(
            f"model {name!r} is not one of {', '.join(MODELS)}, nor a .safetensors file"
        )
    elif not trained:
        raise ValueError(
            f"trained is False, but {name} is the file of a trained model: give one of"
            f" {', '.join(MODELS)}"
        )
    if file is not None and trained:
        name, module, params, calibration = model_file.read_model(
            file, backbone=weights, dtype=dtype
        )
    else:
        network, calibration = MODELS[name], None
        module = Spips(backbone=backbones.build(network, dtype=dtype))
        params = {**untrained(module), "backbone": read_network(network, weights)}
        name = f"{name}-untrained"
    return Metric(
        variables={"params": params}, module=module, name=name, calibration=calibration
    )


def _check_at_hand(network: str) -> None:
    """Raises `WeightsError` where a published backbone was not yet converted."""
    path = weights.weights_path(network)
    if network in weights.NETWORKS and not path.is_file():
        raise weights.WeightsError(
            f"{path}: no such file; {weights.how_to_get(network)}, or take spips-lite,"
            " which needs no file"
        )


def untrained(module: Spips, *, key: jax.Array | None = None) -> dict[str, Any]:
    """Initial parameters of all but the backbone, which is never run for it.

    Args:
      module: the network.
      key: of what is random in them, which does not show before training.
    """
    key = jax.random.key(0) if key is None else key
    image = jnp.zeros((images.MIN_SIZE, images.MIN_SIZE, 3), jnp.float32)
    features, _ = jax.eval_shape(
        partial(module.init_with_output, method="extract"), key, image
    )
    features = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
    init = jax.jit(partial(module.init, method="compare"))
    return init(key, features, features)["params"]


def read_network(
    network: str, path: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Reads weights as JAX arrays, by default from `weights.weights_path`."""
    path = path or weights.weights_path(network)
    return jax.tree.map(jnp.asarray, weights.read_weights(path, network=network))
