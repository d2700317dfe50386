"""The sets by name: the list of them, preparing and loading."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from spips_jax.data.bapps import Bapps, BappsJnd
from spips_jax.data.builder import (
    INDEX,
    PROTOCOL,
    DataError,
    IqaBuilder,
    Row,
    check_config,
    how_to_get,
)
from spips_jax.data.csiq import Csiq
from spips_jax.data.dataset import Dataset, open_folder, read_protocol
from spips_jax.data.kadid10k import Kadid10k
from spips_jax.data.live import Live
from spips_jax.data.pair_list import PairList
from spips_jax.data.pieapp import Pieapp, PieappScores
from spips_jax.data.pipal import Pipal
from spips_jax.data.splits import PHOTOGRAPHS, family_of
from spips_jax.data.synthetic import Synthetic
from spips_jax.data.tid import Tid2008, Tid2013
from spips_jax.files import locked
from spips_jax.messages import hint, one_of, some_of

BUILDERS: Mapping[str, type[IqaBuilder]] = {
    builder.name: builder
    for builder in (
        Bapps,
        BappsJnd,
        Kadid10k,
        Tid2013,
        Tid2008,
        Csiq,
        Live,
        Pipal,
        Pieapp,
        PieappScores,
        PairList,
        Synthetic,
    )
}

Progress = Callable[[Sequence[Row], str], Iterable[Row]]


def canonical(name: str) -> str:
    """Returns the one name of a set: "synthetic" is "synthetic/scenes".

    Raises:
      DataError: there is no such set, or it cannot have a name of its own.
    """
    base, slash, config = name.partition("/")
    if base not in BUILDERS:
        raise DataError(one_of("set", base, BUILDERS))
    builder = BUILDERS[base]
    if "config" not in builder.OPTIONS:
        if slash:
            raise DataError(f"there is no set {name!r}: {base} has only that name")
        return base
    config = config or builder.DEFAULT_CONFIG
    if not config:
        raise DataError(f"{base} is no set by itself: give its name, as {base}/NAME")
    check_config(config)
    return f"{base}/{config}"


def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    partial: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    problem: Callable[[str], object] | None = None,
    **options: Any,
) -> Path:
    """Builds a set, unless it is there already; returns its folder.

    Args:
      name: a key of `BUILDERS`, or "pair_list/NAME", "synthetic/NAME".
      data_dir: where prepared sets are kept; by default TFDS's own folder.
      manual_dir: the downloaded set, unpacked: its official folder or the parent. By
        default `data_dir/downloads/manual`, TFDS's convention.
      partial: builds an incomplete set from the files that are there, or takes one that
        was prepared before.
      overwrite: rebuilds the set; the old one stays until the new one is complete, and
        altogether if the new one would lack any of its examples.
      progress: wraps the rows of a split while they are written, for a progress bar.
      problem: called with a line for each row whose images are bad; the set is then
        built without these, and notes them. Without it, the first ends the build.
      **options: those of the builder: `config`, `csv_file`, `direction`, `comparable`
        of `PairList`; `config`, `photographs`, `size` and so on of `Synthetic`.

    Raises:
      DataError: unknown set or option, nothing found to build from, a bad score, no
        good image; the set is there already, made with other options or partial. The
        message is one line, and no partial build is left behind.
    """
    name, options = _named(name, options)
    builder_class = BUILDERS[name.partition("/")[0]]
    root = _root(data_dir)
    # In a folder that is not there: it may not be able to read a damaged set.
    builder = builder_class(data_dir=root / _PREFIX, **options)
    folder = _place(name, root)
    if folder.exists():
        if not overwrite:
            _check_there(name, builder, root, partial=partial, manual_dir=manual_dir)
            return folder
        _check_ours(folder)
    source = _source(builder, root, manual_dir)
    lock = root / folder.relative_to(root).as_posix().replace("/", "-")
    with _scratch(root) as scratch, locked(lock):
        if folder.exists() and not overwrite:  # another process built it meanwhile
            _check_there(name, builder, root, partial=partial, manual_dir=manual_dir)
            return folder
        builder = builder_class(
            data_dir=scratch,
            partial=partial,
            progress=progress,
            problem=problem,
            **options,
        )
        # TFDS prints to standard output, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=scratch / "downloads",
                download_config=tfds.download.DownloadConfig(manual_dir=source),
            )
        if folder.exists() and not overwrite:
            return folder  # another process was quicker, where there are no locks
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_loses_nothing(name, old=folder, new=Path(builder.data_dir))
        _put(Path(builder.data_dir), folder)
    return folder


def _named(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The canonical name of a set to prepare, and the options of its builder."""
    base, _, config = name.partition("/")
    if base not in BUILDERS:
        raise DataError(one_of("set", base, BUILDERS))
    known = BUILDERS[base].OPTIONS
    for option in options:
        if option not in known:
            raise DataError(
                f"{base} has no option {option!r}; it has"
                f" {', '.join(known) or 'none'}{hint(option, known)}"
            )
    options = dict(options)
    if "config" in known:
        given = options.get("config", config)
        if "config" in options:
            check_config(given)
        if config and given != config:
            raise DataError(f"a set has one name, not both {config} and {given}")
        name = canonical(f"{base}/{given}")
        options["config"] = name.partition("/")[2]
    if "csv_file" in known and not options.get("csv_file"):
        raise DataError(f"{name} needs csv_file, the list to build it from")
    return canonical(name), options


