"""Examples, units and batches as Grain reads and transforms them.

A unit is shuffled as a whole: an example, or a group of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from spips_jax.data.dataset import Dataset

Batch = dict[str, Any]


@dataclass(frozen=True)
class Units:
    """Random access to units: dicts whose images are `(G, H, W, 3)`."""

    dataset: Dataset
    units: np.ndarray
    grouped: bool

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, number: int) -> Batch:
        unit = stack([self.dataset[int(position)] for position in self.units[number]])
        if self.grouped:
            unit["group"] = np.full(len(unit["id"]), number, np.int32)
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
    grouped: bool

    def map(self, element: Batch) -> Batch:
        batch = {
            name: value.reshape(-1, *value.shape[2:]) for name, value in element.items()
        }
        return {**batch, "dataset": self.dataset}


@dataclass(frozen=True)
class Planned:
    """Random access to evaluation batches."""

    dataset: Dataset
    plan: np.ndarray

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        row = self.plan[number]
        # A copy repeats an example earlier in the batch or, if this process has only
        # copies, one in another process's batch.
        positions = np.where(row >= 0, row, -1 - row)
        examples = {p: self.dataset[p] for p in dict.fromkeys(positions.tolist())}
        batch = stack([examples[position] for position in positions.tolist()])
        return {
            **batch,
            "position": positions.astype(np.int32),
            "mask": row >= 0,
            "dataset": self.dataset.name,
        }
