"""The sets by name: the list of them, preparing and loading."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from spips_jax.data.bapps import Bapps, BappsJnd
from spips_jax.data.builder import DataError, IqaBuilder, Row, how_to_get
from spips_jax.data.csiq import Csiq
from spips_jax.data.dataset import Dataset, open_folder, read_protocol
from spips_jax.data.kadid10k import Kadid10k
from spips_jax.data.live import Live
from spips_jax.data.pair_list import PairList
from spips_jax.data.pieapp import Pieapp, PieappScores
from spips_jax.data.pipal import Pipal
from spips_jax.data.synthetic import Synthetic
from spips_jax.data.tid import Tid2008, Tid2013

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


def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    partial: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Builds a set, unless it is there already; returns its folder.

    Args:
      name: a key of `BUILDERS`.
      data_dir: where prepared sets are kept; by default TFDS's own folder.
      manual_dir: the downloaded set, unpacked: its official folder or the parent. By
        default `data_dir/downloads/manual`, TFDS's convention.
      partial: builds an incomplete set from the files that are there.
      overwrite: rebuilds the set; the old one stays until the new one is complete.
      progress: wraps the rows of a split while they are written, for a progress bar.
      **options: those of the builder: `config`, `csv_file`, `direction`, `comparable`
        of `PairList`; `config`, `photographs`, `size` and so on of `Synthetic`.

    Raises:
      DataError: unknown set, nothing found to build from, a bad image or score; the
        message is one line, and no partial build is left behind.
    """
    builder_class = _builder_class(name)
    root = _root(data_dir)
    builder = builder_class(data_dir=root, **options)
    folder = Path(builder.data_dir)
    if folder.exists() and not overwrite:
        return folder
    source = _source(builder, root, manual_dir)
    with _scratch(root) as scratch:
        builder = builder_class(
            data_dir=scratch, partial=partial, progress=progress, **options
        )
        # TFDS prints to standard output, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=scratch / "downloads",
                download_config=tfds.download.DownloadConfig(manual_dir=source),
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(scratch / "replaced")
        Path(builder.data_dir).rename(folder)
    return folder


def _builder_class(name: str) -> type[IqaBuilder]:
    if name not in BUILDERS:
        raise DataError(f"no set {name!r}; there are {', '.join(BUILDERS)}")
    return BUILDERS[name]


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
      name: a key of `BUILDERS`, or "pair_list/NAME", "synthetic/NAME".
      data_dir: where prepared sets are kept; by default TFDS's own folder.
      split: one, or several as "train_cnn+train_mix"; all of them by default.

    Raises:
      DataError: unknown set, a set that is not prepared, no such split.
    """
    return open_folder(_prepared(name, data_dir), name=name, split=split)


def protocol(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Over what a prepared set's opinions compare, one of `kinds.COMPARABLE`.

    Args:
      name: as of `load`.
      data_dir: where prepared sets are kept; by default TFDS's own folder.

    Raises:
      DataError: a set that is not prepared, or was by a version that did not note it.
    """
    return read_protocol(_prepared(name, data_dir), name=name)


def _prepared(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of a prepared set."""
    base, _, config = name.partition("/")
    builder_class = _builder_class(base)
    root = _root(data_dir)
    parent = root / base / config if config else root / base
    folder = parent / str(builder_class.VERSION)
    if not folder.is_dir():
        raise DataError(
            f"{name} is not prepared in {root}: run spips data prepare {base}"
        )
    return folder


def prepared(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Returns the names of the sets that `load` finds in `data_dir`."""
    root = _root(data_dir)
    return [
        folder.parent.relative_to(root).as_posix()
        for name, builder in BUILDERS.items()
        for pattern in ("", "*/")
        for folder in sorted(root.glob(f"{name}/{pattern}{builder.VERSION}"))
    ]
