"""Pair lists: a CSV of one's own, and every way in which it can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spips_jax import data
from spips_jax.data import DataError

LIST = """\
Distorted, reference ,mos,std,level,distortion
d/one.png,r.png,4.25,0.5,2,blur
"d/two, b.jpg",r.png,1,0.25,5,jpeg
d/grey.png,r.png,3,0.125,1,noise
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A list of three pairs: a PNG, a JPEG, a grey PNG."""
    root = tmp_path / "mine"
    (root / "d").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("r.png", "d/one.png", "d/two, b.jpg"):
        pixels = rng.integers(0, 256, (33, 40, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
    grey = rng.integers(0, 256, (33, 40), np.uint8)
    Image.fromarray(grey).save(root / "d/grey.png")
    (root / "pairs.csv").write_text("\ufeff" + LIST, encoding="utf-8")
    return root


def build(layout: Path, **options: Any) -> data.Dataset:
    data.prepare(
        "pair_list",
        data_dir=layout.parent / "out",
        csv_file=layout / "pairs.csv",
        config="mine",
        **options,
    )
    return data.load("pair_list/mine", data_dir=layout.parent / "out")


def test_pairs_are_read_back(layout: Path) -> None:
    dataset = build(layout)
    assert (dataset.kind.name, dataset.opinion) == ("pairs", "mos")
    assert dataset.index["mos"].tolist() == [4.25, 1, 3]
    assert dataset.index["std"].tolist() == [0.5, 0.25, 0.125]
    assert dataset.index["level"].tolist() == [2, 5, 1]
    assert dataset.index["distortion"].tolist() == ["blur", "jpeg", "noise"]
    assert dataset.references == ("r",)
    for example in dataset:
        for name, path in (("reference", "r.png"), ("distorted", example["id"])):
            pixels = np.array(Image.open(layout / path).convert("RGB"))
            np.testing.assert_array_equal(example[name], pixels)


def rewrite(layout: Path, *edits: tuple[str, str]) -> None:
    text = LIST
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (layout / "pairs.csv").write_text(text)


@pytest.mark.parametrize(
    ("column", "direction", "opinion"),
    [("dmos", "", "dmos"), ("score", "dmos", "dmos"), ("score", "mos", "mos")],
)
def test_the_direction_is_declared(
    layout: Path, column: str, direction: str, opinion: str
) -> None:
    rewrite(layout, (",mos,", f",{column},"))
    dataset = build(layout, direction=direction)
    assert dataset.opinion == opinion
    assert dataset.index[opinion].tolist() == [4.25, 1, 3]


DAMAGE: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "no direction": (((",mos,", ",score,"),), "pass --direction mos"),
    "no score": (((",mos,", ",opinion,"),), "no column for the score"),
    "two scores": (((",std,", ",dmos,"),), "mos and dmos for the score"),
    "no reference": (((" reference ", "original"),), "needs reference too"),
    "missing file": ((("d/one.png", "d/none.png"),), "line 2: no such file.*none.png"),
    "not a number": (((",1,0.25", ",good,0.25"),), "line 3: mos is 'good'"),
    "no number": (((",1,0.25", ",,0.25"),), "line 3: mos is ''"),
    "infinite": (((",1,0.25", ",inf,0.25"),), "line 3: mos is 'inf'"),
    "level of 1.5": (((",5,jpeg", ",1.5,jpeg"),), "line 3: level is '1.5'"),
    "short line": (((",5,jpeg", ""),), "line 3: has 4 values, the header names 6"),
    "twice": ((("d/grey.png", "d/one.png"),), "line 4: d/one.png is in .*line 2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_by_line(layout: Path, damage: str) -> None:
    edits, message = DAMAGE[damage]
    rewrite(layout, *edits)
    with pytest.raises(DataError, match=message) as error:
        build(layout)
    assert "\n" not in str(error.value)
    assert not (layout.parent / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: Image.new("RGB", (41, 33)).save(root / "d/one.png"),
            "line 2: .*r.png is 40x33, .*one.png is 41x33",
        ),
        (
            lambda root: (root / "d/one.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
            "line 2: .*one.png",
        ),
        (
            lambda root: Image.new("RGB", (8, 8)).save(root / "d/one.png"),
            "line 2: .*one.png.* 8 is below the 32",
        ),
        (lambda root: (root / "pairs.csv").write_text(""), "is empty"),
        (lambda root: (root / "pairs.csv").unlink(), "pairs.csv"),
        (lambda root: (root / "pairs.csv").write_bytes(b"\xff\xfe\x00"), "not a text"),
    ],
)
def test_bad_files_are_named(
    layout: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(layout)
    with pytest.raises(DataError, match=message):
        build(layout)
    assert not (layout.parent / "out").exists()


@pytest.mark.parametrize("comparable", ["set", "reference"])
def test_over_what_scores_compare_is_declared(layout: Path, comparable: str) -> None:
    assert build(layout, comparable=comparable).comparable == comparable


def test_scores_compare_over_the_set_unless_declared(layout: Path) -> None:
    assert build(layout).comparable == "set"


@pytest.mark.parametrize("comparable", ["group", "", "references"])
def test_other_protocols_are_refused(layout: Path, comparable: str) -> None:
    message = f"comparable is '{comparable}': it is set .* or reference"
    with pytest.raises(DataError, match=message) as error:
        build(layout, comparable=comparable)
    assert "\n" not in str(error.value)
    assert not (layout.parent / "out").exists()


def test_columns_of_other_names_are_used_when_renamed(layout: Path) -> None:
    """As of LIVE rebuilt from the Kodak photographs: `type`, `kodak`, `provenance`."""
    lines = (
        "reference,distorted,dmos,type,kodak,provenance",
        "r.png,d/one.png,12.5,jpeg,kodim05,exact",
        "r.png,d/grey.png,40.25,wn,kodim05,equivalent",
    )
    text = "\n".join(lines)
    (layout / "pairs.csv").write_text(text)
    as_it_is = build(layout)
    assert as_it_is.index["distortion"].tolist() == ["", ""]
    assert as_it_is.references == ("r",)
    text = text.replace("type,kodak", "distortion,reference_id")
    (layout / "pairs.csv").write_text(text)
    renamed = build(layout, overwrite=True)
    assert renamed.index["distortion"].tolist() == ["jpeg", "wn"]
    assert renamed.references == ("kodim05",)
    assert renamed.index["dmos"].tolist() == [12.5, 40.25]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("distorsion", "distortion"),
        ("Distortions", "distortion"),
        ("levels", "level"),
        ("stdd", "std"),
        ("reference_idd", "reference_id"),
        ("references_id", "reference_id"),
    ],
)
def test_a_column_nearly_called_as_one_that_is_read_is_named(
    layout: Path, column: str, meant: str
) -> None:
    lines = (f"reference,distorted,mos,type,{column}", "r.png,d/one.png,1,x,2")
    (layout / "pairs.csv").write_text("\n".join(lines))
    message = f"column '{column.lower()}' is ignored; did you mean {meant}"
    with pytest.warns(UserWarning, match=message) as caught:
        build(layout)
    assert all("type" not in str(one.message) for one in caught)


def test_a_column_twice_is_refused(layout: Path) -> None:
    rewrite(layout, (",std,", ",mos,"))
    with pytest.raises(DataError, match="mos more than once"):
        build(layout)


def test_a_wrong_direction_is_refused(layout: Path) -> None:
    with pytest.raises(DataError, match="direction is 'up'"):
        build(layout, direction="up")
    with pytest.raises(DataError, match="column is mos, the direction given is dmos"):
        build(layout, direction="dmos")
