"""Splits by reference image, and photographs that sets share.

Pairs of one reference look alike to any network, so a split by pair measures
memorisation. Folds here split the references, by a rule that `sha256sum` can reproduce:

  references are sorted by the SHA-256 of `"{seed}/{reference_id}"` (UTF-8, seed 2504),
  and the one at position p belongs to fold `p mod k + 1`.

Sets share the photographs of Kodak, and one that is held out must be held out of all of
them. So a reference that is one of Kodak's, by `PHOTOGRAPHS` or by its own name
(`kodim05`, in any folder), is sorted by that name, among all 24 photographs, whatever
others its set has: its fold is the same in every set. The other references of a set are
sorted among themselves. Each of both parts is spread evenly over the folds if a set has
all 24.

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
_FOLDERS = re.compile(r".*[/\\]")


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


def assign_folds(
    references: Iterable[str], folds: int, *, dataset: str = ""
) -> dict[str, int]:
    """Returns the fold, 1 to `folds`, of every reference, by the rule of the module.

    Tiles of a photograph are in the same fold and count as one reference. Without
    photographs of Kodak, or with all 24 and no others, sizes differ by at most one.

    Args:
      references: ids of all references of a set.
      folds: how many.
      dataset: the set's name, a key of `PHOTOGRAPHS` if it has photographs of Kodak
        under other names.

    Raises:
      ValueError: fewer references than folds.
    """
    photographs = {name: photograph_of(name, dataset=dataset) for name in references}
    unique = set(photographs.values())
    if len(unique) < folds:
        raise ValueError(
            f"{folds} folds of {len(unique)} references: each fold needs at least one"
        )
    fold = {
        name: position % folds + 1
        for names in (KODAK, unique - KODAK)
        for position, name in enumerate(sorted(names, key=_order))
    }
    return {name: fold[photograph] for name, photograph in photographs.items()}


def photograph_of(reference: str, *, dataset: str = "") -> str:
    """Returns what photograph a reference was made from.

    Args:
      reference: its id.
      dataset: the set's name.

    Returns:
      Kodak's name, such as "kodim05", of one of `KODAK`; otherwise the id, without the
      place of a tile.
    """
    whole = _TILE.sub("", reference)
    found = PHOTOGRAPHS.get(dataset, {}).get(whole, whole)
    own = _FOLDERS.sub("", found)
    return own if own in KODAK else found


def _order(reference: str) -> str:
    return hashlib.sha256(f"{FOLD_SEED}/{reference}".encode()).hexdigest()


KODAK = frozenset(f"kodim{number:02d}" for number in range(1, 25))
"""The photographs of the Kodak Lossless True Color Image Suite, by their file names."""

_TID = {f"I{number:02d}": f"kodim{number:02d}" for number in range(1, 25)}
_TID["I25"] = "I25"  # painted by a computer, in both sets

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

TID's references are crops of the photographs with the same number; I25, which is none
of Kodak's, is in both of its sets.
LIVE's are named after their subjects; the table matches the subjects and, for the two
lighthouses, the image's shape. The 19 of LIVE's 29 that are shared agree with a public
list made by comparing the images.
"""


_FAMILIES = {"tid2008": "tid2013", "pieapp_scores": "pieapp"}
"""Sets whose references are those of another, under the same names."""

_OWN = ("pair_list/", "synthetic/")


def family_of(dataset: str) -> str:
    """Returns what a set has its references from: alike where ids mean the same.

    Among the sets that users make themselves, a name is taken to mean one photograph.
    """
    own = dataset.startswith(_OWN)
    return "" if own else _FAMILIES.get(dataset, dataset)


def shared_references(
    references: Iterable[str],
    others: Mapping[str, Iterable[str]],
    *,
    dataset: str = "",
) -> frozenset[str]:
    """Returns the references whose photograph is in one of the sets `others`.

    That is one of Kodak's by whatever name a set has for it or, in sets of one family,
    one of the same name.

    Args:
      references: ids of a set's references.
      others: the ids of other sets' references, by the name of the set.
      dataset: the name of the references' own set.
    """
    taken = {_scene(one, other) for other, names in others.items() for one in names}
    return frozenset(name for name in references if _scene(name, dataset) in taken)


def _scene(reference: str, dataset: str) -> tuple[str, str]:
    """The same for all names of a photograph."""
    photograph = photograph_of(reference, dataset=dataset)
    if photograph in KODAK:
        return "kodak", photograph
    family = family_of(dataset)
    return family, photograph if family else _FOLDERS.sub("", photograph)
