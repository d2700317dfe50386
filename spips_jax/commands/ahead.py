"""Reading ahead: while one pair is scored, the next are read and decoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spips_jax.commands.pairs import Pair

if TYPE_CHECKING:
    from spips_jax.image_files import ImageFile

THREADS = min(8, os.cpu_count() or 1)
"""Decoders release Python's lock; eight are faster than any network that scores."""

BYTES_AHEAD = 2**29
"""512 MiB of pixels: 85 pairs of a megapixel, or three of 24."""


def read_ahead(
    pairs: Iterable[Pair],
    read: Callable[[str], ImageFile],
    *,
    threads: int = THREADS,
    bytes_ahead: int = BYTES_AHEAD,
    patience: float | None = None,
) -> Generator[tuple[Pair, ImageFile | Exception, ImageFile | Exception] | None]:
    """Reads the images of pairs in their order, the next while one is worked on.

    A reference that several pairs in a row share is read once, and each of them gets
    the same object. Close the iterator to end early: what is not begun is then not
    read.

    Args:
      pairs: images by their paths.
      read: reads one; called in other threads, several at a time.
      threads: how many.
      bytes_ahead: as many bytes of pixels may wait, with those that are being read,
        which count as the largest image so far. One pair ahead is read, however large.
      patience: how many seconds to wait for a pair before saying so; None for as long
        as it takes.

    Yields:
      A pair, its reference and its distorted image; the exception in place of one that
      cannot be read. None, once, where the next pair takes longer than `patience`.
      What is no `Exception` is raised.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    left = iter(pairs)
    waiting: deque[_Reading] = deque()
    current: _Reading | None = None
    largest: int | None = None  # bytes; no image was met

    def fill() -> None:
        while not waiting or (
            largest is not None
            and len(waiting) < 2 * threads
            and _bytes_of(waiting, largest) + 2 * largest <= bytes_ahead
        ):
            pair = next(left, None)
            if pair is None:
                return
            before = waiting[-1] if waiting else current
            if before is not None and before.pair.reference == pair.reference:
                reference = before.reference
            else:
                reference = pool.submit(read, pair.reference)
            distorted = pool.submit(read, pair.distorted)
            waiting.append(_Reading(pair, reference, distorted))

    try:
        fill()
        while waiting:
            current = waiting.popleft()
            if wait((current.reference, current.distorted), patience).not_done:
                yield None
            found = _outcome(current.reference), _outcome(current.distorted)
            largest = max(largest or 0, *map(_bytes, found))
            fill()
            yield current.pair, *found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Reading:
    """A pair whose images were read, or will be."""

    pair: Pair
    reference: Future[ImageFile]
    distorted: Future[ImageFile]


def _outcome(reading: Future[ImageFile]) -> ImageFile | Exception:
    try:
        return reading.result()
    except Exception as error:
        return error


def _bytes(image: ImageFile | Exception) -> int:
    return 0 if isinstance(image, Exception) else image.pixels.nbytes


def _bytes_of(waiting: Iterable[_Reading], largest: int) -> int:
    """Of all images in a queue; of one that is not yet read, as of the largest."""
    readings = {future for one in waiting for future in (one.reference, one.distorted)}
    return sum(_bytes(_outcome(one)) if one.done() else largest for one in readings)
