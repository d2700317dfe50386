"""A prepared set, opened: examples by position, tables without images, folds.

The builder that wrote a set is not needed: TFDS reads the set from its folder. The
records are ArrayRecord files, images are decoded by Pillow, and TensorFlow is not used.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from spips_jax.data.builder import INDEX, PROTOCOL, TEXT, WHOLE, DataError
from spips_jax.data.splits import assign_folds, parse_fold, shared_references
from spips_jax.kinds import COMPARABLE, KINDS, Kind
from spips_jax.messages import hint, one_line


@dataclass(frozen=True)
class Dataset:
    """Examples of a prepared set, all of them or some.

    `dataset[i]` is a dict: the images as uint8 `(H, W, 3)`, `id`, `reference_id` and
    `distortion` as str; `level`, the opinion (`mos`, `dmos`, `judgement`, `same`) and
    the set's further features as NumPy scalars.

    Attributes:
      name: the set's name.
      kind: what an example holds, a record of `spips_jax.kinds`.
      opinion: the name of the human score, a key of `agreement.OPINIONS`, which has its
        direction.
      comparable: over what two opinions can be compared, one of `kinds.COMPARABLE`.
      index: every feature that is not an image, by name, as a column `(N,)`.
      fingerprint: a digest of the names, sizes and times of the record files; changes
        when they do.
      published: how many examples the set's authors publish for the splits that were
        loaded, whatever was selected since; None if that is not known.
    """

    name: str
    kind: Kind
    opinion: str
    comparable: str
    index: Mapping[str, np.ndarray]
    fingerprint: str
    _source: Any
    _rows: np.ndarray
    _references: frozenset[str]
    published: int | None = None
    _data_dir: Path | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """The names of an example's images."""
        return self.kind.images

    @property
    def references(self) -> tuple[str, ...]:
        """The reference ids of these examples, sorted."""
        return tuple(sorted(set(self.index["reference_id"].tolist())))

    @property
    def all_references(self) -> frozenset[str]:
        """The reference ids of all that was opened, by which folds are assigned."""
        return self._references

    @property
    def digest(self) -> str:
        """SHA-256 of the examples' ids, in their order."""
        return hashlib.sha256("\n".join(self.index["id"].tolist()).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        position = range(len(self))[position]  # IndexError, negatives: as in a list
        record = self._record(position)
        example: dict[str, Any] = {
            name: column[position] for name, column in self.index.items()
        }
        for name in TEXT:
            example[name] = str(example[name])
        if record["id"].decode() != example["id"]:
            raise DataError(
                f"{self.name}: record {self._rows[position]} is"
                f" {record['id'].decode()}, {INDEX} says {example['id']}: prepare the"
                " set again with --overwrite"
            )
        for name in self.images:
            try:
                example[name] = _decode(record[name])
            except MemoryError:
                raise
            except Exception as error:  # Pillow's are of many types
                raise DataError(
                    f"{self.name}: {name} of {example['id']} cannot be decoded"
                    f" ({one_line(error)}): prepare the set again with --overwrite"
                ) from error
            self._check_size(name, example)
        return example

    def _record(self, position: int) -> Any:
        """The stored example; `DataError` if its record is damaged."""
        row = int(self._rows[position])
        try:
            return self._source[row]
        except MemoryError:
            raise
        except Exception as error:  # of the reader or of the parser, of many types
            raise DataError(
                f"{self.name}: the record of {self.index['id'][position]} cannot be"
                f" read ({one_line(error)}): prepare the set again with --overwrite"
            ) from error

    def _check_size(self, name: str, example: Mapping[str, Any]) -> None:
        size = example["height"], example["width"], 3
        if example[name].shape != size:
            raise DataError(
                f"{self.name}: {name} of {example['id']} has the shape"
                f" {example[name].shape}, {INDEX} says {tuple(map(int, size))}: prepare"
                " the set again with --overwrite"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))

    def positions_by(self, *columns: str) -> dict[tuple[Any, ...], list[int]]:
        """Positions of the examples, grouped by their values in columns of `index`."""
        positions: dict[tuple[Any, ...], list[int]] = {}
        keys = zip(*(self.index[name].tolist() for name in columns), strict=True)
        for position, key in enumerate(keys):
            positions.setdefault(key, []).append(position)
        return positions

    def select(self, chosen: np.ndarray | Sequence[int]) -> Dataset:
        """Returns the examples in a boolean mask `(N,)`, or at positions, in order."""
        chosen = np.asarray(chosen)
        positions = np.arange(len(self))[chosen if chosen.size else chosen.astype(int)]
        return replace(
            self,
            index={name: column[positions] for name, column in self.index.items()},
            _rows=self._rows[positions],
        )

    def fold(self, fold: str) -> tuple[Dataset, Dataset]:
        """Returns (training, held-out) examples: "3/5" holds out the third of five.

        Folds are by reference; `spips_jax.data.splits` states the rule, by which a
        photograph that sets share is in the same fold of each.

        Raises:
          DataError: a malformed fold, fewer references than folds, or none in this one.
        """
        try:
            number, folds = parse_fold(fold)
            assigned = assign_folds(self._references, folds, dataset=self.name)
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from None
        if number not in assigned.values():
            there = [f"{one}/{folds}" for one in sorted(set(assigned.values()))]
            raise DataError(
                f"{self.name}: no reference is in fold {fold}: photographs of Kodak are"
                f" in the same fold of every set; use {', '.join(there)}"
            )
        held_out = np.array(
            [assigned[name] == number for name in self.index["reference_id"].tolist()],
            bool,
        )
        return self.select(~held_out), self.select(held_out)

    def exclude_references(self, references: Iterable[str]) -> Dataset:
        """Returns the examples of all other references.

        Raises:
          DataError: a reference that the set does not have.
        """
        references = set(references)
        unknown = sorted(references - self._references)
        if unknown:
            raise DataError(
                f"{self.name}: has no reference {', '.join(unknown)}; it has"
                f" {', '.join(sorted(self._references)[:8])} ..."
                f"{hint(unknown[0], self._references)}"
            )
        return self.select(~np.isin(self.index["reference_id"], sorted(references)))

    def exclude_shared(self, others: Iterable[str]) -> Dataset:
        """Returns the examples whose photograph is in none of the sets `others`.

        A photograph of Kodak is known by its own name and by those that
        `splits.PHOTOGRAPHS` lists; other photographs of one's own sets by their names.

        Args:
          others: names of sets, as of `load`, with a prepared set's own references.

        Raises:
          DataError: a set that there is not, or one whose photographs are not known
            because it is not prepared.
        """
        # Not at the top: `sets` opens sets by this module.
        from spips_jax.data.sets import references_of

        known = {
            name: references_of(name, data_dir=self._data_dir, of=self.name)
            for name in others
        }
        shared = shared_references(self._references, known, dataset=self.name)
        return self.exclude_references(shared)


