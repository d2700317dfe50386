"""3x3 convolutions by Winograd's minimal filtering, for CPUs.

F(4, 3) computes four outputs of a three-tap filter with six products instead of twelve
(Winograd 1980; for networks Lavin & Gray, "Fast algorithms for convolutional neural
networks", arXiv 1509.09308). Here it is applied along rows only, which halves the
products. Nested over rows and columns it would quarter them, but on CPUs most time goes
into moving the transformed tiles: the nested form was 5 % faster, took four times as
long to compile, and had twice the rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# y = A^T [(G g) * (B^T d)], Lavin & Gray section 4.3: six rows of image d, three of
# kernel g, four of output y.
INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    np.float32,
)

MIN_CHANNELS = 128
MIN_PIXELS = 32 * 32
"""Fewest channels, in and out, and pixels of an image for which it pays.

With fewer channels the transforms outweigh the products that they save, with fewer
pixels the transform of the kernel does. Batch size has no say: what an image scores
must not hang on its company.
"""

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, by `conv3x3` where that pays.

    What `flax.linen.Conv` takes for its own: dimensions are NHWC and HWIO.
    """
    plain = (
        rhs.shape[:-2] == (3, 3)
        and tuple(window_strides) == (1, 1)
        and not isinstance(padding, str)
        and [tuple(pair) for pair in padding] == [(1, 1), (1, 1)]
        and tuple(options.get("lhs_dilation") or (1, 1)) == (1, 1)
        and tuple(options.get("rhs_dilation") or (1, 1)) == (1, 1)
        and options.get("feature_group_count", 1) == 1
        and lhs.dtype == rhs.dtype == jnp.float32
    )
    if (
        plain
        and min(rhs.shape[-2:]) >= MIN_CHANNELS
        and lhs.shape[1] * lhs.shape[2] >= MIN_PIXELS
    ):
        return conv3x3(lhs, rhs)
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


# Checkpointed, so that a gradient keeps the arguments alone and not what the branches
# for every platform would; what it recomputes is the transform of the kernel, no more.
@partial(jax.checkpoint, prevent_cse=False)
def conv3x3(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution 3x3 with stride 1, zeros around the image, at `Precision.HIGHEST`.

    By Winograd's algorithm where the program runs on a CPU, by XLA's own elsewhere;
    the choice is made when it is compiled. Made of plain operations either way, so
    that every transform of JAX applies.

    Args:
      images: float32 `(N, H, W, C)`, H and W at least 1.
      kernel: float32 `(3, 3, C, F)`.

    Returns:
      float32 `(N, H, W, F)`.
    """
    return jax.lax.platform_dependent(images, kernel, cpu=_winograd, default=_direct)


def _direct(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(images, kernel, padding=((1, 1), (1, 1)))


def _convolve(
    images: jax.Array, kernel: jax.Array, *, padding: Sequence[tuple[int, int]]
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=_DIMENSIONS,
        precision=jax.lax.Precision.HIGHEST,
    )


def _winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    n, height, width, channels = images.shape
    tiles = -(-height // 4)
    if height % 4:
        pad = 4 * tiles - height
        images = jnp.pad(images, ((0, 0), (0, pad), (0, 0), (0, 0)))
    # Every tile's four rows, and one more above and below from its neighbours. Split,
    # unlike indexing, has a gradient that is one concatenation.
    rows = jax.lax.split(
        images.reshape(n, tiles, 4, width, channels), (1, 1, 1, 1), axis=2
    )
    inner = [row.reshape(n, tiles, width, channels) for row in rows]
    patch = [_shift(inner[3], 1), *inner, _shift(inner[0], -1)]
    # A product of matrices, though sums would do: XLA fuses sums into the transposition
    # of the kernel that the gradient needs, at twenty times its cost.
    kernels = jnp.tensordot(KERNEL, kernel, 1, precision=jax.lax.Precision.HIGHEST)
    products = [
        _convolve(row, kernels[i : i + 1], padding=((0, 0), (1, 1)))
        for i, row in enumerate(_combine(INPUT, patch))
    ]
    outputs = jnp.stack(_combine(OUTPUT, products), axis=2)
    return outputs.reshape(n, 4 * tiles, width, -1)[:, :height]


def _shift(rows: jax.Array, by: int) -> jax.Array:
    """Moves `(N, tiles, W, C)` by one tile, zeros coming in."""
    zero = jnp.zeros((), rows.dtype)
    return jax.lax.pad(rows, zero, [(0, 0, 0), (by, -by, 0), (0, 0, 0), (0, 0, 0)])


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """`matrix @ parts` for a list of arrays, written out so that XLA fuses it."""
    sums = []
    for row in matrix:
        terms = [
            part if weight == 1 else float(weight) * part
            for weight, part in zip(row, parts, strict=True)
            if weight
        ]
        sums.append(sum(terms[1:], start=terms[0]))
    return sums
