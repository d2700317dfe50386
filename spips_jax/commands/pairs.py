"""Which pairs of image files `spips score` is asked for."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spips_jax.messages import UserError, some_of
from spips_jax.outputs import check_files


@dataclass(frozen=True)
class Pair:
    """Two image files, as they were named."""

    reference: str
    distorted: str


@dataclass(frozen=True)
class Found:
    """What was asked for.

    Attributes:
      pairs: to score.
      problems: a line for each pair that cannot be scored.
      left_out: a line for each kind of file that is in a folder and in no pair.
    """

    pairs: list[Pair]
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def example() -> Pair:
    """The two images that come with the package."""
    from spips_jax.weights import PACKAGE

    folder = PACKAGE / "example"
    return Pair(str(folder / "reference.png"), str(folder / "distorted.jpg"))


def find_pairs(args: argparse.Namespace) -> Found:
    """The pairs that were asked for, and what of folders and lists is in none."""
    given = (args.reference is not None, args.pairs is not None, args.example)
    if sum(given) > 1:
        raise UserError(
            "give REFERENCE and DISTORTED, --pairs or --example, only one of them"
        )
    if args.example:
        return Found([example()])
    if args.pairs is not None:
        return _pairs_of_list(Path(args.pairs))
    if args.reference is None or args.distorted is None:
        raise UserError("give REFERENCE and DISTORTED, --pairs CSV or --example")
    reference, distorted = Path(args.reference), Path(args.distorted)
    if not distorted.is_dir():
        if reference.is_dir():
            raise UserError(
                f"{reference} is a folder, {distorted} is not: give two files, two"
                " folders, or a reference and a folder"
            )
        return Found([Pair(args.reference, args.distorted)])
    return _pairs_of_folders(reference, distorted, recursive=args.recursive)


def _pairs_of_list(path: Path) -> Found:
    pairs, problems = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in ("reference", "distorted"):
                if column not in (reader.fieldnames or ()):
                    raise UserError(
                        f"{path}: line 1 names the columns {reader.fieldnames}: one"
                        f" must be {column}"
                    )
            for row in reader:
                if row["reference"] and row["distorted"]:
                    folder = path.parent
                    reference = str(folder / row["reference"])
                    pairs.append(Pair(reference, str(folder / row["distorted"])))
                else:
                    problems.append(
                        f"{path}: line {reader.line_num}: reference or distorted is"
                        " empty"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as a CSV file: {reason}") from None
    if not pairs and not problems:
        raise UserError(f"{path}: lists no pair")
    return Found(pairs, problems)


@dataclass
class _Tree:
    """A folder's content, by path relative to it; hidden files are passed over.

    Attributes:
      images: files whose ending is one of an image format.
      others: other files.
      folders: folders that were not looked into.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def left_out(self, folder: Path) -> list[str]:
        """A line for each kind of content that is no image."""
        lines = []
        if self.others:
            lines.append(
                f"{folder}: {_count(self.others, 'file')} of no known image format:"
                f" {some_of(self.others)}"
            )
        if self.folders:
            lines.append(
                f"{folder}: {_count(self.folders, 'folder')} in it, not looked into:"
                f" {some_of(self.folders)} (--recursive reads folders, but no links)"
            )
        return lines


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''}"


def _tree(folder: Path, *, recursive: bool) -> _Tree:
    from spips_jax.image_files import is_image_name

    found = _Tree()
    left = [""]
    while left:
        inside = left.pop()
        try:
            entries = sorted(os.scandir(folder / inside), key=lambda one: one.name)
        except OSError:
            if not inside:
                raise
            found.folders.append(f"{inside} (cannot be read)")
            continue
        for entry in entries:
            path = os.path.join(inside, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                # A link to a folder may lead round in a circle.
                open_up = recursive and not entry.is_symlink()
                (left if open_up else found.folders).append(path)
            elif is_image_name(Path(entry.name)) and _may_be_image(entry):
                found.images.append(path)
            else:
                found.others.append(path)
    found.images.sort()
    return found


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    """Not for pipes and devices; for links to nothing, whose pair says so."""
    return entry.is_file() or entry.is_symlink()


def _pairs_of_folders(reference: Path, distorted: Path, *, recursive: bool) -> Found:
    """Matches by relative path, then by relative path without its ending."""
    tree = _tree(distorted, recursive=recursive)
    left_out = tree.left_out(distorted)
    if not tree.images:
        more = f" ({'; '.join(left_out)})" if left_out else ""
        raise UserError(f"{distorted}: holds no image file{more}")
    if not reference.is_dir():
        one = [Pair(str(reference), str(distorted / path)) for path in tree.images]
        return Found(one, left_out=left_out)
    references = _tree(reference, recursive=recursive)
    if not _same(reference, distorted):
        left_out = [*references.left_out(reference), *left_out]
    by_name = set(references.images)
    by_stem: dict[str, list[str]] = {}
    for path in references.images:
        by_stem.setdefault(os.path.splitext(path)[0], []).append(path)
    pairs: list[Pair] = []
    problems: list[str] = []
    alone: list[str] = []
    met: set[str] = set()
    for path in tree.images:
        alike = by_stem.get(os.path.splitext(path)[0], [])
        if path in by_name:
            alike = [path]
        met.update(alike)
        if len(alike) == 1:
            pairs.append(Pair(str(reference / alike[0]), str(distorted / path)))
        elif alike:
            names = " and ".join(alike)
            problems.append(
                f"{distorted / path}: both {names} in {reference} could be meant"
            )
        else:
            alone.append(path)
    left_out += _without(alone, distorted, "has no image of its name", reference)
    missed = [path for path in references.images if path not in met]
    left_out += _without(missed, reference, "has no image of its name", distorted)
    return Found(pairs, problems, left_out)


def _same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other)


def _without(names: list[str], folder: Path, why: str, where: Path) -> list[str]:
    if not names:
        return []
    if len(names) == 1:
        return [f"{folder / names[0]}: {where} {why}"]
    return [
        f"{folder}: {len(names)} images of which {where} has none by their names:"
        f" {some_of(names)}"
    ]


def map_files(pairs: Iterable[Pair], folder: str | None) -> list[Path | None]:
    """A file name for the heat maps of each pair, all different.

    Raises `UserError` if one would replace an image of a pair, or another file that is
    none of our heat maps.
    """
    pairs = list(pairs)
    if folder is None:
        return [None] * len(pairs)
    names: set[str] = set()
    files: list[Path] = []
    for pair in pairs:
        stem = name = Path(pair.distorted).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.add(name)
        files.append(Path(folder) / f"{name}.png")
    images = [image for pair in pairs for image in (pair.reference, pair.distorted)]
    check_files(files, inputs=images, option="--maps folder")
    return [*files]


def make_folder(folder: str) -> None:
    """Makes the folder of heat maps."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from None
