"""Images as people have them, as arrays of the package's contract."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.image_files import read_image
from spips_jax.images import ImageError, Images


def as_image(image: Any, *, channels_first: bool = False) -> Images:
    """Returns an image or a batch as an array `(..., H, W, 3)`, values as they are.

        metric(as_image("photo.png"), as_image(output, channels_first=True))

    Args:
      image: the path of a file, which `read_image` reads; a Pillow image, RGB or grey;
        a NumPy or JAX array; or a tensor of PyTorch or whatever else has DLPack, which
        is shared with JAX where its device allows, without its gradient.
      channels_first: whether arrays and tensors are `(..., 3, H, W)`, as PyTorch has
        them. It is never guessed; paths and Pillow images have no such order.

    Raises:
      ImageError: none of these, a file that cannot be read, a Pillow image of another
        mode, or channels that are not where they were said to be.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if type(image).__module__.partition(".")[0] == "PIL":
        if image.mode not in ("RGB", "L"):
            raise ImageError(
                f"image is of mode {image.mode}: give RGB or grey, as by"
                " image.convert('RGB')"
            )
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray | jax.Array):
        if not hasattr(image, "__dlpack__"):
            raise ImageError(
                f"image is a {type(image).__module__}.{type(image).__name__}: give a"
                " path, a Pillow image, an array or a tensor"
            )
        if hasattr(image, "detach"):
            image = image.detach().contiguous()  # DLPack takes no gradient with it
        image = jnp.from_dlpack(image)
    axis = -3 if channels_first else -1
    if image.ndim < 3 or image.shape[axis] != 3:
        order = "(..., 3, H, W)" if channels_first else "(..., H, W, 3)"
        raise ImageError(
            f"image has shape {image.shape}, not {order}: channels_first says which"
        )
    if not channels_first:
        return image
    return (
        np.moveaxis(image, -3, -1)
        if isinstance(image, np.ndarray)
        else jnp.moveaxis(image, -3, -1)
    )
