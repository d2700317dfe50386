"""Examples, units and batches as Grain reads and transforms them.

A unit is shuffled as a whole: an example, or a group of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import grain
import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.messages import UserError

Batch = dict[str, Any]


class Units(Protocol):
    """Which examples make a unit.

    Attributes:
      size: examples in a unit.
    """

    @property
    def size(self) -> int: ...

    def __len__(self) -> int: ...

    def positions(self, number: int, epoch: int) -> np.ndarray:
        """Positions `(size,)` in the set of a unit's examples, in an epoch."""


@dataclass(frozen=True)
class Fixed:
    """Units of the same examples in every epoch, by position, `(U, size)`."""

    table: np.ndarray

    @property
    def size(self) -> int:
        return self.table.shape[1]

    def __len__(self) -> int:
        return len(self.table)

    def positions(self, number: int, epoch: int) -> np.ndarray:
        return self.table[number]


@dataclass(frozen=True)
class Dealt:
    """Units of examples of one reference, dealt anew in every epoch.

    A reference has as many units as are full; which of its examples are in none is
    drawn anew too.

    Attributes:
      references: the positions of each reference's examples.
      size: examples in a unit.
      seed: fixes all epochs.
    """

    references: Sequence[Sequence[int]]
    size: int
    seed: int

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(rows) // self.size for rows in self.references])

    def positions(self, number: int, epoch: int) -> np.ndarray:
        reference = int(np.searchsorted(self._ends, number, side="right"))
        rows = self.references[reference]
        rng = np.random.default_rng([self.seed, epoch, reference])
        last = (int(self._ends[reference]) - number) * self.size
        return rng.permutation(rows)[last - self.size : last]


@dataclass(frozen=True)
class Read(grain.transforms.MapWithIndex):
    """From a unit's number and its place in the endless stream to its examples.

    They are a dict whose images are `(size, H, W, 3)`, with `group`, from `groups`
    `(N,)`, where opinions do not compare over the whole set.
    """

    dataset: Dataset
    units: Units
    groups: np.ndarray | None

    def map_with_index(self, index: int, element: int) -> Batch:
        positions = self.units.positions(element, index // len(self.units))
        unit = stack([self.dataset[position] for position in positions.tolist()])
        if self.groups is not None:
            unit["group"] = self.groups[positions]
        return unit


_LEFT_OUT = ("split", "height", "width")
"""Columns that a batch does not need: the image arrays have the size."""


def stack(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stacks examples into arrays `(B, ...)`, without the columns in `_LEFT_OUT`."""
    return {
        name: np.stack([example[name] for example in examples])
        for name in examples[0]
        if name not in _LEFT_OUT
    }


@dataclass(frozen=True)
class Augment(grain.transforms.RandomMap):
    """One crop and one flip for all the images of a unit."""

    crop: int | None
    flip: bool

    def random_map(self, element: Batch, rng: np.random.Generator) -> Batch:
        images = [name for name, value in element.items() if value.ndim == 4]
        if not images:
            return element
        _, height, width, _ = element[images[0]].shape
        crop_height, crop_width = self.crop or height, self.crop or width
        top = rng.integers(height - crop_height + 1)
        left = rng.integers(width - crop_width + 1)
        step = -1 if self.flip and rng.integers(2) else 1
        window = np.s_[:, top : top + crop_height, left : left + crop_width]
        for name in images:
            element = {**element, name: element[name][window][:, :, ::step]}
        return element


@dataclass(frozen=True)
class Join(grain.transforms.Map):
    """Reshapes stacked units `(B / G, G, ...)` to a batch `(B, ...)`; adds the set."""

    dataset: str

    def map(self, element: Batch) -> Batch:
        batch = {
            name: value.reshape(-1, *value.shape[2:]) for name, value in element.items()
        }
        return {**batch, "dataset": self.dataset}


@dataclass(frozen=True)
class Planned:
    """Random access to evaluation batches.

    Attributes:
      dataset: the examples.
      plan: which of them each batch holds, as `loader.eval_plan` gives.
      tolerant: whether an example that cannot be read is left out instead of raising:
        another is in its place, where `mask` is False, and the batch has `failed`, the
        errors by position. A batch for which memory is too short has no images, and
        the error as `unread`.
    """

    dataset: Dataset
    plan: np.ndarray
    tolerant: bool = False

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        row = self.plan[number]
        try:
            return self._read(row)
        except MemoryError as error:
            if not self.tolerant:
                raise
            return {**self._places(row), "failed": {}, "unread": error}

    def _read(self, row: np.ndarray) -> Batch:
        # A copy repeats an example earlier in the batch or, if this process has only
        # copies, one in another process's batch.
        positions = np.where(row >= 0, row, -1 - row)
        examples: dict[int, Batch] = {}
        failed: dict[int, Exception] = {}
        for position in dict.fromkeys(positions.tolist()):
            try:
                examples[position] = self.dataset[position]
            except UserError as error:
                if not self.tolerant:
                    raise
                failed[position] = error
        spare = next(iter(examples.values()), None) or self._blank(int(positions[0]))
        batch = stack([examples.get(p, spare) for p in positions.tolist()])
        batch |= self._places(row)
        if self.tolerant:
            batch["mask"] &= ~np.isin(positions, list(failed))
            batch["failed"] = failed
        return batch

    def _places(self, row: np.ndarray) -> Batch:
        """What a batch has beside its examples."""
        return {
            "position": np.where(row >= 0, row, -1 - row).astype(np.int32),
            "mask": row >= 0,
            "dataset": self.dataset.name,
        }

    def _blank(self, position: int) -> Batch:
        """An example with black images of its size."""
        index = self.dataset.index
        example = {name: column[position] for name, column in index.items()}
        shape = int(example["height"]), int(example["width"]), 3
        black = np.zeros(shape, np.uint8)
        return example | dict.fromkeys(self.dataset.images, black)
