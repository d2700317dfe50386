"""Batches: joint crops and flips, exact shuffling, shards, state, masks. With Grain.

Training batches are an endless stream. A seed determines it: the order of examples,
their crops and flips. Neither the number of worker processes nor the number of JAX
processes changes it (each process gets every n-th example of a global batch). So its
state is one number, that of the next batch, and any batch can be read directly.

Evaluation batches go through a set once. Images are batched with others of their size.
A batch that is not full is padded with copies of its last example, where `mask` is
False, so that all batches have one shape and no example counts twice.

A batch is a dict of NumPy arrays: the images uint8 `(B, H, W, 3)`, the columns of the
set's index `(B,)`, and `dataset`, the set's name. Every process gets `batch_size`
divided by the number of processes. A set of pooled pairs, which has numbers in place of
images, is batched in the same way, without crops and flips.

Training batches of a set whose opinions do not all compare also have `group`, int32
`(B,)`: examples that share it can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from spips_jax.data.builder import DataError
from spips_jax.data.dataset import Dataset
from spips_jax.data.units import (
    Augment,
    Batch,
    Dealt,
    Fixed,
    Join,
    Planned,
    Read,
    Units,
)
from spips_jax.images import MIN_SIZE
from spips_jax.kinds import ALIKE


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set in a mixture, with its share and its augmentation.

    Attributes:
      dataset: the examples.
      weight: how often a batch is taken from this set, relative to the other weights.
      crop: side of a square crop in pixels, the same for all images of an example;
        None leaves images whole, which then must have one size.
      flip: whether examples are mirrored left to right at random.
      grouped: whether a batch is made of groups of examples to compare, each under one
        crop and flip: all levels of one distortion of one reference or, if the set's
        opinions compare within a reference, some examples of one reference, drawn anew
        in each epoch.
      unit: how many examples of a reference are such a group, 2 or more.
    """

    dataset: Dataset
    weight: float = 1.0
    crop: int | None = None
    flip: bool = True
    grouped: bool = False
    unit: int = 8


