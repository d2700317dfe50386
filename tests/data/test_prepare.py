"""Preparing: a bad pair among good ones, what is there already, builds that fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spips_jax import data
from spips_jax.data import DataError, builder, sets
from spips_jax.data.builder import Row
from spips_jax.data.dataset import Dataset

# Photographs' folders here hold other files, too.
pytestmark = pytest.mark.filterwarnings("ignore:.*left out, as no images")

BAD = "b.png"
GOOD = ("a.png", "c.png", "d.png")


def image(path: Path, *, width: int = 40, height: int = 33) -> None:
    rng = np.random.default_rng(len(path.stem))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A pair list of four versions of one image, and TID2013's folder of four more."""
    root = tmp_path / "mine"
    root.mkdir()
    for name in ("r.png", BAD, *GOOD):
        image(root / name)
    names = sorted((BAD, *GOOD))
    lines = [f"r.png,{name},{number}\n" for number, name in enumerate(names)]
    (root / "pairs.csv").write_text("reference,distorted,mos\n" + "".join(lines))
    tid = tmp_path / "tid2013"
    for folder in ("reference_images", "distorted_images"):
        (tid / folder).mkdir(parents=True)
    image(tid / "reference_images" / "I01.BMP")
    for level in range(1, 5):
        image(tid / "distorted_images" / f"i01_01_{level}.bmp")
    lines = [f"{level} I01_01_{level}.bmp\n" for level in range(1, 5)]
    (tid / "mos_with_names.txt").write_text("".join(lines))
    (tid / "mos_std.txt").write_text("0.1\n" * 4)
    return root


def prepare(layout: Path, **options: Any) -> Path:
    options = {"csv_file": layout / "pairs.csv"} | options
    return data.prepare("pair_list/mine", data_dir=layout.parent / "out", **options)


def opened(layout: Path, name: str = "pair_list/mine") -> Dataset:
    return data.load(name, data_dir=layout.parent / "out")


Spoil = Callable[[Path, pytest.MonkeyPatch], None]


def when_read(act: Callable[[Path], object]) -> Spoil:
    """Acts on the bad image whenever it is about to be read."""

    def spoil(path: Path, patch: pytest.MonkeyPatch) -> None:
        original = builder.read_file

        def read(source: Any) -> bytes:
            if source == path:
                act(path)
            return original(source)

        patch.setattr(builder, "read_file", read)

    return spoil


def no_memory(path: Path) -> None:
    raise MemoryError


