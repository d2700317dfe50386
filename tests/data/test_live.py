"""LIVE release 2: the official layout in, the same pixels and scores out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from spips_jax.data.live import Live

FILES = [
    "jp2k/img1.bmp",
    "jp2k/img2.bmp",
    "jpeg/img1.bmp",
    "wn/IMG1.BMP",
    "gblur/img1.bmp",
    "gblur/img2.bmp",
    "fastfading/img1.bmp",
]
REFERENCES = ["bikes", "house", "house", "bikes", "house", "bikes", "house"]
ORGS = [1, 0, 0, 0, 0, 1, 0]
DMOS = [-2.6, 28.00384535689855, 111.77, 0.0, -1.5, 0.0, 71.25]
STD = [1.0, 9.5, 10.25, 8.0, 7.125, 3.0, 6.1]
KINDS = ["jpeg2000"] * 2 + ["jpeg", "white_noise"] + ["gaussian_blur"] * 2
KINDS += ["fast_fading"]


def write_scores(root: Path, **changes: Any) -> None:
    """Writes dmos_realigned.mat; a change of None leaves the variable out."""
    variables = {"dmos_new": DMOS, "orgs": ORGS, "dmos_std": STD, **changes}
    path = root / "dmos_realigned.mat"
    kept = {name: value for name, value in variables.items() if value is not None}
    scipy.io.savemat(path, {name: np.array([value]) for name, value in kept.items()})


def write_names(
    root: Path, names: list[Any], *, variable: str = "refnames_all"
) -> None:
    cells = np.empty((1, len(names)), object)
    cells[0] = names
    scipy.io.savemat(root / "refnames_all.mat", {variable: cells})


def reference_files() -> list[str]:
    return [f"{name}.bmp" for name in REFERENCES]


@pytest.fixture
def pixels() -> dict[str, Any]:
    return {}


@pytest.fixture
def root(tmp_path: Path, iqa_image: Any, pixels: dict[str, Any]) -> Path:
    root = tmp_path / "manual" / "databaserelease2"
    pixels["bikes"] = iqa_image(root / "refimgs" / "Bikes.BMP")
    pixels["house"] = iqa_image(root / "refimgs" / "house.bmp", width=50)
    for name, reference in zip(FILES, REFERENCES, strict=True):
        width = pixels[reference].shape[1]
        pixels[name] = iqa_image(root / name, width=width)
    (root / "jp2k" / "info.txt").write_text("not an image\n", encoding="utf-8")
    write_scores(root)
    write_names(root, reference_files())
    return root


@pytest.mark.parametrize("below", [True, False])
def test_every_pixel_and_score_comes_through(
    root: Path, pixels: dict[str, Any], iqa_build: Any, iqa_check: Any, below: bool
) -> None:
    built = iqa_build(Live, root.parent if below else root)
    iqa_check(
        built,
        [
            {
                "id": name.lower().removesuffix(".bmp"),
                "reference_id": REFERENCES[i],
                "distortion": KINDS[i],
                "level": 0,
                "dmos": DMOS[i],
                "std": STD[i],
                "reference": pixels[REFERENCES[i]],
                "distorted": pixels[name],
            }
            for i, name in enumerate(FILES)
            if not ORGS[i]
        ],
    )


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float64])
def test_flags_of_any_type(root: Path, iqa_build: Any, dtype: Any) -> None:
    write_scores(root, orgs=np.array(ORGS, dtype))
    assert len(iqa_build(Live, root).examples) == 5


def test_numbers_of_images_are_the_published_ones(
    tmp_path: Path, iqa_image: Any, iqa_build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "manual"
    iqa_image(root / "refimgs" / "bikes.bmp")
    counts = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
    for kind in counts:
        iqa_image(root / kind / "img3.bmp")
    images = [(kind, i) for kind, n in counts.items() for i in range(1, n + 1)]
    assert len(images) == 982
    dmos = np.arange(982) / 10
    write_scores(root, dmos_new=dmos, dmos_std=dmos, orgs=[i != 3 for _, i in images])
    write_names(root, ["bikes.bmp"] * 982)
    card = dataclasses.replace(Live.CARD, counts={"full": (5, 1)})
    monkeypatch.setattr(Live, "CARD", card)
    built = iqa_build(Live, root, partial=False)
    assert [line["id"] for line in built.index] == [f"{kind}/img3" for kind in counts]
    entries = [2, 227 + 2, 460 + 2, 634 + 2, 808 + 2]
    assert [float(line["dmos"]) for line in built.index] == dmos[entries].tolist()


def test_incomplete_set_needs_partial(root: Path, iqa_fails: Any) -> None:
    message = iqa_fails(Live, root, partial=False)
    assert re.search(r"has 7 entries, LIVE \(release 2\) has 982 .*--partial", message)


def test_missing_scores(root: Path, iqa_fails: Any) -> None:
    (root / "dmos_realigned.mat").rename(root / "dmos.mat")
    message = iqa_fails(Live, root)
    assert re.search(r"is not there \(dmos_realigned\.mat is missing\)", message)


def test_missing_reference_names(root: Path, iqa_fails: Any) -> None:
    (root / "refnames_all.mat").unlink()
    assert re.search(r"refnames_all\.mat: .* has this file", iqa_fails(Live, root))


@pytest.mark.parametrize("name", ["refimgs", "wn"])
def test_missing_folder(root: Path, iqa_fails: Any, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    assert re.search(rf"{name}: .* has this folder", iqa_fails(Live, root))


@pytest.mark.parametrize("name", ["dmos_new", "dmos_std", "orgs"])
def test_missing_variable(root: Path, iqa_fails: Any, name: str) -> None:
    write_scores(root, **{name: None})
    message = iqa_fails(Live, root)
    assert message.endswith(f"dmos_realigned.mat: has no variable {name}")


def test_missing_variable_of_names(root: Path, iqa_fails: Any) -> None:
    write_names(root, reference_files(), variable="names")
    message = iqa_fails(Live, root)
    assert message.endswith("refnames_all.mat: has no variable refnames_all")


@pytest.mark.parametrize("name", ["dmos_std", "orgs"])
def test_variables_of_other_lengths(root: Path, iqa_fails: Any, name: str) -> None:
    write_scores(root, **{name: [0] * 6})
    message = iqa_fails(Live, root)
    assert f"dmos_realigned.mat: {name} has 6 entries, dmos_new has 7" in message


def test_names_of_another_length(root: Path, iqa_fails: Any) -> None:
    write_names(root, reference_files()[1:])
    message = iqa_fails(Live, root)
    assert "refnames_all.mat: refnames_all has 6 entries, dmos_new has 7" in message


def test_images_must_add_up_to_the_entries(
    root: Path, iqa_image: Any, iqa_fails: Any
) -> None:
    iqa_image(root / "jpeg" / "img2.bmp")
    message = iqa_fails(Live, root)
    assert re.match(
        r"dmos_realigned\.mat: dmos_new has 7 entries, the folders have 8 images"
        r" \(jp2k 2, jpeg 2, wn 1, gblur 2, fastfading 1\)",
        message,
    )


def test_missing_image(root: Path, iqa_fails: Any) -> None:
    (root / "jp2k" / "img2.bmp").rename(root / "jp2k" / "img3.bmp")
    path = root / "jp2k" / "img2.bmp"
    assert iqa_fails(Live, root) == (
        f"dmos_realigned.mat, entry 2 (jp2k/img2.bmp): no such file: {path}"
    )


def test_missing_reference(root: Path, iqa_fails: Any) -> None:
    path = root / "refimgs" / "house.bmp"
    path.unlink()
    assert iqa_fails(Live, root) == (
        f"dmos_realigned.mat, entry 2 (jp2k/img2.bmp): no such file: {path}"
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("dmos_new", np.nan, r"dmos_new is 'nan', which is not a number"),
        ("dmos_new", np.inf, r"dmos_new is 'inf', which is not a number"),
        ("dmos_std", np.nan, r"dmos_std is 'nan', which is not a number"),
        ("dmos_new", 131, r"dmos 131 is outside .* 0 to 100"),
        ("dmos_new", -31, r"dmos -31 is outside .* 0 to 100"),
        ("orgs", 2, r"orgs is 2, it must be 0 or 1"),
    ],
)
def test_malformed_entry(
    root: Path, iqa_fails: Any, variable: str, value: float, message: str
) -> None:
    values = {"dmos_new": DMOS, "dmos_std": STD, "orgs": ORGS}[variable].copy()
    values[2] = value
    write_scores(root, **{variable: values})
    assert re.match(
        rf"dmos_realigned\.mat, entry 3 \(jpeg/img1\.bmp\): .*{message}",
        iqa_fails(Live, root),
    )


@pytest.mark.parametrize("name", ["house.png", "", 7.0])
def test_malformed_reference_name(root: Path, iqa_fails: Any, name: Any) -> None:
    names: list[Any] = reference_files()
    names[2] = name
    write_names(root, names)
    assert re.match(
        r"dmos_realigned\.mat, entry 3 \(jpeg/img1\.bmp\): refnames_all\.mat has .*,"
        r" not a name like bikes\.bmp",
        iqa_fails(Live, root),
    )


@pytest.mark.parametrize("name", ["dmos_realigned.mat", "refnames_all.mat"])
@pytest.mark.parametrize("length", [0, 100, 200])
def test_damaged_scores(root: Path, iqa_fails: Any, name: str, length: int) -> None:
    path = root / name
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path}: damaged, or not a MATLAB file (" in iqa_fails(Live, root)


def test_truncated_image(root: Path, iqa_fails: Any) -> None:
    path = root / "jpeg" / "img1.bmp"
    path.write_bytes(path.read_bytes()[:2000])
    message = iqa_fails(Live, root)
    where = "dmos_realigned.mat, entry 3 (jpeg/img1.bmp)"
    assert message.startswith(f"{where}: {path}: damaged or truncated")


def test_image_of_another_size(root: Path, iqa_image: Any, iqa_fails: Any) -> None:
    iqa_image(root / "jpeg" / "img1.bmp", width=51)
    assert re.match(
        r"dmos_realigned\.mat, entry 3 \(jpeg/img1\.bmp\): .*house\.bmp is 50x33,"
        r" .* is 51x33",
        iqa_fails(Live, root),
    )
