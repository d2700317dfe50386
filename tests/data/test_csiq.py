"""CSIQ: the official layout in, the same pixels and scores out."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from spips_jax.data.csiq import Csiq

HEADER = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
CELLS: list[list[Any]] = [
    [1600, 1, "noise", 1, 0.06, 0.061989],
    [1600, 5, "blur", 2, 0.042, 0.25],
    [1600, 6, "contrast", 4, 0.1, 1],
    ["aerial_city", 4, "fnoise", 3, 0.07, 0.5],
    ["aerial_city", 2, "jpeg", 5, 0.051, 0.819082],
    ["Lady_Liberty", 3, "jpeg 2000", 5, 0.09, 0],
]
EXPECTED = [
    ("1600.awgn.1", "1600", "white_noise", 1, 0.06, 0.061989),
    ("1600.blur.2", "1600", "gaussian_blur", 2, 0.042, 0.25),
    ("1600.contrast.4", "1600", "contrast_decrement", 4, 0.1, 1.0),
    ("aerial_city.fnoise.3", "aerial_city", "pink_noise", 3, 0.07, 0.5),
    ("aerial_city.jpeg.5", "aerial_city", "jpeg", 5, 0.051, 0.819082),
    ("lady_liberty.jpeg2000.5", "lady_liberty", "jpeg2000", 5, 0.09, 0.0),
]
FILES = [
    "awgn/1600.AWGN.1.png",
    "blur/1600.BLUR.2.png",
    "contrast/1600.contrast.4.png",
    "fnoise/aerial_city.fnoise.3.png",
    "jpeg/aerial_city.JPEG.5.PNG",
    "jpeg2000/lady_liberty.JPEG2000.5.png",
]
FIRST = 5
"""The row of the first example: below three empty rows and the header."""


def write_scores(
    root: Path, cells: list[list[Any]], *, sheet: str = "all_by_image", rows: int = 3
) -> None:
    book = openpyxl.Workbook()
    book.active.title = "all_by_distortion"
    page = book.create_sheet(sheet)
    for row, line in enumerate([HEADER, *cells], start=rows + 1):
        for column, value in enumerate(line, start=4):
            page.cell(row, column, value)
    book.save(root / "csiq.DMOS.xlsx")


@pytest.fixture
def pixels() -> dict[str, Any]:
    return {}


@pytest.fixture
def root(tmp_path: Path, iqa_image: Any, pixels: dict[str, Any]) -> Path:
    root = tmp_path / "manual" / "csiq"
    for name in ("1600", "aerial_city", "lady_liberty"):
        pixels[name] = iqa_image(root / "src_imgs" / f"{name}.png")
    for name, row in zip(FILES, EXPECTED, strict=True):
        pixels[row[0]] = iqa_image(root / "dst_imgs" / name)
    write_scores(root, CELLS)
    return root


@pytest.fixture
def expected(root: Path, pixels: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("id", "reference_id", "distortion", "level", "std", "dmos")
    return [
        {
            **dict(zip(names, row, strict=True)),
            "reference": pixels[row[1]],
            "distorted": pixels[row[0]],
        }
        for row in EXPECTED
    ]


def test_every_pixel_and_score_comes_through(
    root: Path, expected: list[dict[str, Any]], iqa_build: Any, iqa_check: Any
) -> None:
    iqa_check(iqa_build(Csiq, root.parent), expected)


def test_all_distorted_images_in_one_folder(
    root: Path, expected: list[dict[str, Any]], iqa_build: Any, iqa_check: Any
) -> None:
    for name in FILES:
        path = root / "dst_imgs" / name
        path.rename(path.parents[1] / path.name)
        path.parent.rmdir()
    iqa_check(iqa_build(Csiq, root), expected)


def test_folders_in_upper_case(
    root: Path, expected: list[dict[str, Any]], iqa_build: Any, iqa_check: Any
) -> None:
    for path in list((root / "dst_imgs").iterdir()):
        path.rename(path.with_name(path.name.upper()))
    iqa_check(iqa_build(Csiq, root), expected)


@pytest.mark.parametrize("rows", [0, 7])
def test_header_is_looked_for_and_empty_rows_are_not_examples(
    root: Path,
    expected: list[dict[str, Any]],
    iqa_build: Any,
    iqa_check: Any,
    rows: int,
) -> None:
    write_scores(root, [*CELLS[:2], [None] * 6, *CELLS[2:], [None] * 6], rows=rows)
    iqa_check(iqa_build(Csiq, root), expected)


@pytest.mark.parametrize("tag", [b"", b'<dimension ref="A1"/>'])
def test_size_that_the_sheet_declares_does_not_matter(
    root: Path,
    expected: list[dict[str, Any]],
    iqa_build: Any,
    iqa_check: Any,
    tag: bytes,
) -> None:
    path = root / "csiq.DMOS.xlsx"
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w") as book:
        for name, data in parts.items():
            book.writestr(name, re.sub(rb"<dimension [^>]*/>", tag, data))
    iqa_check(iqa_build(Csiq, root), expected)


def test_incomplete_set_needs_partial(root: Path, iqa_fails: Any) -> None:
    message = iqa_fails(Csiq, root, partial=False)
    assert re.search(r"has 6 examples, CSIQ has 866;.*--partial", message)


def test_missing_scores(root: Path, iqa_fails: Any) -> None:
    (root / "csiq.DMOS.xlsx").unlink()
    message = iqa_fails(Csiq, root)
    assert re.search(r"CSIQ is not there \(csiq\.DMOS\.xlsx is missing\)", message)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("src_imgs", r"src_imgs: CSIQ has this folder"),
        ("dst_imgs", r"dst_imgs: CSIQ has this folder"),
        ("dst_imgs/blur", r"dst_imgs/blur: CSIQ has this folder"),
    ],
)
def test_missing_folder(root: Path, iqa_fails: Any, folder: str, message: str) -> None:
    (root / folder).rename(root / "elsewhere")
    assert re.search(message, iqa_fails(Csiq, root))


@pytest.mark.parametrize(
    ("name", "row"),
    [("src_imgs/aerial_city.png", 8), ("dst_imgs/blur/1600.BLUR.2.png", 6)],
)
def test_missing_image(root: Path, iqa_fails: Any, name: str, row: int) -> None:
    (root / name).unlink()
    message = iqa_fails(Csiq, root)
    assert message == f"csiq.DMOS.xlsx, row {row}: no such file: {root / name}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([1600, 5, "blur", 2, 0.1, "bad"], r"dmos is 'bad', which is not a number"),
        ([1600, 5, "blur", 2, 0.1, None], r"dmos is '', which is not a number"),
        ([1600, 5, "blur", 2, "#N/A", 0.1], r"dmos_std is '#N/A', which is not a numb"),
        ([1600, 5, "blur", 2, 0.1, 1.01], r"dmos 1\.01 is outside .* 0 to 1"),
        ([1600, 5, "blur", 2, 0.1, -0.1], r"dmos -0\.1 is outside .* 0 to 1"),
        (
            [1600, 5, "blur", "two", 0.1, 0.1],
            r"dst_lev is 'two', which is not a number",
        ),
        ([1600, 5, "blur", 2.5, 0.1, 0.1], r"dst_lev is 2\.5, levels are 1 to 5"),
        ([1600, 5, "blur", 6, 0.1, 0.1], r"dst_lev is 6, levels are 1 to 5"),
        ([1600, 5, "smear", 2, 0.1, 0.1], r"dst_type is 'smear', CSIQ has noise, "),
        ([None, 5, "blur", 2, 0.1, 0.1], r"image is empty"),
        (["../1600", 5, "blur", 2, 0.1, 0.1], r"no such file: .*\.\./1600\.png"),
        ([1600, 1, "noise", 1, 0.1, 0.1], r"1600\.awgn\.1 is in .*, row 5 already"),
    ],
)
def test_malformed_row(
    root: Path, iqa_fails: Any, line: list[Any], message: str
) -> None:
    write_scores(root, [CELLS[0], line, *CELLS[2:]])
    assert re.match(rf"csiq\.DMOS\.xlsx, row 6: .*{message}", iqa_fails(Csiq, root))


def test_missing_sheet(root: Path, iqa_fails: Any) -> None:
    write_scores(root, CELLS, sheet="Sheet2")
    message = iqa_fails(Csiq, root)
    assert re.search(r"xlsx: has the sheets all_by_distortion, Sheet2, not", message)


def test_missing_header(
    root: Path, iqa_fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "HEADER", ["image", "dst_idx", "type"])
    write_scores(root, CELLS)
    assert re.search(
        r"xlsx: sheet all_by_image has no header line with image, dst_type",
        iqa_fails(Csiq, root),
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_workbook(root: Path, iqa_fails: Any, share: float) -> None:
    path = root / "csiq.DMOS.xlsx"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert f"{path}: damaged, or not a workbook (" in iqa_fails(Csiq, root)


def test_truncated_image(root: Path, iqa_fails: Any) -> None:
    path = root / "dst_imgs" / FILES[1]
    path.write_bytes(path.read_bytes()[:2000])
    message = iqa_fails(Csiq, root)
    where = f"csiq.DMOS.xlsx, row {FIRST + 1}"
    assert message.startswith(f"{where}: {path}: damaged or truncated")


def test_image_of_another_size(root: Path, iqa_image: Any, iqa_fails: Any) -> None:
    iqa_image(root / "dst_imgs" / FILES[1], height=34)
    message = iqa_fails(Csiq, root)
    assert re.match(
        r"csiq\.DMOS\.xlsx, row 6: .*1600\.png is 40x33, .* is 40x34", message
    )
