"""Scoring pairs of image files: one by one, or many sizes together on canvases."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spips_jax.any_size import AnySize
from spips_jax.commands.pairs import Pair
from spips_jax.commands.rows import opinion_of
from spips_jax.messages import UserError, one_line, out_of_memory
from spips_jax.process import free_memory

if TYPE_CHECKING:
    from spips_jax.image_files import ImageFile
    from spips_jax.metric import Metric

FEW = 2
"""Sizes of images in a run that get programs of their own, which are the fastest."""

LOOK = 8
"""So many pairs are read before the first is scored, to know how many sizes there are.
"""

MOST = 64
AREA = 24_000_000
"""Pairs, and pixels, that are packed together at most: more leave less of a canvas
empty, and let the first scores wait longer."""

PATIENCE = 0.5
"""Seconds to wait for a pair before those that were read are scored without it."""

MAPS_BYTES = 1_800
"""What a pixel takes with maps, by spips-lite at 1 to 4 megapixels."""

LARGE = 4_000_000
"""Pixels above which an image is cut into pieces, to save memory."""


@dataclass(frozen=True)
class Scored:
    """What came of a pair.

    Attributes:
      rows: one for each metric, with "error" where it has no score.
      warnings: lines.
    """

    rows: list[dict[str, Any]]
    warnings: list[str]

    @property
    def errors(self) -> list[str]:
        """The different errors of the rows."""
        return list(dict.fromkeys(row["error"] for row in self.rows if "error" in row))


def score_pairs(
    metrics: Sequence[Metric],
    pairs: Sequence[Pair],
    map_files: Sequence[Path | None],
    *,
    convert_profiles: bool = False,
    provenance: bool = False,
) -> Generator[Scored]:
    """Scores pairs by each metric, in their order, whatever is wrong with one of them.

    With `provenance`, rows that have a score say what it depends on.

    Pairs of many sizes are packed together on canvases, where a metric allows it and no
    maps are wanted: a batch of pairs then comes at once.
    """
    scorer = _Scorer(metrics, provenance=provenance)
    with closing(_read(pairs, convert_profiles=convert_profiles)) as images:
        alone = any(file is not None for file in map_files)
        for batch in _batches(images, map_files, alone=alone):
            yield from scorer.score(batch)


_Read = tuple[Pair, "ImageFile | Exception", "ImageFile | Exception"]


def _batches(
    images: Iterable[_Read | None], map_files: Sequence[Path | None], *, alone: bool
) -> Iterator[list[tuple[_Read, Path | None]]]:
    """At most `MOST` pairs and `AREA` pixels, or as many as there are when the next
    takes long to read. Pairs by themselves if `alone`, and where there are few sizes
    among the first `LOOK` pairs, until there are more.
    """
    batch: list[tuple[_Read, Path | None]] = []
    files, sizes = iter(map_files), set()
    area = met = 0
    for read in images:
        added = 0
        if read is not None:
            met += 1
            if not isinstance(read[2], Exception):
                sizes.add(read[2].pixels.shape)
                added = math.prod(read[2].pixels.shape[:2])
        single = alone or (met > LOOK and len(sizes) <= FEW)
        full = len(batch) == MOST or area + added > AREA
        if batch and (single or full or read is None):
            yield batch
            batch, area = [], 0
        if read is not None:
            batch.append((read, next(files)))
            area += added
    if batch:
        yield batch


class _Scorer:
    """Scores batches of pairs."""

    def __init__(self, metrics: Sequence[Metric], *, provenance: bool) -> None:
        self.metrics = metrics
        self._about = _about(metrics) if provenance else None
        self._any_size = [
            AnySize(metric) if AnySize.supports(metric) else None for metric in metrics
        ]
        self._sizes: set[tuple[int, ...]] = set()  # that were not put on canvases
        self._reference: _Reference | None = None

    def score(self, batch: Sequence[tuple[_Read, Path | None]]) -> Iterator[Scored]:
        """Yields what came of each pair, in order."""
        ahead = self._on_canvases(batch)
        for number, ((pair, original, image), map_file) in enumerate(batch):
            if isinstance(original, Exception):
                yield _failed(self.metrics, pair, original)
            elif isinstance(image, Exception):
                yield _failed(self.metrics, pair, image)
            else:
                # A reference often meets several images in a row: it is run once.
                if self._reference is None or self._reference.image is not original:
                    self._reference = _Reference(original)
                scores = [found.get(number) for found in ahead]
                scored = _score(
                    self.metrics, pair, self._reference, image, map_file, scores
                )
                if self._about is not None:
                    self._add_provenance(scored, original, image, scores)
                yield scored

    def _add_provenance(
        self,
        scored: Scored,
        reference: ImageFile,
        distorted: ImageFile,
        ahead: Sequence[float | None],
    ) -> None:
        """Adds to each row with a score what it depends on."""
        from spips_jax.provenance import of_images

        images = of_images(reference.pixels, distorted.pixels)
        of_metrics, machine = self._about or ([], {})
        for row, of_metric, score in zip(scored.rows, of_metrics, ahead, strict=True):
            if row["score"] is not None:
                # Their programs sum in another order.
                program = "of this size" if score is None else "of a canvas"
                about = {**of_metric, **images, "program": program, **machine}
                row["provenance"] = about

    def _on_canvases(
        self, batch: Sequence[tuple[_Read, Path | None]]
    ) -> list[dict[int, float]]:
        """By metric, the scores of those pairs that canvases are better for."""
        images = {
            number: (original.pixels, image.pixels)
            for number, ((_, original, image), map_file) in enumerate(batch)
            if map_file is None
            and not isinstance(original, Exception)
            and not isinstance(image, Exception)
            and original.pixels.shape == image.pixels.shape
        }
        sizes = {x.shape for x, _ in images.values()}
        large = any(math.prod(size[:2]) > LARGE for size in sizes)
        if not large and len(self._sizes | sizes) <= FEW:
            self._sizes |= sizes
            return [{} for _ in self.metrics]
        return [
            {} if any_size is None else _together(any_size, images)
            for any_size in self._any_size
        ]


def _about(metrics: Sequence[Metric]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What scores of metrics depend on here, whatever the images."""
    from spips_jax.provenance import of_machine, of_metric

    return [of_metric(metric) for metric in metrics], of_machine()


