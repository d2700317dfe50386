"""Packing: which images go on which canvas, where, and the arrays that hold them.

All of it is NumPy on the host; `spips_jax.boxes` says what a canvas is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise

import numpy as np

from spips_jax.boxes import ALIGNMENT, BORDER, Boxes, Canvas, Reduced, Span
from spips_jax.classical.filters import factor_for

COARSE = 4
"""MS-SSIM's scales but the finest."""

OVERLAP = 128
"""Pixels that a piece of an image has beyond its counted part, where the image goes on.

No network's last tap looks further than 112 pixels to a side, nor do MS-SSIM's five
scales.
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of canvases.

    Attributes:
      height: in pixels.
      width: in pixels.
      slots: how many images at most.
    """

    height: int
    width: int
    slots: int

    @property
    def area(self) -> int:
        """In pixels."""
        return self.height * self.width

    @property
    def cost(self) -> float:
        """What scoring it takes, in pixels of a small one.

        A large canvas leaves the processor's caches sooner: with spips-lite on a CPU a
        pixel of the largest takes 1.15 times as long as one of 1248x1248.
        """
        return self.area * (1 + self.area / 20e6)

    @property
    def coarse(self) -> tuple[int, int]:
        """Height and width of the sheet of the coarse scales."""
        return self.height // 2 + 48, self.width * 3 // 4 + 80


SIZES = (
    Size(height=288, width=288, slots=4),
    Size(height=544, width=544, slots=8),
    Size(height=544, width=848, slots=8),
    Size(height=848, width=544, slots=8),
    Size(height=848, width=848, slots=16),
    Size(height=1248, width=1248, slots=16),
    Size(height=1648, width=1648, slots=24),
    Size(height=2096, width=2096, slots=32),
)
"""All sizes there are; each is a program of a metric's."""

CUT = SIZES[6]
"""On which images are cut into pieces: the largest wastes least, and takes most memory.
"""

PENALTY = 2_000_000
"""What a program that is not there yet counts, in pixels: a few seconds to compile."""


@dataclass(frozen=True)
class Piece:
    """A part of an image, or all of it.

    Attributes:
      image: which one, by its place in the list.
      rows: first row of the part, the row after its last.
      columns: likewise.
      counted_rows: of the part that sums run over, in the image's pixels.
      counted_columns: likewise.
      height: of the whole image.
      width: of the whole image.
    """

    image: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    counted_rows: tuple[int, int]
    counted_columns: tuple[int, int]
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


@dataclass(frozen=True)
class Layout:
    """What lies on a canvas.

    Attributes:
      size: of the canvas.
      pieces: in the order of the slots.
      places: row and column of each piece's first pixel.
      coarse: of each piece's coarse scales, from fine to coarse, on their sheet.
    """

    size: Size
    pieces: tuple[Piece, ...]
    places: tuple[tuple[int, int], ...]
    coarse: tuple[tuple[tuple[int, int], ...], ...]


