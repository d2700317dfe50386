"""A metric as the loss of an image model.

`metric(reference, distorted).mean()` is a loss, too. `perceptual_loss` has what models
need beside that, and refuses what makes a loss wrong without making it fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spips_jax import images
from spips_jax.images import ImageError, Images
from spips_jax.messages import UserError, one_of
from spips_jax.metric import Metric, run, score
from spips_jax.spips import Features, Spips, Terms

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def perceptual_loss(
    metric: Metric,
    reference: Images | Features,
    distorted: Images,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    weights: ArrayLike | None = None,
    stream_weights: Mapping[str, ArrayLike] | None = None,
    uniform: float | jax.Array = 0.5,
    facts: bool = False,
    crop: int | None = None,
    key: jax.Array | None = None,
    chunk: int | None = None,
    per_example: bool = False,
) -> Float[Array, ""] | Float[Array, "*batch"]:
    """How far images are from their targets, as a model can learn from it.

        def loss_fn(params, metric, clean, noisy):
            output = denoise(params, noisy)
            return perceptual_loss(metric, clean, output, value_range=(-1, 1))

    The mean over a batch of scores: of SPIPS (arXiv 2504.17234) changed in two ways, of
    any other distance as they are. The score of a trained SPIPS orders images that
    exist, and leaves out what that doesn't need: an image can be far from its target
    where the head does not look, and one with too much contrast counts as better, as it
    does for people. A model that descends the score finds such images (docs/loss.md
    shows them). So half of this loss is the untrained score, in which all of SPIPS's
    parts share alike and which only the target itself brings to 0, and facts of the
    pair, such as a raised contrast, do not scale it.

    Compiled and pure, with reverse and forward mode. No gradient goes into the
    reference.

    Args:
      metric: the metric; where it is an argument of the compiled step, its weights are
        no constants of the program.
      reference: the targets `(..., H, W, 3)`, or their `metric.features`, computed once
        outside the gradient.
      distorted: the model's output `(..., H, W, 3)`, floating; leading dimensions
        broadcast.
      value_range: lowest and highest value of both, such as (-1, 1).
      weights: what to multiply each example's score by, 0 or more, to broadcast with
        the batch's shape `(...)`. They are not normalised: the loss is the mean of the
        weighted scores.
      stream_weights: what to multiply parts of SPIPS by, 0 or more, by name:
        "perceptual", "semantic", "classical"; 1 where none is given.
      uniform: the share of the untrained score, in [0, 1]. SPIPS's only.
      facts: whether facts of the pair scale the loss as they do the score. SPIPS's
        only; with a `uniform` of 0 the loss is then the mean score.
      crop: side in pixels of a random square, anew for each example and the same for
        its target; by default whole images.
      key: for the squares' places.
      chunk: how many examples to compare at a time; it must divide the batch. Memory is
        then that of so many, for a second forward pass. Every (batch / chunk)-th
        example is in one chunk, so a batch that is split over devices stays so as long
        as their number divides the chunk.
      per_example: whether to return weighted scores `(...)` in place of their mean.

    Returns:
      float32, 0 or more, larger is worse; exactly 0 where images are their targets.

    Raises:
      ImageError: images that break the contract (see `images.check_images`), are not
        floating, or are smaller than the crop.
      ValueError: an option is not as said here; the features are of another kind of
        metric, backbone or precision; the metric is higher for better images.
    """
    metric.check(reference, distorted, value_range=value_range)
    dtype = distorted.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ImageError(
            f"distorted has dtype {dtype}: a loss needs the model's output as floats,"
            " before it is rounded"
        )
    if metric.higher_is_better:
        raise UserError(
            f"{metric.name} is higher for better images: a loss must be a distance;"
            " minimise its negative yourself"
        )
    shape = _shape(reference)
    batch = jnp.broadcast_shapes(shape[:-3], distorted.shape[:-3])
    _check_crop(crop, key, reference, metric)
    _check_chunk(chunk, batch)
    return run(
        _loss,
        metric.plain(),
        reference,
        distorted,
        weights=_checked_weights(weights, batch),
        terms=_checked_terms(metric, stream_weights, uniform, facts),
        key=key,
        value_range=(float(value_range[0]), float(value_range[1])),
        crop=crop,
        chunk=chunk,
        per_example=per_example,
    )


def _shape(reference: Images | Features) -> tuple[int, ...]:
    image = reference.image if isinstance(reference, Features) else reference
    shape: tuple[int, ...] = image.shape
    return shape


def _check_crop(
    crop: int | None,
    key: jax.Array | None,
    reference: Images | Features,
    metric: Metric,
) -> None:
    if (crop is None) != (key is None):
        given, missing = ("key", "crop") if crop is None else ("crop", "key")
        raise UserError(f"{given} is given and {missing} is None: give both or neither")
    if crop is None:
        return
    if isinstance(reference, Features):
        raise UserError(
            f"crop is {crop} and reference is features, which are of whole images: give"
            " the images"
        )
    least = metric.module.min_size
    if crop != int(crop) or crop < least:
        raise UserError(
            f"crop is {crop}: {metric.name or 'the metric'} needs a side of at least"
            f" {least} pixels"
        )
    shortest = min(reference.shape[-3:-1])
    if crop > shortest:
        raise ImageError(
            f"crop is {crop} and a side of the images is {shortest}: take a smaller one"
        )


def _check_chunk(chunk: int | None, batch: tuple[int, ...]) -> None:
    if chunk is None:
        return
    count = int(np.prod(batch))
    if chunk != int(chunk) or chunk < 1 or count % chunk:
        raise UserError(
            f"chunk is {chunk} and the batch has {count} examples: take a whole number"
            " that divides it"
        )


def _checked_weights(
    weights: ArrayLike | None, batch: tuple[int, ...]
) -> jax.Array | None:
    if weights is None:
        return None
    shape = np.shape(weights)
    try:
        fits = jnp.broadcast_shapes(shape, batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"weights have shape {shape}, the batch has {batch}: give a weight for each"
            " example"
        )
    _check_values("weights", weights)
    return jnp.broadcast_to(jnp.asarray(weights, jnp.float32), batch)


def _checked_terms(
    metric: Metric,
    by_name: Mapping[str, ArrayLike] | None,
    uniform: float | jax.Array,
    facts: bool,
) -> Terms | None:
    by_name = by_name or {}
    if not isinstance(metric.module, Spips):
        if by_name:
            raise UserError(
                f"stream_weights are given and {metric.name} has no streams: leave them"
                " out"
            )
        return None
    if np.shape(uniform) != ():
        raise UserError(f"uniform has shape {np.shape(uniform)}: give a number")
    if not (isinstance(uniform, jax.core.Tracer) or 0 <= float(uniform) <= 1):
        raise UserError(f"uniform is {uniform}: give a share from 0 to 1")
    streams = metric.module.streams
    for name, weight in by_name.items():
        if name not in streams:
            raise UserError(one_of("stream", name, streams))
        if np.shape(weight) != ():
            raise UserError(
                f"stream_weights[{name!r}] has shape {np.shape(weight)}: give a number"
            )
        _check_values(f"stream_weights[{name!r}]", weight)
    # No share, no sum: the score to the last bit.
    none = not isinstance(uniform, jax.core.Tracer) and float(uniform) == 0
    return Terms(
        stream_weights=dict(by_name) or None,
        uniform=None if none else uniform,
        facts=facts,
    )


def _check_values(name: str, weights: Any) -> None:
    """Weights that are traced have no values to check."""
    if isinstance(weights, jax.core.Tracer):
        return
    values = np.asarray(weights)
    if not (np.isfinite(values) & (values >= 0)).all():
        worst = values[~(np.isfinite(values) & (values >= 0))].flat[0]
        raise UserError(f"{name} has {worst}: give finite numbers from 0 on")


@partial(jax.jit, static_argnames=("value_range", "crop", "chunk", "per_example"))
def _loss(
    metric: Metric,
    reference: jax.Array | Features,
    distorted: jax.Array,
    *,
    weights: jax.Array | None,
    terms: Terms | None,
    key: jax.Array | None,
    value_range: tuple[float, float],
    crop: int | None,
    chunk: int | None,
    per_example: bool,
) -> jax.Array:
    reference = jax.lax.stop_gradient(reference)
    batch = jnp.broadcast_shapes(_shape(reference)[:-3], distorted.shape[:-3])
    if crop is not None:
        assert key is not None
        assert not isinstance(reference, Features)
        reference, distorted = _cropped(key, crop, batch, reference, distorted)
    unit_range = partial(images.to_unit_range, value_range=value_range)
    if not isinstance(reference, Features):
        reference = unit_range(reference)
    options = {} if terms is None else {"terms": terms}

    def scored(pair: tuple[jax.Array | Features, jax.Array]) -> jax.Array:
        return score(metric, pair[0], unit_range(pair[1]), **options)

    pair = reference, distorted
    if chunk is None or chunk == int(np.prod(batch)):
        scores = scored(pair)
    else:
        scores = _by_chunks(scored, pair, batch, chunk)
    if weights is not None:
        scores = scores * weights
    return scores if per_example else scores.mean()


def _cropped(
    key: jax.Array, side: int, batch: tuple[int, ...], *pair: jax.Array
) -> list[jax.Array]:
    """The same square of both images of each pair."""
    height, width = pair[0].shape[-3:-1]
    rows, columns = (
        jax.random.randint(one, batch, 0, length - side + 1)
        for one, length in zip(jax.random.split(key), (height, width), strict=True)
    )

    def cut(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (row, column, 0), (side, side, 3))

    for _ in batch:
        cut = jax.vmap(cut)
    return [cut(jnp.broadcast_to(x, batch + x.shape[-3:]), rows, columns) for x in pair]


def _by_chunks(
    score: Any,
    pair: tuple[jax.Array | Features, jax.Array],
    batch: tuple[int, ...],
    chunk: int,
) -> jax.Array:
    """Scores `batch` of a pair, so many examples at a time.

    The first of two axes is the chunk's: a batch that is split over devices stays where
    it is, and the loop runs over the other.
    """

    def split(x: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x, batch + x.shape[-3:])
        return jnp.moveaxis(x.reshape(chunk, -1, *x.shape[-3:]), 1, 0)

    scores = jax.lax.map(jax.checkpoint(score), jax.tree.map(split, pair))
    return jnp.moveaxis(scores, 0, 1).reshape(batch)