def _together(
    any_size: AnySize, images: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> dict[int, float]:
    """The scores of pairs that can be scored together; none if all at once fail.

    Those without a score are then tried one by one, so that each has its own error.
    """
    able = {}
    for number, pair in images.items():
        with contextlib.suppress(UserError):
            any_size.metric.check(*pair)
            able[number] = pair
    try:
        scores = any_size.pairs(able.values())
    except ModuleNotFoundError:
        raise
    except Exception:
        return {}
    return dict(zip(able, scores.tolist(), strict=True))


def _read(pairs: Sequence[Pair], *, convert_profiles: bool) -> Generator[_Read | None]:
    """Reads the images of pairs, or why they cannot be read; see `read_ahead`."""
    from spips_jax.commands.ahead import read_ahead
    from spips_jax.image_files import open_image

    def read(path: str) -> ImageFile:
        # Each metric says itself which size it needs.
        return open_image(path, min_size=1, convert_profile=convert_profiles)

    return read_ahead(pairs, read, patience=PATIENCE)


def _failed(metrics: Sequence[Metric], pair: Pair, error: Exception) -> Scored:
    """A pair of which an image cannot be read."""
    reason = _reason(error, "")
    return Scored([{**new_row(pair, one), "error": reason} for one in metrics], [])


def _score(
    metrics: Sequence[Metric],
    pair: Pair,
    reference: _Reference,
    image: ImageFile,
    map_file: Path | None,
    scores: Sequence[float | None],
) -> Scored:
    """Scores a pair that was read by each metric that has not scored it yet."""
    warnings: list[str] = []
    rows = [new_row(pair, metric) for metric in metrics]
    if reference.image.profile != image.profile:
        warnings.append(
            f"{pair.reference}, {pair.distorted}: their colour profiles differ,"
            f" {reference.image.profile} and {image.profile}; values are compared as"
            " stored (--convert-profiles converts both to sRGB)"
        )
    for number, (metric, row) in enumerate(zip(metrics, rows, strict=True)):
        try:
            if (score := scores[number]) is not None:
                row["score"] = _finite(score)
            else:
                features = reference.features(number, metric)
                row |= _compare(metric, features, image, map_file)
            add_opinion(row, metric)
        except Exception as error:
            row["error"] = _reason(error, f"{pair.reference}, {pair.distorted}: ")
    return Scored(rows, warnings)


def add_opinion(row: dict[str, Any], metric: Metric) -> None:
    """Adds to a row with a score the opinion that it predicts, if one is calibrated."""
    if metric.calibration is not None:
        row[metric.calibration.opinion] = float(metric.calibration(row["score"]))


def new_row(pair: Pair, metric: Metric) -> dict[str, Any]:
    """A row without a score."""
    row = {
        "reference": pair.reference,
        "distorted": pair.distorted,
        "model": metric.name,
        "score": None,
    }
    opinion = opinion_of(metric)
    return row if opinion is None else {**row, opinion: None}


class _Reference:
    """An original: its pixels and each metric's features of it, made when needed."""

    def __init__(self, image: ImageFile) -> None:
        self.image = image
        self._features: dict[int, Any] = {}

    def features(self, number: int, metric: Metric) -> Any:
        if number not in self._features:
            self._features[number] = metric.features(self.image.pixels)
        return self._features[number]


def _reason(error: Exception, names: str) -> str:
    """Why a pair has no score, in a line; raises what ends the run all the same.

    Args:
      error: what was raised.
      names: of the files, where the error's message has none.
    """
    if isinstance(error, ModuleNotFoundError):
        raise error  # an extra that is missing is missing for all pairs
    if out_of_memory(error):
        return f"{names}too large for the memory; scale or crop both"
    if isinstance(error, UserError | OSError):
        return f"{names}{one_line(error)}"
    return f"{names}{type(error).__name__}: {one_line(error)}"


def _compare(
    metric: Metric,
    features: Any,
    distorted: ImageFile,
    map_file: Path | None,
) -> dict[str, Any]:
    import jax

    if map_file is None:
        return {"score": _finite(float(metric(features, distorted.pixels)))}
    _check_memory(distorted)
    parts = metric.explain(features, distorted.pixels)
    score = _finite(float(parts.score))
    from spips_jax.heatmaps import write_heat_maps

    write_heat_maps(
        map_file,
        jax.device_get(parts),
        reference=jax.device_get(features.image),
        distorted=distorted.pixels,
        title=in_words(metric, score),
    )
    streams = {stream: float(value) for stream, value in parts.streams.items()}
    return {"score": score, **streams, "maps": str(map_file)}


def in_words(metric: Metric, score: float) -> str:
    """A score, and the opinion that it predicts, in a line."""
    line = f"{metric.name} {score:.4f}"
    if metric.calibration is None:
        return line
    known = metric.calibration
    if known.opinion == "preference":
        return f"{line}: {known.grade(score)}"
    low, high = known.scale
    opinion = (
        f"{known.opinion.upper()} {float(known(score)):.3g} of {low:g} to {high:g}"
    )
    return f"{line}: {opinion}, {known.grade(score)}"


def _check_memory(image: ImageFile) -> None:
    """Raises `UserError` if the maps of an image would not fit into the memory."""
    height, width = image.pixels.shape[:2]
    needed, free = MAPS_BYTES * height * width, free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"maps of {width}x{height} pixels take about {needed / 2**30:.1f} GiB of"
            f" memory, and {free / 2**30:.1f} GiB are free: scale or crop both images,"
            " or leave --maps out"
        )


def _finite(score: float) -> float:
    """JSON has no NaN, and images no way to one but through bad weights."""
    if not math.isfinite(score):
        raise UserError(f"the score is {score}, not a number")
    return score
