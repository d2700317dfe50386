"""Which pairs of image files `spips score` is asked for."""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from spips_jax.messages import UserError
from spips_jax.outputs import check_files


@dataclass(frozen=True)
class Pair:
    """Two image files, as they were named."""

    reference: str
    distorted: str


def example() -> Pair:
    """The two images that come with the package."""
    from spips_jax.weights import PACKAGE

    folder = PACKAGE / "example"
    return Pair(str(folder / "reference.png"), str(folder / "distorted.jpg"))


def find_pairs(args: argparse.Namespace) -> tuple[list[Pair], list[str]]:
    """The pairs that were asked for, and a line for each that cannot be scored."""
    given = (args.reference is not None, args.pairs is not None, args.example)
    if sum(given) > 1:
        raise UserError(
            "give REFERENCE and DISTORTED, --pairs or --example, only one of them"
        )
    if args.example:
        return [example()], []
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
        return [Pair(args.reference, args.distorted)], []
    return _pairs_of_folders(reference, distorted)


def _pairs_of_list(path: Path) -> tuple[list[Pair], list[str]]:
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
    return pairs, problems


def _pairs_of_folders(reference: Path, distorted: Path) -> tuple[list[Pair], list[str]]:
    """Matches by file name, then by file name without its ending."""
    found = _image_files(distorted)
    if not found:
        raise UserError(f"{distorted}: holds no image file")
    if not reference.is_dir():
        return [Pair(str(reference), str(path)) for path in found], []
    references = _image_files(reference)
    by_name = {path.name: path for path in references}
    by_stem: dict[str, list[Path]] = {}
    for path in references:
        by_stem.setdefault(path.stem, []).append(path)
    pairs, problems = [], []
    for path in found:
        alike = by_stem.get(path.stem, [])
        if path.name in by_name:
            pairs.append(Pair(str(by_name[path.name]), str(path)))
        elif len(alike) == 1:
            pairs.append(Pair(str(alike[0]), str(path)))
        elif alike:
            names = " and ".join(other.name for other in alike)
            problems.append(f"{path}: both {names} in {reference} could be meant")
        else:
            problems.append(f"{path}: no image of this name in {reference}")
    return pairs, problems


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    endings = Image.registered_extensions()
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def map_files(pairs: list[Pair], folder: str | None) -> list[Path | None]:
    """A file name for the heat maps of each pair, all different.

    Raises `UserError` if one would replace an image of a pair, or another file that is
    none of our heat maps.
    """
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
