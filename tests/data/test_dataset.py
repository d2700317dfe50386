"""Opening prepared sets: splits, folds, exclusions, damage."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax import data, kinds
from spips_jax.data import DataError, sheet

# Photographs' folders here hold other files, too.
pytestmark = pytest.mark.filterwarnings("ignore:.*left out, as no images")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    data.prepare("synthetic", data_dir=root, scenes=5, size=32, kinds=["jpeg", "webp"])
    return root


@pytest.fixture
def dataset(folder: Path) -> data.Dataset:
    return data.load("synthetic/scenes", data_dir=folder)


def test_folds_part_references_and_cover_all(dataset: data.Dataset) -> None:
    held = []
    for fold in range(1, 4):
        training, test = dataset.fold(f"{fold}/3")
        assert set(training.references).isdisjoint(test.references)
        assert len(training) + len(test) == len(dataset)
        held += test.index["id"].tolist()
    assert sorted(held) == sorted(dataset.index["id"].tolist())


def test_excluding_references_moves_no_fold(dataset: data.Dataset) -> None:
    _, test = dataset.fold("1/3")
    gone = test.references[0]
    _, without = dataset.exclude_references([gone]).fold("1/3")
    assert set(without.references) == set(test.references) - {gone}


def test_folds_go_by_the_photograph(dataset: data.Dataset) -> None:
    """Five of Kodak's photographs have the folds that they have among all 24."""
    names = [f"kodim{number:02d}" for number in (1, 2, 3, 4, 6)]
    kodak = replace(
        dataset,
        index={
            **dataset.index,
            "reference_id": np.array(
                [names[int(name[-1])] for name in dataset.index["reference_id"]]
            ),
        },
        _references=frozenset(names),
    )
    every = [f"kodim{number:02d}" for number in range(1, 25)]
    order = sorted(
        every, key=lambda name: hashlib.sha256(f"2504/{name}".encode()).hexdigest()
    )
    for fold in range(1, 5):
        expected = set(order[fold - 1 :: 4]) & set(names)
        if expected:
            assert set(kodak.fold(f"{fold}/4")[1].references) == expected
        else:
            with pytest.raises(DataError, match=f"no reference is in fold {fold}/4"):
                kodak.fold(f"{fold}/4")
    empty = [fold for fold in range(1, 6) if not set(order[fold - 1 :: 5]) & set(names)]
    assert empty == [5]
    with pytest.raises(DataError, match=r"in fold 5/5: .* use 1/5, 2/5, 3/5, 4/5$"):
        kodak.fold("5/5")