def bomb(path: Path, patch: pytest.MonkeyPatch) -> None:
    """As Pillow takes an image for one: above twice its limit."""
    image(path, width=100, height=100)
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "no image": (lambda path, _: path.write_bytes(b"no"), "not an image"),
    "truncated": (
        lambda path, _: path.write_bytes(path.read_bytes()[:900]),
        "damaged or truncated",
    ),
    "another size": (lambda path, _: image(path, width=41), "the same size"),
    "too small": (lambda path, _: image(path, width=8, height=8), "below the 32"),
    "16 bits": (
        lambda path, _: Image.fromarray(np.zeros((33, 40), np.uint16)).save(path),
        "b.png: has 16 bits a channel; convert it to 8",
    ),
    "a bomb": (bomb, "too large"),
    "changing": (when_read(lambda path: image(path, height=50)), "the same size"),
    "vanishing": (when_read(os.unlink), "no such file"),
    "no memory": (when_read(no_memory), "no memory is left"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_one_bad_pair_is_left_out_and_named(
    layout: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    spoil, message = SPOILED[how]
    lines: list[str] = []
    with monkeypatch.context() as patch:
        spoil(layout / BAD, patch)
        folder = prepare(layout, problem=lines.append)
    (line,) = lines
    assert line.startswith("pairs.csv, line 3: ")
    assert message in line
    assert "\n" not in line
    dataset = opened(layout)
    assert [example["id"] for example in dataset] == list(GOOD)
    assert dataset.index["mos"].tolist() == [0, 2, 3]
    noted = json.loads((folder / "protocol.json").read_text())
    assert noted["left_out"] == [{"split": "full", "id": BAD, "why": line}]
    described = sets.describe("pair_list/mine", data_dir=layout.parent / "out")
    assert described.partial == "3 of 4; left out, as their images were bad: b.png"


def test_a_bad_pair_of_an_official_set_is_left_out(
    layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without `partial`, and from a shard of its own."""
    card = sets.Tid2013.CARD
    monkeypatch.setitem(card.counts, "full", (4, 1))
    monkeypatch.setattr(builder, "SHARD_BYTES", 1)  # one example each
    (layout.parent / "tid2013/distorted_images/i01_01_4.bmp").write_bytes(b"BM")
    where = {"data_dir": layout.parent / "out", "manual_dir": layout.parent}
    lines: list[str] = []
    data.prepare("tid2013", **where, problem=lines.append)
    assert len(lines) == 1
    dataset = opened(layout, "tid2013")
    assert dataset.index["level"].tolist() == [1, 2, 3]
    assert [int(example["level"]) for example in dataset] == [1, 2, 3]
    assert dataset.published == dataset.select([0]).published == 4
    with pytest.raises(DataError, match="is there already, in part: 3 of 4; left out"):
        data.prepare("tid2013", **where)
    data.prepare("tid2013", **where, partial=True)


def test_a_bad_photograph_is_left_out_of_tiles(layout: Path) -> None:
    lines: list[str] = []

    def prepare_tiles(overwrite: bool) -> None:
        data.prepare(
            "synthetic/tiles", data_dir=layout.parent / "out", photographs=layout,
            size=32, tiles=True, kinds=["jpeg"], problem=lines.append,
            overwrite=overwrite,
        )  # fmt: skip

    good = (layout / BAD).read_bytes()
    (layout / BAD).write_bytes(b"no")
    prepare_tiles(False)
    assert len(lines) == 1
    references = opened(layout, "synthetic/tiles").references
    assert references == ("a#0-0", "c#0-0", "d#0-0", "r#0-0")
    (layout / BAD).write_bytes(good)
    prepare_tiles(True)
    assert len(opened(layout, "synthetic/tiles").references) == 5
    (layout / BAD).write_bytes(b"no")
    with pytest.raises(DataError, match="would lack b#0-0/jpeg/1, "):
        prepare_tiles(True)
    assert len(opened(layout, "synthetic/tiles").references) == 5


def test_a_split_of_bad_pairs_alone_is_not_there(tmp_path: Path) -> None:
    for split in ("val/cnn", "val/color"):
        for name in ("ref", "p0", "p1", "judge"):
            (tmp_path / "2afc" / split / name).mkdir(parents=True)
            if name != "judge":
                image(tmp_path / "2afc" / split / name / "000000.png")
        np.save(tmp_path / "2afc" / split / "judge/000000.npy", np.float32([0.5]))
    (tmp_path / "2afc/val/cnn/p0/000000.png").write_bytes(b"no")
    where = {"data_dir": tmp_path / "out", "manual_dir": tmp_path, "partial": True}
    lines: list[str] = []
    data.prepare("bapps", **where, problem=lines.append)
    assert len(lines) == 1
    dataset = data.load("bapps", data_dir=tmp_path / "out")
    assert set(dataset.index["split"]) == {"val_color"}
    assert dataset[0]["p0"].shape == (33, 40, 3)


@pytest.mark.parametrize("overwrite", [False, True])
def test_bad_pairs_alone_make_no_set(layout: Path, overwrite: bool) -> None:
    if overwrite:
        before = tree(prepare(layout))
    (layout / "r.png").write_bytes(b"no")
    lines: list[str] = []
    with pytest.raises(DataError, match=r"no example whose images can be read.*r\.png"):
        prepare(layout, problem=lines.append, overwrite=overwrite)
    assert len(lines) == 4
    if overwrite:
        assert tree(layout.parent / "out/pair_list/mine/1.0.0") == before
    else:
        assert not (layout.parent / "out").exists()


def test_a_missing_file_is_refused_before_anything_is_read(layout: Path) -> None:
    (layout / BAD).unlink()
    lines: list[str] = []
    with pytest.raises(DataError, match=r"line 3: no such file.*b\.png"):
        prepare(layout, problem=lines.append)
    assert not lines


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.*")}


def test_an_overwrite_that_would_lose_examples_keeps_them(layout: Path) -> None:
    before = tree(prepare(layout))
    (layout / BAD).write_bytes(b"no")
    lines: list[str] = []
    with pytest.raises(DataError, match=r"would lack b\.png, which the prepared set"):
        prepare(layout, overwrite=True, problem=lines.append)
    assert len(lines) == 1
    assert tree(layout.parent / "out/pair_list/mine/1.0.0") == before
    # What the old set did not have either is no loss.
    (layout / "pairs.csv").write_text("reference,distorted,mos\nr.png,a.png,7\n")
    prepare(layout, overwrite=True)
    (layout / "pairs.csv").write_text(
        "reference,distorted,mos\nr.png,a.png,8\nr.png,b.png,9\n"
    )
    prepare(layout, overwrite=True, problem=lines.append)
    assert opened(layout).index["mos"].tolist() == [8]


class Killed(BaseException):
    """As SIGKILL would: no handler of errors sees it."""


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_build_that_fails_half_way_changes_nothing(
    layout: Path, there: bool, error: BaseException
) -> None:
    if there:
        before = tree(prepare(layout))

    def failing(rows: Sequence[Row], split: str) -> Iterator[Row]:
        yield from rows[:2]
        raise error

    with pytest.raises(type(error)):
        prepare(layout, overwrite=True, progress=failing, problem=print)
    if there:
        assert tree(layout.parent / "out/pair_list/mine/1.0.0") == before
        assert sets.prepared(layout.parent / "out") == ["pair_list/mine"]
    else:
        assert not (layout.parent / "out").exists()


@pytest.mark.parametrize("find", ["prepared", "load", "prepare"])
def test_an_overwrite_killed_between_its_renames_loses_no_set(
    layout: Path, monkeypatch: pytest.MonkeyPatch, find: str
) -> None:
    """The old set is beside its place then, and is put back."""
    folder = prepare(layout)
    root = layout.parent / "out"
    (layout / "pairs.csv").write_text("reference,distorted,mos\nr.png,a.png,7\n")
    with monkeypatch.context() as patch:
        rename = Path.rename

        def second(self: Path, target: Path) -> Path:
            if target == folder:
                raise Killed
            return rename(self, target)

        patch.setattr(Path, "rename", second)
        patch.setattr(sets, "_recover", lambda folder: None)
        with pytest.raises(Killed):
            prepare(layout, overwrite=True)
    assert not folder.exists()
    if find == "prepared":
        assert sets.prepared(root) == ["pair_list/mine"]
    elif find == "prepare":
        with pytest.raises(DataError, match="is there already, made with"):
            prepare(layout)
    assert len(opened(layout)) == 4
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_a_set_that_cannot_take_its_place_leaves_the_old_one(
    layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(folder := prepare(layout))
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == folder and "incomplete" in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="No space"):
            prepare(layout, overwrite=True)
    assert tree(folder) == before


def test_another_folder_in_a_sets_place_is_not_replaced(layout: Path) -> None:
    folder = layout.parent / "out/pair_list/mine/1.0.0"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"1\.0\.0: "):
            prepare(layout, overwrite=overwrite)
    assert (folder / "thesis.txt").read_text() == "mine"


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "protocol": (
        {"comparable": "reference"},
        "made with comparable set; this asks for",
    ),
    "the file's lines": ({}, "made with csv_file of SHA-256"),
    "another file": ({"csv_file": "copy.csv"}, "made with csv_file "),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_pair_list_made_with_other_options_is_not_taken(
    layout: Path, case: str
) -> None:
    options, message = OTHER[case]
    folder = prepare(layout)
    assert prepare(layout, direction="mos", comparable="set") == folder  # the same
    text = (layout / "pairs.csv").read_text()
    if case == "another file":
        (layout / "copy.csv").write_text(text)
        options = {"csv_file": layout / "copy.csv"}
    elif case == "the file's lines":
        (layout / "pairs.csv").write_text(text.replace("a.png,0", "a.png,5"))
    with pytest.raises(DataError, match=message) as caught:
        prepare(layout, **options)
    assert "\n" not in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert prepare(layout, **options, overwrite=True) == folder
    assert prepare(layout, **options) == folder


@pytest.mark.parametrize(
    "other",
    [{"size": 40}, {"scenes": 3}, {"kinds": ["webp"]}, {"sample": 1}, {"seed": 1}],
    ids=lambda other: next(iter(other)),
)
def test_a_synthetic_set_made_with_other_options_is_not_taken(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"scenes": 1, "size": 32, "kinds": ["jpeg"]}
    for name in ("synthetic", "synthetic/scenes"):
        folder = data.prepare(name, data_dir=tmp_path, **options)
    assert folder == tmp_path / "synthetic/scenes/2.0.0"
    (option,) = other
    with pytest.raises(DataError, match=f"made with {option} .*; this asks for"):
        data.prepare("synthetic", data_dir=tmp_path, **(options | other))


def test_options_of_a_set_from_an_earlier_version_are_not_known(layout: Path) -> None:
    folder = prepare(layout)
    (folder / "protocol.json").write_text('{"comparable": "set"}\n')
    with pytest.warns(UserWarning, match="did not note its options.*--overwrite"):
        assert prepare(layout) == folder


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tid2013", {"csv_file": "x"}, "tid2013 has no option 'csv_file'; it has none"),
        ("synthetic", {"sizes": 64}, "no option 'sizes'; .*did you mean size"),
        ("pair_list/x", {}, "pair_list/x needs csv_file"),
        ("pair_list", {"csv_file": "x"}, "pair_list is no set by itself"),
        ("tid2013/x", {}, "there is no set 'tid2013/x'"),
        ("Live", {}, "did you mean live"),
        ("synthetic/a", {"config": "b"}, "a set has one name, not both a and b"),
        ("synthetic", {"kinds": ["jpeg", "jpeg"]}, "name each once"),
        ("synthetic", {"kinds": ["jpg"]}, "'jpg' is not one of .*did you mean jpeg"),
        ("synthetic", {"size": 0}, "size is 0: images need 32"),
    ],
)
def test_names_and_options_are_those_that_exist(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        data.prepare(name, data_dir=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


NAMES: Iterable[str] = (
    "..", "../../escaped", "a/b", "/tmp/escaped", "a\\b", "", " ", ".hidden", "a,b",
    "a:b", "a\nb", "1.0.0", "a" * 101, "\udce4", "-x", "*",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(layout: Path, name: str) -> None:
    before = {path.name for path in layout.parent.rglob("*")}
    for make in (
        lambda: data.prepare(
            "pair_list", config=name, csv_file=layout / "pairs.csv",
            data_dir=layout.parent / "out",
        ),
        lambda: data.prepare(
            "synthetic", config=name, scenes=1, data_dir=layout.parent / "out"
        ),
        lambda: data.load(f"pair_list/{name}", data_dir=layout.parent / "out"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            make()
        assert "\n" not in str(caught.value)
    assert {path.name for path in layout.parent.rglob("*")} == before


@pytest.mark.parametrize("name", ["live", "my set", "v1.2", "日本", "a_b-c+d", "2024"])
def test_names_of_any_language_are_taken(layout: Path, name: str) -> None:
    root = layout.parent / "out"
    data.prepare("pair_list", config=name, csv_file=layout / "pairs.csv", data_dir=root)
    assert sets.prepared(root) == [f"pair_list/{name}"]
    assert len(data.load(f"pair_list/{name}", data_dir=root)) == 4
