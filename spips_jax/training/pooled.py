"""Pooled pairs of a set: computed once by a frozen backbone, and kept on disk.

If the backbone is frozen and images are used whole, the trained parts see each pair
only as its `Pooled`: one vector of a few thousand numbers. These are written to
ArrayRecord files, one record per example, named by a digest of everything that they
depend on. Training on them reads no images.

While a set is computed, chunks of it are kept in a folder beside, so that a process
that is interrupted loses next to nothing, and one that is killed a chunk.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python import array_record_data_source, array_record_module

from spips_jax import parallel
from spips_jax.cache import unwritable
from spips_jax.data.dataset import Dataset
from spips_jax.digests import code_digest, json_digest
from spips_jax.files import locked, replacing
from spips_jax.messages import printable
from spips_jax.training.step import POOLED

_RECORDS = "pooled.array_record"
_CARD = "card.json"

_LEAST = 64
"""Examples of a chunk, half a minute of a CPU's work, or more: see `_CHUNKS`."""
_CHUNKS = 256
"""Chunks of a set at most, beside those that interruptions cut short."""

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
    compute: Callable[[np.ndarray], Iterator[Pair]],
    spare: bool = False,
) -> PooledDataset:
    """Returns a set as pooled pairs, from the cache if they are there.

    What an interrupted call has computed the next one finds in `DIGEST.parts`. Of
    several runs that want the same pairs one computes them, and the others wait.

    Args:
      dataset: the examples.
      folder: where caches are kept.
      network: identifies the network: its parameters, dtype and architecture.
      compute: yields (positions `(B,)`, pooled `(B, n, size)`) of examples, those at
        least that are False in its argument `(N,)`; called in all processes if one of
        them finds no cache.
      spare: whether a folder that cannot be written is replaced, with a warning, by a
        temporary one.

    Raises:
      OSError: the folder cannot be written; what is there is whole.
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
        place.parent.mkdir(parents=True, exist_ok=True)  # fails before any work
        # Processes of one run would wait for each other: they make the same, and bear
        # company.
        alone = jax.process_count() == 1
        with locked(place) if alone else contextlib.nullcontext():
            if not (alone and (place / _CARD).is_file()):
                _build(place, card, compute, len(dataset))
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


def _build(
    place: Path,
    card: dict[str, Any],
    compute: Callable[[np.ndarray], Iterator[Pair]],
    count: int,
) -> None:
    """Computes the pairs that no chunk has, and makes the folder of all of them."""
    parts = place.with_name(f"{place.name}.parts")
    there = (place / _CARD).is_file()
    done = np.full(count, there)
    for positions, _ in () if there else _chunks(parts, count):
        done[positions] = True
    done = parallel.in_all(done)
    if not done.all():
        batches = compute(done)
        if there:  # it is another process that lacks them
            for _ in batches:
                pass
        else:
            _compute(parts, batches, done)
    try:
        if not there:
            _join(parts, place, card, count)
    except (OSError, RuntimeError):
        # Where nothing keeps other processes out, one may have been first.
        if not (place / _CARD).is_file():
            raise
    shutil.rmtree(parts, ignore_errors=True)


def _compute(parts: Path, batches: Iterator[Pair], done: np.ndarray) -> None:
    """Writes what is computed in chunks; an interruption cuts the last one short."""
    size = max(_LEAST, -(-len(done) // _CHUNKS))
    pending: list[Pair] = []
    try:
        for positions, pooled in batches:
            fresh = ~done[positions]
            pending.append((positions[fresh], pooled[fresh]))
            if sum(len(one) for one, _ in pending) >= size:
                _write_chunk(parts, pending)
                pending = []
    finally:
        _write_chunk(parts, pending)


def _write_chunk(parts: Path, pairs: list[Pair]) -> None:
    """Writes a file of pairs, named by where they are in the set."""
    if not sum(len(positions) for positions, _ in pairs):
        return
    positions, pooled = (np.concatenate(one) for one in zip(*pairs, strict=True))
    name = hashlib.sha256(positions.astype("<i8").tobytes()).hexdigest()[:32]
    with replacing(parts / f"{name}.npz") as partial:
        np.savez(partial, positions=positions, pooled=pooled.astype("<f4"))


def _chunks(parts: Path, count: int) -> Iterator[Pair]:
    """The chunks in a folder; those that are damaged are removed, to be made again."""
    for path in sorted(parts.glob("[!.]*.npz")):
        try:
            # Reading checks the sums in the file.
            with path.open("rb") as file, np.load(file) as arrays:
                positions, pooled = arrays["positions"], arrays["pooled"]
            if (
                len(positions) != len(pooled)
                or not np.isin(positions, np.arange(count)).all()
            ):
                raise ValueError("its examples are not the set's")
        except Exception:  # whatever a damaged file raises
            what = "damaged, its examples are computed again"
            sys.stderr.write(printable(f"{path}: {what}") + "\n")
            path.unlink(missing_ok=True)
            continue
        yield positions, pooled


def _join(parts: Path, place: Path, card: dict[str, Any], count: int) -> None:
    """Makes the folder of a set from its chunks, whole or not at all."""
    parts.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(dir=parts))
    try:
        rows = _write(whole / _RECORDS, _chunks(parts, count), count)
        (whole / _CARD).write_text(json.dumps({**card, "rows": rows}))
        whole.rename(place)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise


def _write(path: Path, chunks: Iterator[Pair], count: int) -> list[int]:
    """Writes one record per example, in arrival order; returns each one's record."""
    rows = np.full(count, -1)
    # One record per block: each is read by itself, in any order.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    written = 0
    try:
        for positions, pooled in chunks:
            for position, vector in zip(positions.tolist(), pooled, strict=True):
                if rows[position] < 0:
                    writer.write(np.ascontiguousarray(vector, "<f4").tobytes())
                    rows[position] = written
                    written += 1
    finally:
        writer.close()
    if written != count:
        raise RuntimeError(f"{written} of {count} examples were computed")
    return rows.tolist()


@functools.cache
def _spare_folder() -> Path:
    """A temporary folder, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="spips_pooled.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
