"""AnySize: scores of images of any number of sizes, by a handful of programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from spips_jax import packing
from spips_jax.boxes import Canvas, Moments
from spips_jax.classical.structural import num_scales
from spips_jax.images import MIN_SIZE, Images
from spips_jax.metric import Metric

ROWS = 16
"""So many sums become scores at once, by one program whatever the number of images."""

MOST = 64
"""Pairs that are packed together; more fill canvases hardly better."""

BYTES = 2**29
"""Or pairs of so many bytes of pixels together, at least one."""


class AnySize:
    """Scores images of many sizes, compiled once for each of eight sizes of canvases.

        metric = spips_jax.load()
        score = spips_jax.AnySize(metric)
        score(reference, distorted)  # as metric(reference, distorted)
        scores = score.pairs(zip(references, distorted))  # faster: packed together

    A `Metric` compiles anew for each size of images. Here images lie side by side on
    canvases, at most 2096 pixels wide and high, and larger ones are cut into pieces
    that overlap; the scores are those of the metric but for rounding, about 1e-6 of
    them (docs/files.md). There is no gradient: a training step has one size.

    SPIPS, LPIPS, DISTS, psnr, ssim, ms-ssim, gmsd and haarpsi can be scored so. fsim,
    fsimc and vsi filter an image as a whole, mdsi and vif were not worth it: they
    can't, nor can SPIPS with the maps of these but MDSI's.

    Attributes:
      metric: whose scores these are.
    """

    def __init__(self, metric: Metric) -> None:
        """Takes a metric.

        Raises:
          ValueError: the metric cannot be scored on canvases.
        """
        if not self.supports(metric):
            raise ValueError(
                f"{metric.name} cannot score images on canvases: call it, or scale the"
                " images to few sizes"
            )
        self.metric = metric
        self._plain = metric.plain()
        self._needs = metric.module.canvas_needs
        self._ready: set[packing.Size] = set()

    @staticmethod
    def supports(metric: Metric) -> bool:
        """Whether a metric can be scored so."""
        return bool(metric.module.on_canvas)

    def __call__(
        self,
        reference: Images,
        distorted: Images,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> np.ndarray:
        """Scores distorted images against their references, as `Metric` does.

        Args:
          reference: images `(..., H, W, 3)`.
          distorted: images `(..., H, W, 3)`; leading dimensions broadcast.
          value_range: lowest and highest value of both, where they are floats.

        Returns:
          float32 `(...)`, in the metric's range and direction.

        Raises:
          ImageError: images that break the contract; see `images.check_images`.
        """
        self.metric.check(reference, distorted, value_range=value_range)
        batch = np.broadcast_shapes(reference.shape[:-3], distorted.shape[:-3])
        shape = batch + reference.shape[-3:]
        both = (
            np.broadcast_to(np.asarray(one), shape).reshape(-1, *shape[-3:])
            for one in (reference, distorted)
        )
        pairs = zip(*both, strict=True)
        return self.pairs(pairs, value_range=value_range).reshape(batch)

    def pairs(
        self,
        pairs: Iterable[tuple[Images, Images]],
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> np.ndarray:
        """Scores pairs of images, each pair of a size of its own.

        Args:
          pairs: N of them, reference and distorted image, `(H, W, 3)`; an iterator is
            read a batch at a time.
          value_range: lowest and highest value of all, where they are floats.

        Returns:
          float32 `(N,)`, in the metric's range and direction.

        Raises:
          ImageError: a pair breaks the contract; see `images.check_images`.
        """
        scores: list[np.ndarray] = []
        for some in _batches(pairs):
            for reference, distorted in some:
                self.metric.check(reference, distorted, value_range=value_range)
            scores.append(self._scored(some, value_range))
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def compile(self, *, after_each: Callable[[], object] = bool) -> None:
        """Compiles all programs that there can be, before they are needed.

        Args:
          after_each: called after each of them.
        """
        for size in packing.SIZES:
            canvas = packing.fill(
                packing.Layout(size, (), (), ()), [], [], needs=self._needs
            )
            sums = _measure(self._plain, canvas)
            self._ready.add(size)
            after_each()
        row = jax.tree.map(lambda x: np.asarray(x)[0], sums)
        _scores(self._plain, _stack([row]))

    def _scored(
        self,
        pairs: Sequence[tuple[Images, Images]],
        value_range: tuple[float, float],
    ) -> np.ndarray:
        """Scores of pairs that were checked."""
        images = [(np.asarray(x), np.asarray(y)) for x, y in pairs]
        scores = np.zeros(len(images), np.float32)
        placed = []
        for k, (x, y) in enumerate(images):
            if min(x.shape[:2]) < MIN_SIZE:  # there can't be many such sizes
                scores[k] = self.metric(x, y, value_range=value_range)
            elif self.metric.higher_is_better or not np.array_equal(x, y):
                placed.append(k)
            # Else the distance is 0 by the formula, whatever the rounding.
        sums = self._measured([images[k] for k in placed], value_range)
        for begin in range(0, len(placed), ROWS):
            some = slice(begin, begin + ROWS)
            rows = np.asarray(_scores(self._plain, _stack(sums[some])))
            scores[placed[some]] = rows[: len(placed[some])]
        return scores

    def _measured(
        self,
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        value_range: tuple[float, float],
    ) -> list[Any]:
        """The sums over each pair of images."""
        shapes = [x.shape[:2] for x, _ in pairs]
        scales = [num_scales(*shape) for shape in shapes]
        found: dict[int, Any] = {}
        running: list[tuple[packing.Layout, Any]] = []
        for layout in packing.layouts(shapes, ready=self._ready, needs=self._needs):
            canvas = packing.fill(
                layout, pairs, scales, value_range=value_range, needs=self._needs
            )
            running.append((layout, _measure(self._plain, canvas)))
            self._ready.add(layout.size)
            if len(running) > 1:  # one is computed while the next is filled
                _collect(found, *running.pop(0))
        for layout, sums in running:
            _collect(found, layout, sums)
        return [found[k] for k in range(len(pairs))]


def _batches(
    pairs: Iterable[tuple[Images, Images]],
) -> Iterator[list[tuple[Images, Images]]]:
    """At most `MOST` pairs and `BYTES` of pixels together."""
    batch: list[tuple[Images, Images]] = []
    held = 0
    for pair in pairs:
        needed = sum(image.nbytes for image in pair)
        if batch and (len(batch) == MOST or held + needed > BYTES):
            yield batch
            batch, held = [], 0
        batch.append(pair)
        held += needed
    if batch:
        yield batch


def _collect(found: dict[int, Any], layout: packing.Layout, sums: Any) -> None:
    """Adds what a program measured to the sums of the images, in float64."""
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(sums))
    for slot, piece in enumerate(layout.pieces):
        row = jax.tree.map(lambda x, slot=slot: x[slot], sums)
        before = found.get(piece.image)
        found[piece.image] = row if before is None else _add(before, row)


def _add(x: Any, y: Any) -> Any:
    """The sums over two pieces of an image."""
    return jax.tree.map(
        lambda a, b: a + b, x, y, is_leaf=lambda node: isinstance(node, Moments)
    )


def _stack(rows: Sequence[Any]) -> Any:
    """The sums of at most `ROWS` images, and of the first again for those missing."""
    rows = [*rows, *[rows[0]] * (ROWS - len(rows))]
    return jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *rows)


@jax.jit
def _measure(metric: Metric, canvas: Canvas) -> Any:
    return metric.module.apply(metric.variables, canvas, method="measure")


@jax.jit
def _scores(metric: Metric, sums: Any) -> jax.Array:
    return metric.module.apply(metric.variables, sums, method="score_measured")