class Batches(Iterator[Batch]):
    """An iterator of batches, whose state can be saved and restored.

    With worker processes, use it as a context manager or `close` it.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        fingerprint: Mapping[str, Any],
        num_workers: int,
        num_threads: int,
        endless: bool,
    ) -> None:
        self._batches = batches
        self._endless = endless
        self._fingerprint = dict(fingerprint)
        self._num_workers = num_workers
        self._num_threads = num_threads
        self._next = 0
        self._iterator: Any = None

    def __len__(self) -> int:
        """Batches in a pass over an evaluation set; an endless stream has no length."""
        if self._endless:
            raise TypeError("a stream of training batches has no length")
        return len(self._batches)

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._start())
        batch = next(self._iterator)
        self._next += 1
        return batch

    def _start(self) -> grain.IterDataset:
        options = grain.ReadOptions(
            num_threads=self._num_threads, prefetch_buffer_size=self._num_threads
        )
        batches = self._batches[self._next :].to_iter_dataset(options)
        if self._num_workers:
            # Grain's workers read absl flags, which fails in a program without absl.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._num_workers, per_worker_buffer_size=2
                )
            )
        return batches

    def get_state(self) -> dict[str, Any]:
        """Returns the state for `set_state`: a small dict of plain values, for JSON."""
        return {"next_batch": self._next, "loader": self._fingerprint}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resumes at the batch that `state` gives as the next.

        Raises:
          DataError: the state of another stream: other data, seed, batch size or
            augmentation.
        """
        theirs = state["loader"]
        for name, mine in self._fingerprint.items():
            if theirs.get(name) != mine:
                raise DataError(
                    f"the saved state is of a loader with {name} {theirs.get(name)},"
                    f" this one has {mine}: resume with the same data and options"
                )
        self.close()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Ends worker processes and threads; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def train_batches(
    sources: Sequence[Source],
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    num_threads: int = 4,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Batches:
    """Returns an endless stream of training batches, each from a single set.

    Args:
      sources: the sets with their weights; each epoch is shuffled differently. An epoch
        holds every example once, except those that fill no group of a reference.
      batch_size: examples in a batch over all JAX processes.
      seed: fixes the whole stream.
      num_workers: processes that read ahead, besides this one; 0 uses threads alone.
        They import the main module again, so it must guard its work with
        `if __name__ == "__main__"`.
      num_threads: threads that decode, in each process.
      process_index: this process's number; JAX's own by default.
      process_count: the number of processes; JAX's own by default.

    Raises:
      DataError: no set or an empty one, a batch not divisible among the processes,
        images too small for the crop, or of several sizes without a crop, groups of
        several sizes, references with too few examples for a group.
    """
    index, count = _process(process_index, process_count)
    local = _local_batch(batch_size, count)
    if not sources:
        raise DataError("there is no set to train on: give at least one source")
    streams = []
    for number, source in enumerate(sources):
        _check_source(source)
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        units = _units(source, own_seed)
        if local % units.size:
            raise DataError(
                f"{source.dataset.name}: a process's batch of {local} does not hold"
                f" whole groups of {units.size}; make the batch a multiple of"
                f" {units.size * count}"
            )
        stream = (
            grain.MapDataset.range(len(units))
            .seed(own_seed)
            .shuffle()
            .repeat()
            # Before the stream is divided among processes: an example's epoch, crop and
            # flip depend on its place in the whole stream.
            .map_with_index(Read(source.dataset, units, _groups(source.dataset)))
            .random_map(Augment(source.crop, source.flip))
        )
        streams.append(
            stream[index::count]
            .batch(local // units.size, drop_remainder=True)
            .map(Join(source.dataset.name))
        )
    mixed = (
        streams[0]
        if len(streams) == 1
        else grain.MapDataset.mix(streams, weights=[s.weight for s in sources])
    )
    fingerprint = {
        "seed": seed,
        "batch_size": batch_size,
        "data": [
            {
                "name": source.dataset.name,
                "examples": len(source.dataset),
                "digest": source.dataset.digest,
                "comparable": source.dataset.comparable,
                "weight": source.weight,
                "crop": source.crop,
                "flip": source.flip,
                "grouped": source.grouped,
                "unit": source.unit,
            }
            for source in sources
        ],
    }
    return Batches(
        mixed,
        fingerprint=fingerprint,
        num_workers=num_workers,
        num_threads=num_threads,
        endless=True,
    )


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    by_reference: bool = False,
    num_workers: int = 0,
    num_threads: int = 4,
    process_index: int | None = None,
    process_count: int | None = None,
    chosen: np.ndarray | None = None,
    tolerant: bool = False,
) -> Batches:
    """Returns the batches of one pass over a set, whole images, with a `mask`.

    Args:
      dataset: the examples.
      batch_size: examples in a batch over all JAX processes.
      by_reference: whether all examples of a batch have one `reference_id`.
      num_workers: as in `train_batches`.
      num_threads: as in `train_batches`.
      process_index: as in `train_batches`.
      process_count: as in `train_batches`.
      chosen: which batches of the plan, a mask or indices; all by default.
      tolerant: whether an example that cannot be read is left out, not raised: its
        `mask` is False, and `failed` of its batch has the error by its position.

    Returns:
      The same number of batches in every process. `mask` `(B,)` is False for the copies
      that pad a batch; over all processes and batches every example is unmasked once.
      `position` `(B,)` is an example's position in the set. Batches are sorted by image
      size, smallest first, then in the set's order; `eval_plan` returns their contents.

    Raises:
      DataError: an empty set, a batch not divisible among the processes.
    """
    index, count = _process(process_index, process_count)
    local = _local_batch(batch_size, count)
    plan = eval_plan(dataset, batch_size=batch_size, by_reference=by_reference)
    plan = plan if chosen is None else plan[chosen]
    plan = plan[:, index * local : (index + 1) * local]
    return Batches(
        grain.MapDataset.source(Planned(dataset, plan, tolerant)),
        fingerprint={
            "batch_size": batch_size,
            "by_reference": by_reference,
            "examples": len(dataset),
            "digest": dataset.digest,
        },
        num_workers=num_workers,
        num_threads=num_threads,
        endless=False,
    )


def eval_plan(
    dataset: Dataset, *, batch_size: int, by_reference: bool = False
) -> np.ndarray:
    """Returns which examples the batches of `eval_batches` hold, over all processes.

    Returns:
      Positions in the set, `(batches, batch_size)`; a copy of example p is -1 - p.

    Raises:
      DataError: an empty set.
    """
    if not len(dataset):
        raise DataError(f"{dataset.name}: there are no examples to evaluate on")
    alike = ("height", "width", *(("reference_id",) if by_reference else ()))
    groups = dataset.positions_by(*alike)
    rows = []
    for group in sorted(groups):
        positions = groups[group]
        for first in range(0, len(positions), batch_size):
            row = positions[first : first + batch_size]
            rows.append(row + [-1 - row[-1]] * (batch_size - len(row)))
    return np.array(rows)


def _process(index: int | None, count: int | None) -> tuple[int, int]:
    count = jax.process_count() if count is None else count
    index = jax.process_index() if index is None else index
    if not 0 <= index < count:
        raise DataError(f"process {index} of {count}: they are 0 to {count - 1}")
    return index, count


def _local_batch(batch_size: int, count: int) -> int:
    if batch_size < 1 or batch_size % count:
        raise DataError(
            f"a batch of {batch_size} cannot be divided among {count} processes: make"
            f" it a multiple of {count}"
        )
    return batch_size // count


def _check_source(source: Source) -> None:
    dataset, crop = source.dataset, source.crop
    if not len(dataset):
        raise DataError(f"{dataset.name}: there are no examples to train on")
    if not source.weight > 0:
        raise DataError(
            f"{dataset.name}: weight {source.weight:g}: it must be above 0; to"
            " exclude the set, leave it out"
        )
    if not dataset.images:
        if crop is not None or source.flip:
            raise DataError(
                f"{dataset.name}: holds no images to crop or flip: set crop to None,"
                " flip to False"
            )
        return
    heights, widths = dataset.index["height"], dataset.index["width"]
    if crop is None:
        sizes = sorted(set(zip(widths.tolist(), heights.tolist(), strict=True)))
        if len(sizes) > 1:
            raise DataError(
                f"{dataset.name}: images from {sizes[0][0]}x{sizes[0][1]} to"
                f" {sizes[-1][0]}x{sizes[-1][1]} make no batch: give a crop"
            )
    elif crop < MIN_SIZE:
        raise DataError(f"crop {crop} is below the {MIN_SIZE} that SPIPS needs")
    elif crop > (smallest := int(min(heights.min(), widths.min()))):
        raise DataError(
            f"{dataset.name}: crop {crop} is larger than the smallest side of its"
            f" images, {smallest}"
        )


def _units(source: Source, seed: int) -> Units:
    """The units to shuffle: single examples or groups."""
    dataset = source.dataset
    if not source.grouped:
        return Fixed(np.arange(len(dataset))[:, None])
    if dataset.comparable == "reference":
        return _dealt(source, seed)
    groups = dataset.positions_by(*ALIKE["group"])
    sizes = sorted({len(group) for group in groups.values()})
    if sizes[0] != sizes[-1] or sizes[0] < 2:
        raise DataError(
            f"{dataset.name}: its groups, levels of a distortion of a reference, have"
            f" {sizes[0]} to {sizes[-1]} examples: all must have the same number, at"
            " least two"
        )
    return Fixed(np.array(list(groups.values())))


def _dealt(source: Source, seed: int) -> Dealt:
    dataset = source.dataset
    if source.unit < 2:
        raise DataError(
            f"{dataset.name}: groups of {source.unit}: there is nothing to compare in"
            " less than 2 examples"
        )
    references = dataset.positions_by(*ALIKE["reference"])
    (least, *_), rows = min(references.items(), key=lambda item: len(item[1]))
    if len(rows) < source.unit:
        raise DataError(
            f"{dataset.name}: reference {least} has {len(rows)} examples, a group takes"
            f" {source.unit}: make unit {len(rows)} or less, or exclude the reference"
        )
    return Dealt(tuple(references.values()), source.unit, seed)


def _groups(dataset: Dataset) -> np.ndarray | None:
    """A code `(N,)` for each example, the same where opinions compare; None if all do.

    Codes count the sorted groups from 0.
    """
    if dataset.comparable not in ALIKE:
        return None
    codes = np.zeros(len(dataset), np.int32)
    groups = dataset.positions_by(*ALIKE[dataset.comparable])
    for code, group in enumerate(sorted(groups)):
        codes[groups[group]] = code
    return codes