class _Free:
    """The free space of a rectangle, as all largest free rectangles (MaxRects).

    Jylänki, "A thousand ways to pack the bin", 2010: the place whose shorter side is
    used best.
    """

    def __init__(self, height: int, width: int) -> None:
        self.rectangles = [(0, 0, height, width)]  # top, left, bottom, right

    def take(self, *shapes: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of places, free no longer; none if one finds no place."""
        before, places = self.rectangles, []
        for height, width in shapes:
            place = self._find(height, width)
            if place is None:
                self.rectangles = before
                return []
            self._cut(*place, place[0] + height, place[1] + width)
            places.append(place)
        return places

    def _find(self, height: int, width: int) -> tuple[int, int] | None:
        best, place = (np.inf, np.inf), None
        for top, left, bottom, right in self.rectangles:
            down, across = bottom - top - height, right - left - width
            if down >= 0 and across >= 0:
                spare = (min(down, across), max(down, across))
                if spare < best:
                    best, place = spare, (top, left)
        return place

    def _cut(self, top: int, left: int, bottom: int, right: int) -> None:
        left_over = []
        for one in self.rectangles:
            t, l, b, r = one  # noqa: E741
            if top >= b or bottom <= t or left >= r or right <= l:
                left_over.append(one)
                continue
            parts = (
                (t, l, top, r),
                (bottom, l, b, r),
                (t, l, b, left),
                (t, right, b, r),
            )
            left_over += [p for p in parts if p[0] < p[2] and p[1] < p[3]]
        left_over = list(dict.fromkeys(left_over))
        self.rectangles = [
            one
            for one in left_over
            if not any(_holds(other, one) for other in left_over if other != one)
        ]


def _holds(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[2] >= inner[2]
        and outer[3] >= inner[3]
    )


def _room(length: int) -> int:
    """What an image takes on a canvas, with the gap after it."""
    return ALIGNMENT * (-(-length // ALIGNMENT) + 1)


def fits(size: Size, height: int, width: int) -> bool:
    """Whether a canvas holds an image in one piece."""
    return (
        _room(height) <= size.height - ALIGNMENT
        and _room(width) <= size.width - ALIGNMENT
    )


def _cut(length: int, most: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cuts a side into parts of at most so many pixels, and what is counted of each."""
    if length <= most:
        return [((0, length), (0, length))]
    inside = most - 2 * OVERLAP
    number = -(-length // inside)
    step = ALIGNMENT * -(-length // (number * ALIGNMENT))
    edges = [*range(0, length, step), length]
    return [
        ((max(0, start - OVERLAP), min(length, stop + OVERLAP)), (start, stop))
        for start, stop in pairwise(edges)
    ]


def _pieces(image: int, height: int, width: int, size: Size) -> list[Piece]:
    """An image in as many pieces as it needs on canvases of a size."""
    return [
        Piece(image, rows, columns, counted_rows, counted_columns, height, width)
        for rows, counted_rows in _cut(height, size.height - 2 * ALIGNMENT)
        for columns, counted_columns in _cut(width, size.width - 2 * ALIGNMENT)
    ]


ORDERS: tuple[Callable[[Piece], tuple[int, ...]], ...] = (
    lambda piece: (piece.shape[0] * piece.shape[1],),
    lambda piece: (min(piece.shape), max(piece.shape)),
    lambda piece: piece.shape[::-1],
)
"""By which pieces are put on canvases. None is the best for all; the one that leaves
least empty is taken, which on 40 photographs of 300 to 1200 pixels is 22 to 31 %."""


def layouts(
    shapes: Sequence[tuple[int, int]],
    *,
    ready: Collection[Size] = (),
    needs: Collection[str] = ("coarse",),
) -> list[Layout]:
    """Puts images on canvases of one size, and of a smaller one where that pays.

    Args:
      shapes: height and width of each image.
      ready: sizes whose programs are there already.
      needs: parts of the canvas beside the images; "coarse" takes room.

    Returns:
      Layouts that together have every image once, in one piece or in several.
    """
    if not shapes:
        return []
    coarse = "coarse" in needs
    best: list[Layout] = []
    least = np.inf
    whole = [size for size in SIZES if all(fits(size, *shape) for shape in shapes)]
    for size in whole or (CUT,):
        found = _packed(shapes, size, coarse=coarse)
        found = _last_smaller(found, ready=ready, coarse=coarse)
        cost = sum(one.size.cost for one in found)
        cost += PENALTY * len({one.size for one in found} - set(ready))
        if cost < least:
            best, least = found, cost
    return best


def _packed(
    shapes: Sequence[tuple[int, int]], size: Size, *, coarse: bool
) -> list[Layout]:
    left = [
        piece
        for image, (height, width) in enumerate(shapes)
        for piece in _pieces(image, height, width, size)
    ]
    return min(
        (_in_order(left, size, order, coarse=coarse) for order in ORDERS), key=len
    )


def _in_order(
    pieces: Sequence[Piece],
    size: Size,
    order: Callable[[Piece], tuple[int, ...]],
    *,
    coarse: bool,
) -> list[Layout]:
    """Fills canvases, the largest first."""
    left = sorted(pieces, key=order, reverse=True)
    found = []
    while left:
        layout, left = _fill(left, size, coarse=coarse)
        found.append(layout)
    return found


def _fill(
    pieces: Sequence[Piece], size: Size, *, coarse: bool
) -> tuple[Layout, list[Piece]]:
    """A canvas with the first pieces that find room, and those left over."""
    # The first row and column hold the border of what is beside them.
    free = _Free(size.height - ALIGNMENT, size.width - ALIGNMENT)
    sheet = _Free(*size.coarse)
    on: list[Piece] = []
    left: list[Piece] = []
    places, coarse_places = [], []
    refused: list[tuple[int, int]] = []
    for piece in pieces:
        height, width = map(_room, piece.shape)
        hopeless = any(height >= h and width >= w for h, w in refused)
        if len(on) == size.slots or hopeless:
            left.append(piece)
            continue
        before = free.rectangles
        place = free.take((height, width))
        scales = sheet.take(*_coarse_shapes(piece.shape)) if place and coarse else []
        if not place or (coarse and not scales):
            free.rectangles = before
            refused.append((height, width))
            left.append(piece)
            continue
        on.append(piece)
        places.append((place[0][0] + ALIGNMENT, place[0][1] + ALIGNMENT))
        coarse_places.append(
            tuple((row + BORDER, column + BORDER) for row, column in scales)
        )
    return Layout(size, tuple(on), tuple(places), tuple(coarse_places)), left


def _last_smaller(
    found: list[Layout], *, ready: Collection[Size], coarse: bool
) -> list[Layout]:
    """The last canvas as a smaller one, if what is on it fits and that pays."""
    last = found[-1]
    known = {*ready, *(one.size for one in found[:-1])}
    best, least = last, last.size.cost + PENALTY * (last.size not in known)
    for size in SIZES:
        cost = size.cost + PENALTY * (size not in known)
        if cost >= least or not all(fits(size, *p.shape) for p in last.pieces):
            continue
        layout, left = _fill(last.pieces, size, coarse=coarse)
        if not left:
            best, least = layout, cost
    return [*found[:-1], best]


def _coarse_shapes(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Height and width of the coarse scales with their borders."""
    for _ in range(COARSE):
        shape = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
        yield shape[0] + 2 * BORDER, shape[1] + 2 * BORDER


def fill(
    layout: Layout,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: Sequence[int],
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    needs: Collection[str] = ("coarse",),
) -> Canvas:
    """The arrays of a canvas, from the pairs of images that the layout is of.

    Args:
      layout: what lies where.
      pairs: reference and distorted image, `(H, W, 3)` each, uint8 or floats.
      scales: how many scales MS-SSIM has of each pair.
      value_range: lowest and highest value of images that are floats.
      needs: parts of the canvas beside the images: "coarse", "reduced".
    """
    size = layout.size
    pixels = np.zeros((2, 3, size.height, size.width), np.float32)
    sheet = np.zeros(
        (2, 3, *(size.coarse if "coarse" in needs else (0, 0))), np.float32
    )
    for piece, place, coarse_places in zip(
        layout.pieces, layout.places, layout.coarse, strict=True
    ):
        for side, image in enumerate(pairs[piece.image]):
            part = image[slice(*piece.rows), slice(*piece.columns)]
            planes = np.moveaxis(_to_unit_range(part, value_range), -1, 0)
            _put(pixels[side], planes, place)
            for coarse_place in coarse_places:
                planes = _halve(planes)
                _put(sheet[side], planes, coarse_place)
    return Canvas(
        pixels=pixels,
        boxes=_boxes(layout),
        coarse=sheet,
        coarse_boxes=_coarse_boxes(layout, sheet.shape[-2:]),
        scales=np.array(
            [scales[piece.image] for piece in layout.pieces]
            + [COARSE + 1] * (size.slots - len(layout.pieces)),
            np.int32,
        ),
        reduced=_reduced(layout, pairs, value_range) if "reduced" in needs else None,
    )


def _reduced(
    layout: Layout,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    value_range: tuple[float, float],
) -> Reduced:
    """The images as MDSI reduces them, each where it is on the canvas.

    Of an image in pieces each has its part of the reduced one.
    """
    size = layout.size
    pixels = np.zeros((2, 3, size.height, size.width), np.float32)
    weights = [
        np.zeros((size.slots, side), np.float32) for side in (size.height, size.width)
    ]
    for slot, (piece, place) in enumerate(
        zip(layout.pieces, layout.places, strict=True)
    ):
        factor = factor_for(piece.height, piece.width)
        parts = []
        for axis, (length, counted) in enumerate(
            (
                (piece.height, piece.counted_rows),
                (piece.width, piece.counted_columns),
            )
        ):
            stands_for = _stands_for(length, factor)
            start, stop = (-(-edge // factor) for edge in counted)
            if counted[1] == length:
                stop = len(stands_for)
            first, after = max(0, start - 1), min(len(stands_for), stop + 1)
            parts.append((first, after))
            begin = place[axis] + start - first
            weights[axis][slot, begin : begin + stop - start] = stands_for[start:stop]
        for side, image in enumerate(pairs[piece.image]):
            planes = _average_same(image, factor, parts, value_range)
            height, width = planes.shape[-2:]
            pixels[
                side, :, place[0] : place[0] + height, place[1] : place[1] + width
            ] = planes
    return Reduced(pixels, weights[0], weights[1])


@cache
def _stands_for(length: int, factor: int) -> np.ndarray:
    """How many positions of a side each of the reduced side stands for.

    As `filters.enlarge` has it: the last also for what is beyond.
    """
    skip = (factor - 1) // 2
    reduced = (length + factor - 1) // factor
    edges = np.clip(np.arange(reduced + 1) * factor - skip, 0, length)
    edges[-1] = length
    return np.diff(edges).astype(np.float32)


def _average_same(
    image: np.ndarray,
    factor: int,
    parts: Sequence[tuple[int, int]],
    value_range: tuple[float, float],
) -> np.ndarray:
    """Rows and columns of `filters.average_same` of an image, `(3, h, w)`."""
    skip, cuts, pads = (factor - 1) // 2, [], []
    for (first, after), length in zip(parts, image.shape[:2], strict=True):
        begin, end = first * factor - skip, after * factor - skip
        cuts.append(slice(max(begin, 0), min(end, length)))
        pads.append((max(-begin, 0), max(end - length, 0)))
    planes = np.moveaxis(_to_unit_range(image[tuple(cuts)], value_range), -1, 0)
    if factor == 1:
        return planes
    planes = np.pad(planes, [(0, 0), *pads])
    rows = reduce(np.add, [planes[:, k::factor] for k in range(factor)])
    columns = [rows[:, :, k::factor] for k in range(factor)]
    return reduce(np.add, columns) / np.float32(factor**2)


def _to_unit_range(image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    low, high = (0.0, 255.0) if image.dtype == np.uint8 else value_range
    image = image.astype(np.float32)
    if (low, high) == (0.0, 1.0):
        return image
    return (image - np.float32(low)) / np.float32(high - low)


def _put(sheet: np.ndarray, planes: np.ndarray, place: tuple[int, int]) -> None:
    """Writes planes `(3, h, w)` at a place, with their mirrored border."""
    height, width = planes.shape[-2:]
    top, left = place[0] - BORDER, place[1] - BORDER
    mirrored = planes[:, _mirror(height)[:, None], _mirror(width)[None, :]]
    sheet[:, top : top + height + 2 * BORDER, left : left + width + 2 * BORDER] = (
        mirrored
    )


@cache
def _mirror(length: int) -> np.ndarray:
    """Indices of a side with its mirrored border, also of one shorter than that."""
    return np.pad(np.arange(length), BORDER, mode="symmetric")


def _halve(planes: np.ndarray) -> np.ndarray:
    """Mean of 2x2 blocks, an odd edge repeated, in the order that `filters` adds."""
    height, width = planes.shape[-2:]
    if height % 2 or width % 2:
        planes = np.pad(planes, [(0, 0), (0, height % 2), (0, width % 2)], mode="edge")
    rows = planes[:, ::2] + planes[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / np.float32(4)


def _boxes(layout: Layout) -> Boxes:
    spans = []
    for axis in (0, 1):
        boxes = np.zeros((5, layout.size.slots), np.int32)
        for slot, (piece, place) in enumerate(
            zip(layout.pieces, layout.places, strict=True)
        ):
            part = (piece.rows, piece.columns)[axis]
            counted = (piece.counted_rows, piece.counted_columns)[axis]
            whole = (piece.height, piece.width)[axis]
            shift = place[axis] - part[0]
            boxes[:4, slot] = [edge + shift for edge in (*part, *counted)]
            boxes[4, slot] = counted[1] == whole
        spans.append(Span.of(boxes))
    return Boxes(spans[0], spans[1], (layout.size.height, layout.size.width))


def _coarse_boxes(layout: Layout, shape: tuple[int, ...]) -> Boxes:
    spans = []
    for axis in (0, 1):
        boxes = np.zeros((5, layout.size.slots, COARSE), np.int32)
        for slot, (piece, places) in enumerate(
            zip(layout.pieces, layout.coarse, strict=True)
        ):
            first, after = (piece.rows, piece.columns)[axis]
            start, stop = (piece.counted_rows, piece.counted_columns)[axis]
            ends = stop == (piece.height, piece.width)[axis]
            length = after - first
            for scale, place in enumerate(places):
                length = (length + 1) // 2
                begin, factor = place[axis], 2 ** (scale + 1)
                counted = length if ends else min((stop - first) // factor, length)
                boxes[:, slot, scale] = (
                    begin,
                    begin + length,
                    begin + min((start - first) // factor, counted),
                    begin + counted,
                    ends,
                )
        spans.append(Span.of(boxes.reshape(5, -1)))
    return Boxes(spans[0], spans[1], (shape[0], shape[1]))