def test_selections_keep_examples_and_tables_together(dataset: data.Dataset) -> None:
    chosen = dataset.select(dataset.index["level"] == 5).select([3, 0])
    assert [example["id"] for example in chosen] == chosen.index["id"].tolist()
    assert chosen[-1]["id"] == chosen[1]["id"]
    with pytest.raises(IndexError):
        chosen[2]
    again = pickle.loads(pickle.dumps(chosen))  # as Grain's workers get it
    np.testing.assert_array_equal(again[0]["distorted"], chosen[0]["distorted"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.fold("4/3"), "synthetic/scenes: fold is '4/3'"),
        (lambda d: d.fold("1/6"), "6 folds of 5 references"),
        (lambda d: d.exclude_references(["I99"]), "has no reference I99; it has scene"),
        (lambda d: d.exclude_references(["Scene001"]), "did you mean scene001"),
    ],
)
def test_selection_errors(dataset: data.Dataset, call, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(dataset)


@pytest.fixture(scope="module")
def kodak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TID2013 with I01, I05, I25, and two sets of one's own with kodim05."""
    root = tmp_path_factory.mktemp("kodak")
    photos = root / "photos"
    tid = root / "tid2013"
    for folder in (photos, tid / "reference_images", tid / "distorted_images"):
        folder.mkdir(parents=True)
    image = Image.new("RGB", (32, 32))
    for name in ("kodim05", "beach"):
        image.save(photos / f"{name}.png")
    for number in (1, 5, 25):
        image.save(tid / "reference_images" / f"I{number:02}.BMP")
        image.save(tid / "distorted_images" / f"i{number:02}_01_1.bmp")
    lines = [f"{n / 10} I{n:02}_01_1.bmp" for n in (1, 5, 25)]
    (tid / "mos_with_names.txt").write_text("\n".join(lines))
    (tid / "mos_std.txt").write_text("0.1\n" * 3)
    (photos / "l.csv").write_text(
        "reference,distorted,mos,reference_id\n"
        "kodim05.png,beach.png,1,bikes\nbeach.png,kodim05.png,2,beach\n"
    )
    where = {"data_dir": root / "out"}
    data.prepare("tid2013", manual_dir=root, partial=True, **where)
    data.prepare("synthetic/photos", photographs=photos, kinds=["jpeg"], **where)
    data.prepare("pair_list/mine", csv_file=photos / "l.csv", **where)
    return root / "out"


@pytest.mark.parametrize(
    ("name", "others", "left"),
    [
        ("tid2013", ["live"], ("I01", "I25")),  # not prepared, and known by a table
        ("tid2013", ["synthetic/photos"], ("I01", "I25")),
        ("synthetic/photos", ["tid2013"], ("beach",)),
        ("synthetic/photos", ["pair_list/mine"], ("kodim05",)),
        ("pair_list/mine", ["synthetic/photos"], ("bikes",)),
        ("tid2013", ["tid2008"], ()),
        ("tid2013", ["kadid10k", "csiq"], ("I01", "I05", "I25")),
        ("tid2013", [], ("I01", "I05", "I25")),
    ],
)
def test_shared_photographs_are_excluded_from_both_sides(
    kodak: Path, name: str, others: list[str], left: tuple[str, ...]
) -> None:
    dataset = data.load(name, data_dir=kodak)
    assert dataset.exclude_shared(others).references == left


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("LIVE", "'LIVE' is not one of .*did you mean live"),
        ("lvie", "did you mean live"),
        ("synthetic/Photos", "not prepared .*did you mean synthetic/photos"),
        ("pair_list", "pair_list is no set by itself"),
        ("synthetic", "synthetic/scenes is not prepared"),
        ("live/x", "there is no set 'live/x'"),
        ("pair_list/../mine", "cannot be called"),
    ],
)
def test_sets_to_exclude_are_sets_that_there_are(
    kodak: Path, other: str, message: str
) -> None:
    dataset = data.load("tid2013", data_dir=kodak)
    with pytest.raises(DataError, match=message) as caught:
        dataset.exclude_shared(["live", other])
    assert "\n" not in str(caught.value)


def test_how_much_is_published_is_known_of_official_sets(kodak: Path) -> None:
    assert data.load("tid2013", data_dir=kodak).published == 3000
    assert data.load("tid2013", data_dir=kodak, split="full").published == 3000
    assert data.load("synthetic/photos", data_dir=kodak).published is None


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("Full", "did you mean full"),
        ("full+", "has no split ''"),
        ("full+full", "name each split once"),
        ("full[:2]", r"has no split 'full\[:2\]'"),
    ],
)
def test_splits_are_those_of_the_set(kodak: Path, split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.load("tid2013", data_dir=kodak, split=split)


def test_load_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="set 'imagenet' is not one of bapps"):
        data.load("imagenet", data_dir=folder)
    with pytest.raises(
        DataError, match=r"tid2013 is not prepared in .*prepare tid2013"
    ):
        data.load("tid2013", data_dir=folder)
    with pytest.raises(DataError, match=r"has no split 'test'; it has \['full'\]"):
        data.load("synthetic/scenes", data_dir=folder, split="test")
    with pytest.raises(DataError, match=r"no prepared set there \(index.csv"):
        data.open_folder(tmp_path, name="x")


def test_a_set_keeps_over_what_its_opinions_compare(
    dataset: data.Dataset, tmp_path: Path
) -> None:
    assert dataset.comparable == "group"
    assert dataset.select([0, 3]).fold("1/2")[0].comparable == "group"
    folder = data.prepare(
        "synthetic", data_dir=tmp_path, scenes=1, size=32, kinds=["jpeg"]
    )
    for text in ("", "{}", '{"comparable": "all"}', None):
        if text is None:
            (folder / "protocol.json").unlink()
        else:
            (folder / "protocol.json").write_text(text)
        with pytest.raises(DataError, match=r"protocol.json does not say .*overwrite"):
            data.load("synthetic/scenes", data_dir=tmp_path)


