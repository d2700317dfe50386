"""Splits by reference image, and photographs that two sets share.

Pairs of one reference look alike to any network, so a split by pair measures
memorisation. Folds here split the references, by a rule that `sha256sum` can reproduce:

  the references of a set are sorted by the SHA-256 of `"{seed}/{reference_id}"` (UTF-8,
  seed 2504), and the reference at position p belongs to fold `p mod k + 1`.

Tiles of a photograph, `"name#row-column"`, are separate references, but would leak
between folds: the rule uses the photograph's name for them, so they share a fold.

Folds are assigned to all references of a split before any are excluded, so excluding
some never moves the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

FOLD_SEED = 2504

_FOLD = re.compile(r"(\d+)/(\d+)")
_TILE = re.compile(r"#\d+-\d+\Z")


def parse_fold(text: str) -> tuple[int, int]:
    """Parses "3/5", the third of five folds.

    >>> parse_fold("3/5")
    (3, 5)

    Raises:
      ValueError: not of that form, fewer than two folds, no such fold.
    """
    match = _FOLD.fullmatch(text)
    if match is None:
        raise ValueError(f"fold is {text!r}: write it as 3/5, the third of five")
    fold, folds = int(match[1]), int(match[2])
    if folds < 2 or not 1 <= fold <= folds:
        raise ValueError(
            f"fold is {text!r}: with {folds} folds they are 1/{folds} to"
            f" {folds}/{folds}, and there must be at least two"
        )
    return fold, folds


def parse_names(text: str) -> list[str]:
    """Parses a comma-separated list of names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def assign_folds(references: Iterable[str], folds: int) -> dict[str, int]:
    """Returns the fold, 1 to `folds`, of every reference; sizes differ by at most one.

    Tiles of a photograph are in the same fold and count as one reference.

    Raises:
      ValueError: fewer references than folds.
    """
    photographs = {name: _TILE.sub("", name) for name in references}
    unique = sorted(set(photographs.values()), key=_order)
    if len(unique) < folds:
        raise ValueError(
            f"{folds} folds of {len(unique)} references: each fold needs at least one"
        )
    fold = {name: position % folds + 1 for position, name in enumerate(unique)}
    return {name: fold[photograph] for name, photograph in photographs.items()}


def _order(reference: str) -> str:
    return hashlib.sha256(f"{FOLD_SEED}/{reference}".encode()).hexdigest()


_TID = {f"I{number:02d}": f"kodim{number:02d}" for number in range(1, 25)}

_LIVE = {
    "bikes": "kodim05",
    "buildings": "kodim08",
    "caps": "kodim03",
    "house": "kodim22",
    "lighthouse": "kodim19",
    "lighthouse2": "kodim21",
    "ocean": "kodim16",
    "paintedhouse": "kodim24",
    "parrots": "kodim23",
    "plane": "kodim20",
    "rapids": "kodim14",
    "sailing1": "kodim06",
    "sailing2": "kodim09",
    "sailing3": "kodim10",
    "sailing4": "kodim11",
    "statue": "kodim17",
    "stream": "kodim13",
    "woman": "kodim18",
    "womanhat": "kodim04",
}

PHOTOGRAPHS: Mapping[str, Mapping[str, str]] = {
    "tid2013": _TID,
    "tid2008": _TID,
    "live": _LIVE,
}
"""The Kodak photograph that a set's reference was made from, by reference id.

TID's references are crops of the photographs with the same number (I25 is synthetic).
LIVE's are named after their subjects; the table matches the subjects and, for the two
lighthouses, the image's shape. The 19 of LIVE's 29 that are shared agree with a public
list made by comparing the images.
"""


def shared_references(name: str, others: Iterable[str]) -> frozenset[str]:
    """Returns the references of set `name` whose photograph is in a set of `others`.

    Sets without a table in `PHOTOGRAPHS` share none that are known, except
    references with Kodak's own names (`kodim05`), as in a set made from a folder of
    these photographs.
    """
    taken = {photo for other in others for photo in PHOTOGRAPHS.get(other, {}).values()}
    mine = PHOTOGRAPHS.get(name, {photo: photo for photo in _TID.values()})
    return frozenset(reference for reference, photo in mine.items() if photo in taken)