def open_folder(
    folder: str | os.PathLike[str], *, name: str, split: str = ""
) -> Dataset:
    """Opens a prepared set from its folder, the one with `dataset_info.json`.

    Args:
      folder: the folder.
      name: the set's name.
      split: one split, or several as "train_cnn+train_mix"; all of them by default.

    Raises:
      DataError: no prepared set there, or no such split.
    """
    path = Path(folder)
    index_file = path / INDEX
    if not index_file.is_file():
        raise DataError(f"{path}: no prepared set there ({INDEX} is missing)")
    builder = tfds.builder_from_directory(path)
    features = builder.info.features
    kind, opinion = _kind(features, path)
    available = list(builder.info.splits)
    wanted = split.split("+") if split else available
    for one in wanted:
        if one not in available:
            raise DataError(
                f"{name}: has no split {one!r}; it has {available}"
                f"{hint(one, available)}"
            )
    if len(set(wanted)) < len(wanted):
        raise DataError(f"{name}: split is {split!r}: name each split once")
    decoders = {image: tfds.decode.SkipDecoding() for image in kind.images}
    source = builder.as_data_source("+".join(wanted), decoders=decoders)
    index = _read_index(index_file, wanted)
    if len(index["id"]) != len(source):
        raise DataError(
            f"{path}: {INDEX} has {len(index['id'])} examples, the records"
            f" {len(source)}: prepare the set again with --overwrite"
        )
    return Dataset(
        name=name,
        kind=kind,
        opinion=opinion,
        comparable=read_protocol(path, name=name),
        index=index,
        fingerprint=_fingerprint(path),
        _source=source,
        _rows=np.arange(len(source)),
        _references=frozenset(index["reference_id"].tolist()),
    )


def read_protocol(path: Path, *, name: str) -> str:
    """Over what a prepared set's opinions compare, one of `kinds.COMPARABLE`.

    Args:
      path: the set's folder.
      name: the set's name.

    Raises:
      DataError: the folder does not say, as those of earlier versions.
    """
    try:
        found = json.loads((path / PROTOCOL).read_text())["comparable"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found not in COMPARABLE:
        raise DataError(
            f"{path}: {PROTOCOL} does not say over what the opinions of {name} can be"
            " compared: prepare the set again with --overwrite"
        )
    return found


def _fingerprint(path: Path) -> str:
    files = sorted(file for file in path.iterdir() if "array_record" in file.name)
    facts = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _kind(features: Mapping[str, Any], path: Path) -> tuple[Kind, str]:
    images = {
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    # Ranks are tried last: every set has a level, but only theirs is the opinion.
    for kind in sorted(KINDS.values(), key=lambda kind: "level" in kind.opinions):
        for opinion in kind.opinions:
            if images == set(kind.images) and opinion in features:
                return kind, opinion
    raise DataError(f"{path}: not an IQA set; its features are {sorted(features)}")


def _read_index(path: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader)
        rows: dict[str, list[list[str]]] = {split: [] for split in splits}
        for row in reader:
            if row[0] in rows:
                rows[row[0]].append(row)
    # In the order in which TFDS concatenates the splits.
    columns = zip(*(row for split in splits for row in rows[split]), strict=True)
    index = {}
    for name, column in zip(header, columns, strict=True):
        if name in ("split", *TEXT):
            index[name] = np.array(column)
        else:
            index[name] = np.array(column, np.int32 if name in WHOLE else np.float32)
    return index


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        return np.array(file)
