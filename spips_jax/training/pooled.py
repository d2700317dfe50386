"""Pooled pairs of a set: computed once by a frozen backbone, and kept on disk.

If the backbone is frozen and images are used whole, the trained parts see each pair
only as its `Pooled`: one vector of a few thousand numbers. These are written to
ArrayRecord files, one record per example, named by a digest of everything that they
depend on. Training on them reads no images.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from spips_jax import parallel
from spips_jax.cache import unwritable
from spips_jax.data.dataset import Dataset
from spips_jax.digests import code_digest, json_digest
from spips_jax.training.step import POOLED

_RECORDS = "pooled.array_record"
_CARD = "card.json"

_CODE = (
    "backbones", "classical", "facts", "images", "spips", "streams", "winograd",
    "training/step",
)  # fmt: skip
"""The code that pooled pairs depend on, beside weights and images."""

Pair = tuple[np.ndarray, np.ndarray]
"""Positions in a set `(B,)`, and what was computed for the examples there."""


@dataclass(frozen=True)
class PooledDataset(Dataset):
    """Examples of a set with `pooled`, float32 `(n, size)`, in place of images.

    `n` is how many pairs of the example are compared.
    """

    @property
    def images(self) -> tuple[str, ...]:
        return ()

    def __getitem__(self, position: int) -> dict[str, Any]:
        position = range(len(self))[position]
        example = {name: column[position] for name, column in self.index.items()}
        record = self._source[int(self._rows[position])]
        pooled = np.frombuffer(record, "<f4")
        example[POOLED] = pooled.reshape(len(self.kind.compared), -1)
        return example


def pooled_dataset(
    dataset: Dataset,
    *,
    folder: str | os.PathLike[str],
    network: str,
    compute: Callable[[], Iterator[Pair]],
    spare: bool = False,
) -> PooledDataset:
    """Returns a set as pooled pairs, from the cache if they are there.

    Args:
      dataset: the examples.
      folder: where caches are kept.
      network: identifies the network: its parameters, dtype and architecture.
      compute: yields (positions `(B,)`, pooled `(B, n, size)`), every example once;
        called in all processes if one of them finds no cache.
      spare: whether a folder that cannot be written is replaced, with a warning, by a
        temporary one.

    Raises:
      OSError: the folder cannot be written; nothing half-written is left.
    """
    card = {
        "code": code_digest(*_CODE),
        "network": network,
        "set": dataset.name,
        "ids": dataset.digest,
        "source": dataset.fingerprint,
    }
    place = Path(folder).expanduser() / json_digest(card)[:32]
    # All processes must compute together, but each may have its own folder.
    if not parallel.everywhere((place / _CARD).is_file()):
        problem = unwritable(place.parent) if spare else ""
        if problem:
            warnings.warn(
                f"{problem}: the pooled pairs of {dataset.name} are kept for this run"
                f" only, in {_spare_folder()}; set SPIPS_HOME or data.cache_dir to a"
                " folder that can be",
                stacklevel=2,
            )
            place = _spare_folder() / place.name
        with _building(place) as partial:
            rows = _write(partial / _RECORDS, compute(), len(dataset))
            (partial / _CARD).write_text(json.dumps({**card, "rows": rows}))
    written = json.loads((place / _CARD).read_text())
    return PooledDataset(
        name=dataset.name,
        kind=dataset.kind,
        opinion=dataset.opinion,
        comparable=dataset.comparable,
        index=dataset.index,
        fingerprint=dataset.fingerprint,
        _source=array_record_data_source.ArrayRecordDataSource([str(place / _RECORDS)]),
        _rows=np.array(written["rows"]),
        _references=dataset._references,
        published=dataset.published,
        _data_dir=dataset._data_dir,
    )


def _write(path: Path, batches: Iterator[Pair], count: int) -> list[int]:
    """Writes one record per example, in arrival order; returns each one's record."""
    rows = np.full(count, -1)
    # One record per block: each is read by itself, in any order.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    written = 0
    try:
        for positions, pooled in batches:
            for position, vector in zip(positions.tolist(), pooled, strict=True):
                writer.write(np.ascontiguousarray(vector, "<f4").tobytes())
                rows[position] = written
                written += 1
    finally:
        writer.close()
    if written != count or (rows < 0).any():
        raise RuntimeError(f"{written} of {count} examples were computed")
    return rows.tolist()


@functools.cache
def _spare_folder() -> Path:
    """A temporary folder, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="spips_pooled.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def _building(place: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `place` if nothing fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix="incomplete."))
    try:
        yield partial
        try:
            partial.rename(place)
        except OSError:
            if not (place / _CARD).is_file():
                raise
            # Another process made the same meanwhile.
    finally:
        shutil.rmtree(partial, ignore_errors=True)
