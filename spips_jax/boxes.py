"""Boxes: images that lie side by side on a canvas, and what is summed over each.

A compiled program takes arrays of one shape. An image of any other shape is placed on a
canvas of that shape, beside others, and what the program computes of it must not depend
on what is around it. So a `Boxes` says where each image lies, follows it through the
layers of a network, whose strides divide `ALIGNMENT`, and masks what is outside.

An image too large for a canvas is cut into pieces that overlap. A piece is an image
like others, but for its `counted` part: sums run over that alone, so that the sums over
all pieces are those over the image.

Sums and their inverse are products with 0/1 matrices, one for rows and one for columns,
which are fast on every device and compile in no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

ALIGNMENT = 16
"""Images begin at multiples of this, in pixels: the stride of every network's last tap
and of MS-SSIM's last scale. Between two of them there are as many pixels or more."""

BORDER = 5
"""Pixels that surround each image, its edges mirrored: half of SSIM's window."""

_PRECISION = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Span:
    """Where each of S images lies along one axis, in positions `(S,)`, int32.

    Attributes:
      begin: the first position of the image.
      end: the position after its last; `begin` where there is no image.
      start: the first position that is counted.
      stop: the position after the last that is counted.
      ends: whether what is counted ends where the image does.
    """

    begin: Any
    end: Any
    start: Any
    stop: Any
    ends: Any

    @classmethod
    def of(cls, table: Any) -> Span:
        """From begin, end, start, stop and ends `(5, S)`."""
        return cls(table[0], table[1], table[2], table[3], table[4] > 0)

    def strided(self, stride: int, length: Callable[[Any], Any]) -> Span:
        """After a layer of a stride, which makes `length(n)` positions of n."""
        begin = self.begin // stride
        there = self.end > self.begin
        made = jnp.maximum(length(self.end - self.begin), 0)
        end = begin + jnp.where(there, made, 0)
        start = self.start // stride
        stop = jnp.where(self.ends, end, jnp.minimum(self.stop // stride, end))
        return Span(begin, end, start, jnp.maximum(stop, start), self.ends)

    def inner(self, edge: int) -> Span:
        """Without the counted positions nearer than `edge` to the image's ends."""
        start = jnp.where(self.start == self.begin, self.begin + edge, self.start)
        stop = jnp.where(self.ends, self.end - edge, self.stop)
        stop = jnp.maximum(stop, start)
        return Span(self.begin, self.end, start, stop, self.ends)


@flax.struct.dataclass
class Boxes:
    """Where S images lie on a canvas, or on what a layer made of it.

    Attributes:
      rows: along the height.
      columns: along the width.
      shape: height and width of the canvas, in positions.
    """

    rows: Span
    columns: Span
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)

    def strided(
        self, stride: int, length: Callable[[Any], Any], shape: tuple[int, int]
    ) -> Boxes:
        """After a layer of a stride, which makes `length(n)` positions of n."""
        return Boxes(
            self.rows.strided(stride, length),
            self.columns.strided(stride, length),
            shape,
        )

    def halved(self) -> Boxes:
        """Where the images lie after halving, which rounds up."""
        height, width = self.shape
        return self.strided(2, lambda n: (n + 1) // 2, (height // 2, width // 2))

    def inner(self, edge: int) -> Boxes:
        """Without the counted positions nearer than `edge` to the images' ends."""
        return Boxes(self.rows.inner(edge), self.columns.inner(edge), self.shape)

    def mask(self) -> jax.Array:
        """Whether a position is of an image, `(H, W)`."""
        rows, columns = self._inside()
        return jnp.matmul(rows.T, columns, precision=_PRECISION) > 0

    def first(self) -> tuple[jax.Array, jax.Array]:
        """Whether a position is in the first row, or column, of its image."""
        return self._at(self.rows.begin, self.columns.begin)

    def last(self) -> tuple[jax.Array, jax.Array]:
        """Whether a position is in the last row, or column, of its image."""
        return self._at(self.rows.end - 1, self.columns.end - 1)

    def count(self) -> jax.Array:
        """How many positions of each image are counted, `(S,)` float32."""
        height = self.rows.stop - self.rows.start
        width = self.columns.stop - self.columns.start
        return (height * width).astype(jnp.float32)

    def sums(self, planes: jax.Array) -> jax.Array:
        """Sums over the counted positions of planes `(..., H, W)`, `(..., S)`.

        Planes of half the size stand for such as have each value in 2x2 positions. What
        is outside the images must be finite.
        """
        factor = self.shape[0] // planes.shape[-2]
        rows, columns = (
            weights.reshape(len(weights), -1, factor).sum(-1)
            for weights in self._counted()
        )
        by_rows = jnp.matmul(rows, planes, precision=_PRECISION)
        return jnp.einsum("...sw,sw->...s", by_rows, columns, precision=_PRECISION)

    def channel_sums(self, x: jax.Array) -> jax.Array:
        """Sums over the counted positions of `(H, W, C)`, `(S, C)`."""
        rows, columns = self._counted()
        height, width, channels = x.shape
        flat = x.reshape(height, width * channels)
        by_rows = jnp.matmul(rows, flat, precision=_PRECISION)
        by_rows = by_rows.reshape(-1, width, channels)
        return jnp.einsum("swc,sw->sc", by_rows, columns, precision=_PRECISION)

    def spread(self, values: jax.Array) -> jax.Array:
        """Gives each position the values of its image: `(S, C)` to `(H, W, C)`."""
        rows, columns = self._inside()
        wide = columns[:, :, None] * values[:, None, :]
        wide = wide.reshape(len(values), -1)
        spread = jnp.matmul(rows.T, wide, precision=_PRECISION)
        return spread.reshape(*self.shape, values.shape[-1])

    def moments(self, x: jax.Array, y: jax.Array) -> Moments:
        """Means, squares and differences of two arrays `(H, W, C)`, by image."""
        count = self.count()
        total = jnp.maximum(count, 1.0)[:, None]
        means = [self.channel_sums(one) / total for one in (x, y)]
        x, y = (
            one - self.spread(mean) for one, mean in zip((x, y), means, strict=True)
        )
        squares = [self.channel_sums(jnp.square(one)) for one in (x, y, x - y)]
        return Moments(count, *means, *squares)

    def _inside(self) -> tuple[jax.Array, jax.Array]:
        return (
            _between(self.rows.begin, self.rows.end, self.shape[0]),
            _between(self.columns.begin, self.columns.end, self.shape[1]),
        )

    def _counted(self) -> tuple[jax.Array, jax.Array]:
        return (
            _between(self.rows.start, self.rows.stop, self.shape[0]),
            _between(self.columns.start, self.columns.stop, self.shape[1]),
        )

    def _at(self, row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, columns = self._inside()
        height, width = self.shape
        there_row = _between(row, row + 1, height)
        there_column = _between(column, column + 1, width)
        return (
            jnp.matmul(there_row.T, columns, precision=_PRECISION) > 0,
            jnp.matmul(rows.T, there_column, precision=_PRECISION) > 0,
        )


def _between(begin: jax.Array, end: jax.Array, size: int) -> jax.Array:
    """1 from `begin` up to `end`, else 0: `(S,)` to `(S, size)` float32."""
    at = jnp.arange(size, dtype=jnp.int32)[None, :]
    return ((at >= begin[:, None]) & (at < end[:, None])).astype(jnp.float32)


@flax.struct.dataclass
class Moments:
    """Moments of two signals x and y over the counted positions of images.

    Those of two pieces of an image add up to those of the image: Chan, Golub & LeVeque,
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    Attributes:
      count: positions, `(...)`.
      x: the mean of x, `(..., C)`.
      y: the mean of y, `(..., C)`.
      xx: the sum of the squares of x less its mean, `(..., C)`.
      yy: likewise of y.
      dd: likewise of x - y, which keeps what x and y share out of rounding.
    """

    count: Any
    x: Any
    y: Any
    xx: Any
    yy: Any
    dd: Any

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        total = count if count else 1.0
        share = other.count / total
        weight = self.count * share
        x, y = other.x - self.x, other.y - self.y
        return Moments(
            count,
            self.x + share * x,
            self.y + share * y,
            self.xx + other.xx + weight * x**2,
            self.yy + other.yy + weight * y**2,
            self.dd + other.dd + weight * (x - y) ** 2,
        )


@flax.struct.dataclass
class Reduced:
    """Images of a canvas, reduced as MDSI does, by a factor that each has.

    Attributes:
      pixels: `(2, 3, H, W)` float32 in [0, 1]; 0 between the images.
      rows: how many counted rows of the image a row stands for, `(S, H)`.
      columns: likewise, `(S, W)`.
    """

    pixels: Any
    rows: Any
    columns: Any

    def images(self) -> jax.Array:
        """`(2, H, W, 3)`."""
        return jnp.moveaxis(self.pixels, 1, -1)

    def sums(self, plane: jax.Array) -> jax.Array:
        """Sums over each image's counted pixels of a plane `(H, W)`, `(S,)`."""
        by_rows = jnp.matmul(self.rows, plane, precision=_PRECISION)
        return (by_rows * self.columns).sum(-1)


@flax.struct.dataclass
class Canvas:
    """A pair of canvases: references on one, distorted images at the same places.

    Attributes:
      pixels: `(2, 3, H, W)` float32 in [0, 1]; each image with a mirrored `BORDER`.
      boxes: where the images lie.
      coarse: `(2, 3, h, w)`, scales 2 to 5 of MS-SSIM's pyramids of them, each with a
        mirrored `BORDER`.
      coarse_boxes: where they lie: image by image, from fine to coarse; S times 4.
      scales: how many scales MS-SSIM has of each image, `(S,)` int32.
      reduced: the images as MDSI sees them; None where they are not wanted.
    """

    pixels: Any
    boxes: Boxes
    coarse: Any
    coarse_boxes: Boxes
    scales: Any
    reduced: Reduced | None

    def planes(self) -> jax.Array:
        """The images without their borders, 0 elsewhere: `(2, 3, H, W)`."""
        return jnp.where(self.boxes.mask()[None, None], self.pixels, 0.0)

    def images(self) -> jax.Array:
        """The images without their borders, 0 elsewhere: `(2, H, W, 3)`."""
        return jnp.moveaxis(self.planes(), 1, -1)


@flax.struct.dataclass
class Placed:
    """Activations of images on a canvas.

    Attributes:
      array: `(N, H, W, C)`.
      boxes: where the images lie.
    """

    array: Any
    boxes: Boxes

    def masked(self) -> Placed:
        """With 0 outside the images, as beyond the edge of an image alone."""
        mask = self.boxes.mask()[None, :, :, None]
        zero = jnp.zeros((), self.array.dtype)
        return Placed(jnp.where(mask, self.array, zero), self.boxes)


def through(
    layer: Callable[[jax.Array], jax.Array],
    x: Any,
    *,
    stride: int = 1,
    length: Callable[[Any], Any] | None = None,
    masks: bool = True,
) -> Any:
    """Applies a layer to images, or to images on a canvas.

    Args:
      layer: maps arrays `(N, H, W, C)`.
      x: an array, or a `Placed`.
      stride: the layer's.
      length: how many positions it makes of so many; None for as many.
      masks: whether to clear what is outside the images; only a layer whose result
        goes to one that does, and reads no neighbours, need not.
    """
    if not isinstance(x, Placed):
        return layer(x)
    array, boxes = layer(x.array), x.boxes
    if length is not None:
        height, width = array.shape[1:3]
        boxes = boxes.strided(stride, length, (height, width))
    placed = Placed(array, boxes)
    return placed.masked() if masks else placed
