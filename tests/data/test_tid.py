"""TID2013 and TID2008: the official layout in small, and the real one rebuilt."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax import data
from spips_jax.data import DataError

NAMES = ("I01_01_1.bmp", "i01_01_2.bmp", "I02_08_1.bmp", "i02_08_2.bmp")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """TID's folders: names in upper case in the list, in both cases on disk."""
    root = tmp_path / "manual" / "tid2013"
    rng = np.random.default_rng(0)
    for folder, names in (
        ("reference_images", ("I01.BMP", "i02.bmp")),
        ("distorted_images", [name.lower() for name in NAMES]),
    ):
        (root / folder).mkdir(parents=True)
        for name in names:
            pixels = rng.integers(0, 256, (33, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / name)
    (root / "mos_with_names.txt").write_bytes(
        b"".join(f"{5.5 - i} {name}\r\n".encode() for i, name in enumerate(NAMES))
    )
    (root / "mos_std.txt").write_text("0.13013\n0.2\n0.3\n0.4\n")
    return root


def build(layout: Path, *, name: str = "tid2013", partial: bool = True) -> Path:
    return data.prepare(
        name,
        data_dir=layout.parents[1] / "out",
        manual_dir=layout.parent,
        partial=partial,
    )


def test_what_is_read_back_is_what_the_files_hold(layout: Path) -> None:
    folder = build(layout)
    dataset = data.open_folder(folder, name="tid2013")
    assert [example["id"] for example in dataset] == [n[:-4].upper() for n in NAMES]
    for example, name, std in zip(
        dataset, NAMES, (0.13013, 0.2, 0.3, 0.4), strict=True
    ):
        distorted = np.array(Image.open(layout / "distorted_images" / name.lower()))
        np.testing.assert_array_equal(example["distorted"], distorted)
        reference = "I01.BMP" if name[2] == "1" else "i02.bmp"
        np.testing.assert_array_equal(
            example["reference"],
            np.array(Image.open(layout / "reference_images" / reference)),
        )
        assert example["std"] == np.float32(std)
        assert example["reference_id"] == name[:3].upper()
        assert example["level"] == int(name[7])
    np.testing.assert_array_equal(
        dataset.index["mos"], np.float32([5.5, 4.5, 3.5, 2.5])
    )
    assert dataset.index["distortion"].tolist() == [
        *["additive_gaussian_noise"] * 2,
        *["gaussian_blur"] * 2,
    ]


def test_tid2008_has_no_deviations(layout: Path) -> None:
    (layout / "mos_std.txt").unlink()
    layout = layout.rename(layout.with_name("tid2008"))
    dataset = data.open_folder(build(layout, name="tid2008"), name="tid2008")
    assert len(dataset) == 4
    assert "std" not in dataset.index


def test_fewer_than_published_is_refused_unless_partial(layout: Path) -> None:
    with pytest.raises(DataError, match=r"full has 4 examples.* 3000;.*--partial"):
        build(layout, partial=False)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SCORES = "mos_with_names.txt"

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no score file": (lambda r: (r / SCORES).unlink(), "mos_with_names.txt is missing"),
    "no deviations": (lambda r: (r / "mos_std.txt").unlink(), "mos_std.txt"),
    "deviations of others": (
        lambda r: (r / "mos_std.txt").write_text("1\n"),
        "1 lines, mos_with_names.txt has 4",
    ),
    "no references": (
        lambda r: shutil.rmtree(r / "reference_images"),
        "reference_images: TID2013 has this folder",
    ),
    "missing image": (
        lambda r: (r / "distorted_images" / NAMES[1]).unlink(),
        "line 2: no such file.*I?i?01_01_2.bmp",
    ),
    "missing reference": (
        lambda r: (r / "reference_images" / "i02.bmp").unlink(),
        "line 3: no such file.*I02.bmp",
    ),
    "not a number": (lambda r: edit(r / SCORES, "4.5", "4,5"), "line 2: mos is '4,5'"),
    "NaN": (lambda r: edit(r / SCORES, "4.5", "nan"), "line 2: mos is 'nan'"),
    "off the scale": (
        lambda r: edit(r / SCORES, "4.5", "45"),
        "line 2: mos 45.*0 to 9",
    ),
    "another name": (
        lambda r: edit(r / SCORES, "I02_08_1", "I02-08-1"),
        "line 3: .*not a score and a name",
    ),
    "unknown type": (
        lambda r: edit(r / SCORES, "I02_08_1", "I02_25_1"),
        "line 3: distortion type 25, TID2013 has 24",
    ),
    "twice": (
        lambda r: edit(r / SCORES, "i01_01_2", "I01_01_1"),
        "line 2: I01_01_1 is in mos_with_names.txt, line 1",
    ),
    "empty": (
        lambda r: [(r / n).write_text("\n") for n in (SCORES, "mos_std.txt")],
        "no examples",
    ),
    "truncated image": (
        lambda r: (r / "distorted_images" / NAMES[3]).write_bytes(
            (r / "distorted_images" / NAMES[3]).read_bytes()[:1000]
        ),
        "line 4: .*i02_08_2.bmp: damaged or truncated",
    ),
    "another size": (
        lambda r: Image.new("RGB", (48, 33)).save(r / "distorted_images" / NAMES[3]),
        "line 4: .*i02.bmp is 40x33, .*i02_08_2.bmp is 48x33",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_a_line_and_leaves_nothing(
    layout: Path, damage: str
) -> None:
    spoil, message = DAMAGE[damage]
    spoil(layout)
    with pytest.raises(DataError, match=message) as error:
        build(layout)
    assert "\n" not in str(error.value)
    assert not (layout.parents[1] / "out").exists()


def test_a_failed_overwrite_keeps_the_old_set(layout: Path) -> None:
    folder = build(layout)
    before = (folder / "index.csv").read_text()
    (layout / "distorted_images" / NAMES[3]).write_bytes(b"BM")
    with pytest.raises(DataError, match="i02_08_2"):
        data.prepare(
            "tid2013",
            data_dir=layout.parents[1] / "out",
            manual_dir=layout.parent,
            partial=True,
            overwrite=True,
        )
    assert (folder / "index.csv").read_text() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in folder.parents[1].iterdir()] == ["tid2013"]


def test_an_overwrite_replaces_the_old_set(layout: Path) -> None:
    folder = build(layout)
    edit(layout / SCORES, "4.5", "4.25")
    assert build(layout) == folder  # there already: not built again
    assert data.load("tid2013", data_dir=folder.parents[1])[1]["mos"] == 4.5
    data.prepare(
        "tid2013",
        data_dir=layout.parents[1] / "out",
        manual_dir=layout,
        partial=True,
        overwrite=True,
    )
    assert data.load("tid2013", data_dir=folder.parents[1])[1]["mos"] == 4.25
    assert [path.name for path in folder.parents[1].iterdir()] == ["tid2013"]


def test_what_a_killed_build_left_is_cleared_after_a_day(layout: Path) -> None:
    out = layout.parents[1] / "out"
    for name, age in (("incomplete.old", 2 * 86400), ("incomplete.new", 60)):
        (out / name / "tid2013").mkdir(parents=True)
        os.utime(out / name, (time.time() - age,) * 2)
    build(layout)
    assert {path.name for path in out.iterdir()} == {"incomplete.new", "tid2013"}


def test_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ponomarenko\.info.*mos_with_names") as error:
        data.prepare("tid2013", data_dir=tmp_path, manual_dir=tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is empty or not there.*ponomarenko"):
        data.prepare("tid2013", data_dir=tmp_path, manual_dir=tmp_path / "empty")
    with pytest.raises(DataError, match=r"no such folder.*ponomarenko\.info"):
        data.prepare("tid2013", data_dir=tmp_path / "none")
