"""KADID-10k: the official layout in, the same pixels and scores out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spips_jax.data.kadid10k import Kadid10k

LINES = [
    "dist_img,ref_img,dmos,var",
    "I01_01_01.png,I01.png,4.57,0.496",
    "I01_10_05.png,I01.png,1.17,0.373",
    "I81_25_03.png,I81.png,4,0.856",
    "i02_09_04.png,i02.PNG,1.1,0.3",
]
EXPECTED = [
    ("I01_01_01", "I01", "gaussian_blur", 1, 4.57, 0.496),
    ("I01_10_05", "I01", "jpeg", 5, 1.17, 0.373),
    ("I81_25_03", "I81", "contrast_change", 3, 4.0, 0.856),
    ("I02_09_04", "I02", "jpeg2000", 4, 1.1, 0.3),
]
FILES = {"I01_01_01": "i01_01_01.PNG", "I02": "i02.png"}


def write_scores(root: Path, lines: list[str]) -> None:
    (root / "dmos.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def pixels() -> dict[str, Any]:
    return {}


@pytest.fixture
def root(tmp_path: Path, iqa_image: Any, pixels: dict[str, Any]) -> Path:
    root = tmp_path / "manual" / "kadid10k"
    for row in EXPECTED:
        for name in row[:2]:
            if name not in pixels:
                path = root / "images" / FILES.get(name, f"{name}.png")
                pixels[name] = iqa_image(path)
    write_scores(root, LINES)
    return root


@pytest.mark.parametrize("below", [True, False])
def test_every_pixel_and_score_comes_through(
    root: Path, pixels: dict[str, Any], iqa_build: Any, iqa_check: Any, below: bool
) -> None:
    built = iqa_build(Kadid10k, root.parent if below else root)
    names = ("id", "reference_id", "distortion", "level", "mos", "std")
    iqa_check(
        built,
        [
            {
                **dict(zip(names, row, strict=True)),
                "reference": pixels[row[1]],
                "distorted": pixels[row[0]],
            }
            for row in EXPECTED
        ],
    )


def test_columns_may_come_in_any_order_and_with_more(
    root: Path, iqa_build: Any
) -> None:
    write_scores(
        root, ["\ufeffVAR, dmos,ref_img,dist_img,n", "0.3,2,I81.png,I81_25_03.png,9"]
    )
    (example,) = iqa_build(Kadid10k, root).examples
    assert (example["id"], example["mos"]) == (b"I81_25_03", 2)


def test_incomplete_set_needs_partial(root: Path, iqa_fails: Any) -> None:
    message = iqa_fails(Kadid10k, root, partial=False)
    assert re.search(r"has 4 examples, KADID-10k has 10125;.*--partial", message)


def test_missing_scores(root: Path, iqa_fails: Any) -> None:
    (root / "dmos.csv").unlink()
    message = iqa_fails(Kadid10k, root)
    assert re.search(r"KADID-10k is not there \(dmos\.csv is missing\)", message)
    assert "https://database.mmsp-kn.de" in message


def test_missing_folder(root: Path, iqa_fails: Any) -> None:
    (root / "images").rename(root / "pictures")
    assert "images: KADID-10k has this folder" in iqa_fails(Kadid10k, root)


@pytest.mark.parametrize("name", ["I01.png", "I01_10_05.png"])
def test_missing_image(root: Path, iqa_fails: Any, name: str) -> None:
    path = root / "images" / name
    path.unlink()
    message = iqa_fails(Kadid10k, root)
    line = 2 if name == "I01.png" else 3
    assert message == f"dmos.csv, line {line}: no such file: {path}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("I81_25_03.png,I81.png,good,0.1", r"dmos is 'good', which is not a number"),
        ("I81_25_03.png,I81.png,nan,0.1", r"dmos is 'nan', which is not a number"),
        ("I81_25_03.png,I81.png,3,", r"var is '', which is not a number"),
        ("I81_25_03.png,I81.png,3", r"has 3 values, the header names 4"),
        ("I81_25_03.png,I81.png,5.1,0.1", r"mos 5\.1 is outside .* 1 to 5"),
        ("I81_25_03.png,I81.png,0.9,0.1", r"mos 0\.9 is outside .* 1 to 5"),
        ("I81_25_3.png,I81.png,3,0.1", r"'I81_25_3\.png' is not a name like I01_01_01"),
        ("I81_25_06.png,I81.png,3,0.1", r"'I81_25_06\.png' is not a name like"),
        ("I81_26_03.png,I81.png,3,0.1", r"distortion type 26, KADID-10k has 25"),
        ("I81_25_03.png,I01.png,3,0.1", r"is made of I81\.png, ref_img is 'I01\.png'"),
        ("I01_01_01.png,I01.png,3,0.1", r"I01_01_01 is in dmos\.csv, line 2"),
    ],
)
def test_malformed_line(root: Path, iqa_fails: Any, line: str, message: str) -> None:
    write_scores(root, [*LINES[:3], line])
    assert re.match(rf"dmos\.csv, line 4: .*{message}", iqa_fails(Kadid10k, root))


def test_missing_column(root: Path, iqa_fails: Any) -> None:
    write_scores(root, ["dist_img,ref_img,mos,var", "I81_25_03.png,I81.png,3,0.1"])
    assert re.search(r"dmos\.csv: .* needs dmos too", iqa_fails(Kadid10k, root))


def test_truncated_image(root: Path, iqa_fails: Any) -> None:
    path = root / "images" / "I81_25_03.png"
    path.write_bytes(path.read_bytes()[:2000])
    message = iqa_fails(Kadid10k, root)
    assert message.startswith(f"dmos.csv, line 4: {path}: damaged or truncated")


def test_image_of_another_size(root: Path, iqa_image: Any, iqa_fails: Any) -> None:
    iqa_image(root / "images" / "I81_25_03.png", width=41)
    message = iqa_fails(Kadid10k, root)
    assert re.match(r"dmos\.csv, line 4: .*I81\.png is 40x33, .* is 41x33", message)