def _check_there(
    name: str,
    builder: IqaBuilder,
    root: Path,
    *,
    partial: bool,
    manual_dir: str | os.PathLike[str] | None,
) -> None:
    """Raises unless a set that is there already is what `prepare` was asked for."""
    again = "--overwrite builds it again"
    there = describe(name, data_dir=root)
    if there.partial and not partial:
        raise DataError(
            f"{name} is there already, in part: {there.partial}; {again}, --partial"
            " takes it as it is"
        )
    noted = _noted(_place(name, root))
    made_with = noted.get("made_with")
    if builder.made_with and not isinstance(made_with, dict):
        warnings.warn(
            f"{name} is there already, from a version that did not note its options:"
            f" they may be others; {again}",
            stacklevel=3,
        )
        return
    for option, wanted in builder.made_with.items():
        found = (made_with or {}).get(option)
        if found != wanted:
            raise DataError(
                f"{name} is there already, made with {option} {_shown(found)}; this"
                f" asks for {_shown(wanted)}: {again}, another name makes another set"
            )
    origin = noted.get("root")
    if there.partial and manual_dir and not builder.made_with and origin:
        folder = Path(manual_dir).expanduser().resolve()
        if not Path(origin).is_relative_to(folder):
            raise DataError(
                f"{name} is there already, in part, from {origin}, not {folder}:"
                f" {again}"
            )


def _shown(value: Any) -> str:
    """An option's value, as an error names it."""
    if isinstance(value, list):
        return some_of(value)
    return "none" if value is None else str(value)


def _check_ours(folder: Path) -> None:
    """Raises for a folder in a set's place that holds something else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if names and names.isdisjoint((INDEX, PROTOCOL, "dataset_info.json")):
        raise DataError(
            f"{folder}: is there, and is no prepared set of ours to replace: move it"
        )


def _check_loses_nothing(name: str, *, old: Path, new: Path) -> None:
    """Raises if a new build left out what the old one has."""
    left_out = {(one["split"], one["id"]) for one in _noted(new).get("left_out", ())}
    if not left_out or not (old / INDEX).is_file():
        return
    with (old / INDEX).open(newline="", encoding="utf-8") as file:
        lost = [
            row["id"]
            for row in csv.DictReader(file)
            # A photograph that cannot be read has no tiles: its own name is noted.
            for name in (row["id"], row["reference_id"].rpartition("#")[0])
            if (row["split"], name) in left_out
        ]
    if lost:
        raise DataError(
            f"{name}: the new build would lack {some_of(lost)}, which the prepared set"
            " has; that one stays: mend these images, or use another name or --data_dir"
        )


_REPLACED = ".replaced"
"""Ends the name of a set's folder while another takes its place."""