def test_an_index_out_of_step_is_noticed(tmp_path: Path) -> None:
    folder = data.prepare(
        "synthetic", data_dir=tmp_path, scenes=1, size=32, kinds=["jpeg"]
    )
    lines = (folder / "index.csv").read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"record 0 is scene000/jpeg/1, index.csv says"):
        data.load("synthetic/scenes", data_dir=tmp_path)[0]
    (folder / "index.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="has 4 examples, the records 5"):
        data.load("synthetic/scenes", data_dir=tmp_path)


def test_tensorflow_is_not_imported(tmp_path: Path) -> None:
    """In a fresh interpreter, building and reading."""
    program = """
import sys
from spips_jax import data
data.prepare("synthetic", data_dir=sys.argv[1], scenes=2, size=32, kinds=["jpeg"])
dataset = data.load("synthetic/scenes", data_dir=sys.argv[1])
batches = data.train_batches([data.Source(dataset=dataset)], batch_size=2, seed=0)
assert next(batches)["reference"].shape == (2, 32, 32, 3)
assert next(data.eval_batches(dataset, batch_size=2))["mask"].all()
loaded = {name.partition(".")[0] for name in sys.modules}
assert "tensorflow" not in loaded and "torch" not in loaded
print("read")
"""
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "read\n", run.stderr


def test_a_split_past_a_shard_keeps_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spips_jax.data.builder.SHARD_BYTES", 1)  # one example each
    folder = data.prepare(
        "synthetic", data_dir=tmp_path, scenes=3, size=32, kinds=["jpeg"]
    )
    assert len(list(folder.glob("*.array_record-*"))) == 15
    dataset = data.load("synthetic/scenes", data_dir=tmp_path)
    assert [example["level"] for example in dataset] == [1, 2, 3, 4, 5] * 3


def test_joined_splits_come_in_the_order_they_are_named(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    for subset in ("cnn", "color"):
        folder = tmp_path / "2afc" / "val" / subset
        for image in ("ref", "p0", "p1", "judge"):
            (folder / image).mkdir(parents=True)
        for number in range(2):
            for image in ("ref", "p0", "p1"):
                Image.fromarray(pixels).save(folder / image / f"{number:06d}.png")
            np.save(folder / "judge" / f"{number:06d}.npy", np.float32([number / 5]))
    data.prepare("bapps", data_dir=tmp_path, manual_dir=tmp_path, partial=True)
    for order in (("cnn", "color"), ("color", "cnn"), ("color",)):
        split = "+".join(f"val_{subset}" for subset in order)
        dataset = data.load("bapps", data_dir=tmp_path, split=split)
        expected = [f"val/{subset}/{n:06d}" for subset in order for n in range(2)]
        assert [example["id"] for example in dataset] == expected
        assert dataset.index["judgement"].tolist() == [0, np.float32(0.2)] * len(order)


def test_a_contact_sheet_shows_every_reference_and_kind() -> None:
    """Twelve of 12 references, 4 kinds and 5 levels, from the best to the worst."""
    names = np.array([(r, k, v) for r in range(12) for k in range(4) for v in range(5)])
    dataset = data.Dataset(
        name="pair_list/grid",
        kind=kinds.PAIRS,
        opinion="dmos",
        comparable="set",
        index={
            "id": np.arange(len(names)).astype(str),
            "reference_id": names[:, 0].astype(str),
            "distortion": names[:, 1].astype(str),
            "dmos": names[:, 2] + np.arange(len(names)) / 1000,
        },
        fingerprint="",
        _source=None,
        _rows=np.arange(len(names)),
        _references=frozenset(names[:, 0].astype(str).tolist()),
    )
    chosen = sheet.choose(dataset, 12)
    assert len(set(names[chosen, 0])) == 12
    assert len(set(names[chosen, 1])) == 4
    opinions = dataset.index["dmos"][chosen]
    assert (np.diff(opinions) > 0).all()
    assert set(np.floor(opinions)) == {0, 1, 2, 3, 4}
    assert len(sheet.choose(dataset, 1000)) == len(names)
