"""CSIQ: 30 references, 6 distortions at 4 or 5 levels.

Scores are in `csiq.DMOS.xlsx`, sheet `all_by_image`, below a header that is not in the
first row or column: `image`, `dst_idx`, `dst_type`, `dst_lev`, `dmos_std`, `dmos`. The
image called 1600 is a number there, the others are text. Files are called
`1600.AWGN.1.png`, in upper or lower case; they are in one folder per distortion or, in
some copies, all in `dst_imgs`.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from spips_jax import kinds
from spips_jax.data.builder import (
    Card,
    DataError,
    Folder,
    IqaBuilder,
    Row,
    number,
)
from spips_jax.messages import one_line

_SHEET = "all_by_image"
_COLUMNS = ("image", "dst_type", "dst_lev", "dmos_std", "dmos")

_KINDS = {
    "noise": ("AWGN", "white_noise"),
    "blur": ("BLUR", "gaussian_blur"),
    "contrast": ("contrast", "contrast_decrement"),
    "fnoise": ("fnoise", "pink_noise"),
    "jpeg": ("JPEG", "jpeg"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
}
"""By type, the token in file names (lower-cased, the folder) and our name."""


class Csiq(IqaBuilder):
    """CSIQ: 866 images of 512x512, 30 references, 6 distortions, up to 5 levels."""

    MARKER = "csiq.DMOS.xlsx"
    ROOTS = ("CSIQ",)
    CARD: ClassVar[Card] = Card(
        title="CSIQ",
        kind=kinds.PAIRS,
        opinion="dmos",
        scale=(0.0, 1.0),
        extras=("std",),
        counts={"full": (866, 30)},
        layout="""\
csiq.DMOS.xlsx
src_imgs/1600.png
dst_imgs/awgn/1600.AWGN.1.png""",
        url="https://s2.smu.edu/~eclarson/csiq.html",
        licence="free for research, with citation",
        citation="""\
@article{larson2010csiq,
  title   = {Most apparent distortion: full-reference image quality assessment and the
             role of strategy},
  author  = {Larson, Eric C. and Chandler, Damon M.},
  journal = {Journal of Electronic Imaging},
  volume  = {19},
  number  = {1},
  pages   = {011006},
  year    = {2010}
}""",
    )

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        title = self.card.title
        references = Folder(root / "src_imgs", title=title)
        folder_of = _distorted_folders(root / "dst_imgs", title=title)
        rows = []
        for where, cells in _read_sheet(root / self.MARKER):
            image, kind = cells["image"], cells["dst_type"].lower()
            if not image:
                raise DataError(f"{where}: image is empty; it must name a reference")
            if kind not in _KINDS:
                raise DataError(
                    f"{where}: dst_type is {cells['dst_type']!r}, {title} has"
                    f" {', '.join(_KINDS)}"
                )
            token, distortion = _KINDS[kind]
            level = number(cells["dst_lev"], where=where, name="dst_lev")
            if level not in range(1, 6):
                raise DataError(f"{where}: dst_lev is {level:g}, levels are 1 to 5")
            name = f"{image}.{token}.{level:.0f}"
            values = {
                "id": name.lower(),
                "reference_id": image.lower(),
                "distortion": distortion,
                "level": int(level),
                "dmos": number(cells["dmos"], where=where, name="dmos"),
                "std": number(cells["dmos_std"], where=where, name="dmos_std"),
            }
            images = {
                "reference": references.find(f"{image}.png", where=where),
                "distorted": folder_of(token).find(f"{name}.png", where=where),
            }
            rows.append(Row(images, values, where))
        return {"full": rows}


def _distorted_folders(path: Path, *, title: str) -> Callable[[str], Folder]:
    """Returns a function from a token to its images' folder: its own, or `path`."""
    everything = Folder(path, title=title)
    if not any(token in everything for token, _ in _KINDS.values()):
        return lambda token: everything

    @functools.cache
    def folder_of(token: str) -> Folder:
        folder = token.lower()
        if folder in everything:
            return Folder(everything.find(folder, where=path.name), title=title)
        return Folder(path / folder, title=title)

    return folder_of


def _read_sheet(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (where, needed cells as text) for the rows below the header.

    Raises:
      DataError: a damaged workbook, no such sheet, no header.
    """
    lines = enumerate(_read_workbook(path), start=1)
    for _, line in lines:
        header = [cell.lower() for cell in line]
        if set(_COLUMNS) <= set(header):
            break
    else:
        raise DataError(
            f"{path}: sheet {_SHEET} has no header line with {', '.join(_COLUMNS)}"
        )
    for row, line in lines:
        # A row ends at its last non-empty cell.
        named = dict(itertools.zip_longest(header, line[: len(header)], fillvalue=""))
        cells = {name: named[name] for name in _COLUMNS}
        if any(cells.values()):
            yield f"{path.name}, row {row}", cells


def _read_workbook(path: Path) -> list[list[str]]:
    """Reads the rows of the sheet, every cell as text."""
    import openpyxl

    try:
        # Opened here, so that it is closed whatever openpyxl raises.
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown styles
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
            if _SHEET not in book.sheetnames:
                raise DataError(
                    f"{path}: has the sheets {', '.join(book.sheetnames)}, not {_SHEET}"
                )
            sheet = book[_SHEET]
            sheet.reset_dimensions()  # the declared size may be wrong
            return [
                [_text(cell) for cell in line]
                for line in sheet.iter_rows(values_only=True)
            ]
    except DataError:
        raise
    except Exception as error:  # zip files and XML parsers raise many types
        raise DataError(
            f"{path}: damaged, or not a workbook ({one_line(error)})"
        ) from None


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
