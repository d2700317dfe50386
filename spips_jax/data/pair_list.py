"""Pair lists: any CSV file with the columns reference, distorted and a score.

The score's column is called `mos` (higher is better) or `dmos` (higher is worse); for
one called `score`, the direction must be declared. Optional columns: `std`,
`distortion`, `level`, `reference_id` (by default the reference's path without its file
extension). Others are ignored, with a warning if one is nearly called so. Paths are
relative to the CSV file's folder.

No file says over what its scores compare: the whole set unless declared, so that
scores of different references can be ordered.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from spips_jax import kinds
from spips_jax.data.builder import (
    Card,
    DataError,
    IqaBuilder,
    Row,
    check_config,
    number,
    read_table,
)
from spips_jax.messages import hint

_COMPARABLE = ("set", "reference")
_SCORES = ("mos", "dmos", "score")
_OPTIONAL = ("std", "distortion", "level", "reference_id")


class PairList(IqaBuilder):
    """A user's own set, from a CSV file."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "config", "csv_file", "direction", "comparable",
    )  # fmt: skip

    def __init__(
        self,
        *,
        csv_file: str | os.PathLike[str],
        config: str,
        direction: str = "",
        comparable: str = "set",
        **options: Any,
    ) -> None:
        """A builder of `pair_list/<config>`.

        Args:
          csv_file: the list.
          config: the set's name.
          direction: "mos" or "dmos", needed only if the column is called score.
          comparable: "set", or "reference" if two scores compare only where their
            images have the same reference, as the points of a tournament do.
          **options: those of `IqaBuilder`.

        Raises:
          DataError: no such file, no score column, several of them, no direction;
            `comparable` is neither; a name that no folder can have.
        """
        check_config(config)
        if comparable not in _COMPARABLE:
            raise DataError(
                f"comparable is {comparable!r}: it is set (any two scores compare) or"
                " reference (only those of one reference do)"
            )
        self._csv = Path(csv_file)
        self._column, opinion, extras = _columns_of(self._csv, direction)
        self._made_with = {
            "csv_file": os.fspath(self._csv.resolve()),
            "csv_file of SHA-256": hashlib.sha256(self._csv.read_bytes()).hexdigest(),
            "direction": opinion,
            "comparable": comparable,
        }
        card = Card(
            title=f"the pair list {config}",
            kind=kinds.PAIRS,
            opinion=opinion,
            scale=(-math.inf, math.inf),
            extras=extras,
            layout=self._csv.name,
            url="",
            licence="the user's own",
            citation="",
            within="" if comparable == "set" else comparable,
        )
        named = tfds.core.BuilderConfig(name=config, version=self.VERSION)
        super().__init__(config=named, card=card, **options)

    @property
    def made_with(self) -> dict[str, Any]:
        return self._made_with

    def find_root(self, manual_dir: Path | None) -> Path:
        return self._csv.parent

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        rows = []
        for where, line in read_table(self._csv, (), title=self.card.title):
            values: dict[str, Any] = {
                "id": line["distorted"],
                "reference_id": line.get("reference_id")
                or os.path.splitext(line["reference"])[0],
                "distortion": line.get("distortion", ""),
                "level": _level(line.get("level") or "0", where),
            }
            for name in (self.card.opinion, *self.card.extras):
                column = self._column if name == self.card.opinion else name
                values[name] = number(line[column], where=where, name=column)
            images = {name: root / line[name] for name in ("reference", "distorted")}
            rows.append(Row(images, values, where))
        return {"full": rows}


def _level(text: str, where: str) -> int:
    level = number(text, where=where, name="level")
    if level != int(level) or level < 0:
        raise DataError(
            f"{where}: level is {text!r}: it must be a whole number, 0 or more"
        )
    return int(level)


def _columns_of(path: Path, direction: str) -> tuple[str, str, tuple[str, ...]]:
    """Returns the score's column, its direction and the extras of a pair list."""
    if direction not in ("", "mos", "dmos"):
        raise DataError(
            f"direction is {direction!r}: it is mos (higher is better) or dmos (higher"
            " is worse)"
        )
    table = read_table(path, ("reference", "distorted"), title="a pair list")
    first = next(table, None)
    if first is None:
        raise DataError(f"{path}: has a header but no rows")
    header = first[1]
    found = [name for name in _SCORES if name in header]
    if len(found) != 1:
        raise DataError(
            f"{path}: has {' and '.join(found) or 'no column'} for the score; it needs"
            " one of mos, dmos, score"
        )
    (column,) = found
    if column == "score" and not direction:
        raise DataError(
            f"{path}: its column score does not state its direction: pass --direction"
            " mos (higher is better) or dmos (higher is worse)"
        )
    if column != "score" and direction not in ("", column):
        raise DataError(
            f"{path}: its column is {column}, the direction given is {direction}: they"
            " contradict each other"
        )
    missing = [name for name in _OPTIONAL if name not in header]
    for name in header:
        # 0.8 is one or two letters: "type" and "reference_path" are no slips.
        known = ("reference", "distorted", *_SCORES, *_OPTIONAL)
        if name not in known and (near := hint(name, missing, cutoff=0.8)):
            warnings.warn(
                f"{path}: its column {name!r} is ignored{near} Then rename it in the"
                " first line",
                stacklevel=2,
            )
    return column, direction or column, ("std",) if "std" in header else ()