def _put(new: Path, folder: Path) -> None:
    """Moves a set into its place; what was there is deleted after that, not before."""
    old = folder.with_name(folder.name + _REPLACED)
    _recover(folder)
    shutil.rmtree(old, ignore_errors=True)  # if there still, the folder is newer
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        _recover(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Puts a set back in its place that a killed `_put` had moved away."""
    old = folder.with_name(folder.name + _REPLACED)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def _noted(folder: Path) -> Mapping[str, Any]:
    """What a prepared set notes of how it was made; of earlier versions, nothing."""
    try:
        noted = json.loads((folder / PROTOCOL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where prepared sets are kept."""
    return Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _source(
    builder: IqaBuilder, root: Path, manual_dir: str | os.PathLike[str] | None
) -> Path | None:
    """Returns the folder of a downloaded set, which must exist."""
    if isinstance(builder, PairList | Synthetic):
        return None  # their options name their files
    if manual_dir is None:
        manual_dir = root / "downloads" / "manual"
    manual_dir = Path(manual_dir).expanduser()
    if not manual_dir.is_dir():
        raise DataError(
            f"{manual_dir}: no such folder to build {builder.card.title} from;"
            f" {how_to_get(builder.name, builder.card)}"
        )
    return manual_dir


_PREFIX = "incomplete."
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished build is taken to have been killed."""


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A temporary folder to build in; removes those left by killed builds.

    It is in `root`, so that a complete set can be renamed into place.
    """
    for path in root.glob(f"{_PREFIX}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=_PREFIX) as scratch:
            yield Path(scratch)
    finally:
        if made and not any(root.iterdir()):
            root.rmdir()


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "",
) -> Dataset:
    """Opens a prepared set.

    Args:
      name: a key of `BUILDERS`, or "pair_list/NAME", "synthetic/NAME"; "synthetic"
        alone is "synthetic/scenes".
      data_dir: where prepared sets are kept; by default TFDS's own folder.
      split: one, or several as "train_cnn+train_mix"; all of them by default.

    Raises:
      DataError: unknown set, a set that is not prepared, no such split.
    """
    name = canonical(name)
    root = _root(data_dir)
    dataset = open_folder(_prepared(name, root), name=name, split=split)
    return replace(
        dataset,
        published=_published(name, split, dataset.index["split"]),
        _data_dir=root,
    )


def _published(name: str, split: str, there: Iterable[str]) -> int | None:
    """How many examples splits have, as published; None if that is not known.

    Args:
      name: the set's canonical name.
      split: which, as of `load`.
      there: the splits that there are, which "" means beside those published.
    """
    counts = _counts(name)
    splits = set(split.split("+")) if split else {*there, *counts}
    return sum(counts[one] for one in splits) if splits <= counts.keys() else None


def _counts(name: str) -> Mapping[str, int]:
    """How many examples each split has, as published; without those not published."""
    card = getattr(BUILDERS[name.partition("/")[0]], "CARD", None)
    return {} if card is None else {k: count for k, (count, _) in card.counts.items()}


def protocol(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Over what a prepared set's opinions compare, one of `kinds.COMPARABLE`.

    Args:
      name: as of `load`.
      data_dir: where prepared sets are kept; by default TFDS's own folder.

    Raises:
      DataError: a set that is not prepared, or was by a version that did not note it.
    """
    name = canonical(name)
    return read_protocol(_prepared(name, _root(data_dir)), name=name)


@dataclass(frozen=True)
class Description:
    """What a prepared set holds, without its images.

    Attributes:
      examples: how many there are.
      references: how many there are.
      counted: how many of the examples are in splits whose size is published.
      published: how many these splits have, as published; 0 if none is known.
      left_out: ids of examples whose images were bad when the set was prepared.
    """

    examples: int
    references: int
    counted: int
    published: int
    left_out: tuple[str, ...]

    @property
    def count(self) -> str:
        """How many examples are there, of how many; "" if none is known to lack."""
        if self.published and self.counted != self.published:
            return f"{self.counted:,} of {self.published:,}"
        every = self.examples + len(self.left_out)
        return f"{self.examples:,} of {every:,}" if self.left_out else ""

    @property
    def partial(self) -> str:
        """What of the set is there, in words; "" if nothing is known to be missing."""
        if not self.left_out:
            return self.count
        named = some_of(self.left_out)
        return f"{self.count}; left out, as their images were bad: {named}"


def describe(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Description:
    """Describes a prepared set by its index.

    Args:
      name: as of `load`.
      data_dir: where prepared sets are kept; by default TFDS's own folder.

    Raises:
      DataError: a set that is not prepared, or whose index cannot be read.
    """
    name = canonical(name)
    folder = _prepared(name, _root(data_dir))
    splits: Counter[str] = Counter()
    references = set()
    for split, reference in _index(folder):
        splits[split] += 1
        references.add(reference)
    counts = _counts(name)
    left_out = [str(one["id"]) for one in _noted(folder).get("left_out", ())]
    return Description(
        examples=splits.total(),
        references=len(references),
        counted=sum(splits[split] for split in counts),
        published=sum(counts.values()),
        left_out=tuple(left_out),
    )


def _index(folder: Path) -> list[tuple[str, str]]:
    """The split and the reference of each example of a prepared set."""
    try:
        with (folder / INDEX).open(newline="", encoding="utf-8") as file:
            return [(row["split"], row["reference_id"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error):
        raise DataError(
            f"{folder}: {INDEX} is missing or damaged: prepare the set again with"
            " --overwrite"
        ) from None


def references_of(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, of: str = ""
) -> frozenset[str]:
    """Returns the references of a set, as far as they matter for what it shares.

    Args:
      name: as of `load`.
      data_dir: where prepared sets are kept; by default TFDS's own folder.
      of: the set that may share photographs with it.

    Raises:
      DataError: there is no such set; or it is not prepared, and it could share any
        photographs: a set of one's own, or of the same family as `of`.
    """
    name = canonical(name)
    # Those of a set that is prepared in part are all taken.
    known = frozenset(PHOTOGRAPHS.get(name, ()))
    try:
        folder = _prepared(name, _root(data_dir))
    except DataError:
        own = "/" in name
        if own or (not known and family_of(name) == family_of(of)):
            raise
        return known
    return known.union(reference for _, reference in _index(folder))


def _prepared(name: str, root: Path) -> Path:
    """The folder of a prepared set, by its canonical name."""
    base, _, config = name.partition("/")
    folder = _place(name, root)
    if not folder.is_dir():
        there = [one for one in prepared(root) if one.partition("/")[0] == base]
        named = f" --name {config}" if config != BUILDERS[base].DEFAULT_CONFIG else ""
        raise DataError(
            f"{name} is not prepared in {root}: run spips data prepare {base}{named}"
            + (f", or use {some_of(there)}" if there else "")
            + hint(name, there)
        )
    return folder


def _place(name: str, root: Path) -> Path:
    """The folder of a set, by its canonical name, whether it is prepared or not."""
    folder = root / name / str(BUILDERS[name.partition("/")[0]].VERSION)
    _recover(folder)
    return folder


def prepared(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Returns the names of the sets that `load` finds in `data_dir`."""
    root = _root(data_dir)
    for base in BUILDERS:
        for moved in root.glob(f"{base}/**/*{_REPLACED}"):
            _recover(moved.with_suffix(""))
    return [
        folder.parent.relative_to(root).as_posix()
        for name, builder in BUILDERS.items()
        for pattern in ("*/" if "config" in builder.OPTIONS else "",)
        for folder in sorted(root.glob(f"{name}/{pattern}{builder.VERSION}"))
        if folder.is_dir()
    ]
