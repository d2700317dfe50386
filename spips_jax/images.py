"""Images: value ranges, dtypes, sizes, ImageNet normalisation.

The array contract of the whole package is stated here, once:

- images are arrays of shape `(..., H, W, 3)`, RGB as stored (gamma-encoded), with any
  leading dimensions, `H` and `W` at least `MIN_SIZE` for SPIPS, or the least size of
  the metric that it is compared with;
- floating dtypes lie in `value_range`, (0, 1) unless another is given; uint8 always
  means (0, 255); no other integer dtype is taken;
- inside the package images are float32 in [0, 1].

Shapes and dtypes are checked always. Values are checked where they can be read, on the
host; under `jax.jit`, `jax.grad` and the like there is nothing to read and no check.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.messages import UserError

MIN_SIZE = 32
"""Smallest height and width, in pixels: below it AlexNet's last features vanish."""

OVERSHOOT = 0.5
"""How far values may lie outside `value_range`, as a share of its width.

Resampling filters and generative models overshoot a little, and their gradients must
live, so values are not clipped; images in another range than the one declared miss by
far more than this.
"""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]: the normalisation of every torchvision network."""


Images = np.ndarray | jax.Array


class ImageError(UserError):
    """An image, or a pair of them, that cannot be scored; one line that says why."""


def check_images(
    images: Images,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    name: str = "images",
    min_size: int = MIN_SIZE,
    needed_by: str = "SPIPS",
) -> None:
    """Raises unless `images` keeps the array contract of this module.

    Args:
      images: a NumPy or JAX array (or tracer) `(..., H, W, 3)`.
      value_range: the declared (lowest, highest) value of a floating array.
      name: what the error calls the array.
      min_size: smallest height and width, in pixels.
      needed_by: what needs that size, for the error.

    Raises:
      ImageError: wrong rank, channels, size or dtype; NaN or inf; values outside
        `value_range` by more than `OVERSHOOT` of its width.
    """
    low, high = value_range
    if not low < high:
        raise ImageError(
            f"value_range is ({low:g}, {high:g}): the first must be below the second"
        )
    if not isinstance(images, np.ndarray | jax.Array):
        raise ImageError(
            f"{name} is a {type(images).__module__}.{type(images).__name__}: give a"
            " NumPy or JAX array"
        )
    shape, dtype = images.shape, images.dtype
    if len(shape) < 3 or shape[-1] != 3:
        raise ImageError(
            f"{name} has shape {shape}: it must be (..., height, width, 3); repeat a"
            " grey image to 3 channels, drop an alpha channel"
        )
    for side, length in (("height", shape[-3]), ("width", shape[-2])):
        if length < min_size:
            raise ImageError(
                f"{name}: {side} {length} is below the {min_size} that {needed_by}"
                " needs"
            )
    if dtype == jnp.uint8:
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ImageError(
            f"{name} has dtype {dtype}: give uint8 (0 to 255) or floats with their"
            " value_range"
        )
    if isinstance(images, jax.core.Tracer) or 0 in shape:
        return
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return
    lowest, highest, finite = _extremes(images)
    if not finite:
        raise ImageError(f"{name} contains NaN or inf: every value must be finite")
    slack = OVERSHOOT * (high - low)
    if lowest < low - slack or highest > high + slack:
        raise ImageError(
            f"{name} has values from {lowest:g} to {highest:g}, far outside its"
            f" value_range ({low:g}, {high:g}): pass the range that it has"
        )


def _extremes(images: Images) -> tuple[float, float, bool]:
    """Least and greatest value, and whether all values are finite."""
    if isinstance(images, jax.Array):
        lowest, highest, finite = jax.device_get(_extremes_on_device(images))
        if not isinstance(finite, jax.core.Tracer):
            return float(lowest), float(highest), bool(finite)
        # The array is concrete, but closed over by a function that is being traced:
        # then its reductions are traced, too. Its values can still be read.
        images = np.asarray(images).astype(np.float32)
    return (
        float(np.min(images)),
        float(np.max(images)),
        bool(np.isfinite(images).all()),
    )


@jax.jit
def _extremes_on_device(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # XLA's minimum and maximum may drop a NaN, so finiteness is a reduction of its own.
    return jnp.min(images), jnp.max(images), jnp.isfinite(images).all()


def check_same_size(
    reference_shape: tuple[int, ...], distorted_shape: tuple[int, ...]
) -> None:
    """Raises `ImageError` unless two image shapes can be compared.

    Height and width must be equal; leading dimensions broadcast, as in NumPy, so that
    one reference can be compared with many images.
    """
    if reference_shape[-3:] != distorted_shape[-3:]:
        raise ImageError(
            f"reference is {_size(reference_shape)}, distorted is"
            f" {_size(distorted_shape)}: a pair must have one size; crop or resize"
        )
    try:
        np.broadcast_shapes(reference_shape[:-3], distorted_shape[:-3])
    except ValueError:
        raise ImageError(
            f"leading dimensions {reference_shape[:-3]} of reference and"
            f" {distorted_shape[:-3]} of distorted do not broadcast"
        ) from None


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-2]}x{shape[-3]} (width x height)"


def to_unit_range(
    images: Images, *, value_range: tuple[float, float] = (0.0, 1.0)
) -> jax.Array:
    """Returns images `(..., H, W, 3)` as float32, `value_range` mapped to [0, 1]."""
    low, high = (0.0, 255.0) if images.dtype == jnp.uint8 else value_range
    images = jnp.asarray(images, jnp.float32)
    if (low, high) == (0.0, 1.0):
        return images
    return (images - low) / (high - low)


def imagenet_normalize(images: jax.Array) -> jax.Array:
    """Returns `(images - mean) / std` with ImageNet's statistics, images in [0, 1]."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = np.asarray(IMAGENET_MEAN, np.float32).reshape(shape)
    std = np.asarray(IMAGENET_STD, np.float32).reshape(shape)
    return (images - mean) / std
