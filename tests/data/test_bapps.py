"""BAPPS: the official layout in small, read back, and its errors."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from spips_jax.data.bapps import Bapps, BappsJnd
from spips_jax.data.builder import DataError, IqaBuilder

tfds.disable_progress_bar()

TRAIN = ("traditional", "cnn", "mix")
VAL = ("traditional", "cnn", "superres", "deblur", "color", "frameinterp")
TWOAFC = [f"train/{name}" for name in TRAIN] + [f"val/{name}" for name in VAL]
SHARES = {"train": (0.0, 0.5, 1.0), "val": (0.2, 1.0, 0.6), "jnd": (0.0, 1 / 3, 1.0)}


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    """Both sets in full layout, three examples a subset."""
    rng = np.random.default_rng(0)

    def write(folder: Path, images: tuple[str, ...], answer: str, part: str) -> None:
        for name in (*images, answer):
            (folder / name).mkdir(parents=True)
        for number, share in enumerate(SHARES[part]):
            for name in images:
                pixels = rng.integers(0, 256, (33, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number:06}.png")
            answers = np.array([share], np.float32)
            np.save(folder / answer / f"{number:06}.npy", answers)

    root = tmp_path / "manual" / "dataset"
    for subset in TWOAFC:
        part = subset.partition("/")[0]
        write(root / "2afc" / subset, ("ref", "p0", "p1"), "judge", part)
    for subset in ("traditional", "cnn"):
        write(root / "jnd" / "val" / subset, ("p0", "p1"), "same", "jnd")
    # What file managers leave behind is no example.
    (root / "2afc" / "val" / "cnn" / "ref" / "Thumbs.db").write_bytes(b"x")
    (root / "2afc" / "val" / "cnn" / "judge" / "._000000.npy").write_bytes(b"x")
    return tmp_path / "manual"


def build(
    manual: Path, builder_class: type[IqaBuilder] = Bapps, *, partial: bool = True
) -> IqaBuilder:
    builder = builder_class(partial=partial, data_dir=manual.parent / "out")
    config = tfds.download.DownloadConfig(manual_dir=str(manual))
    builder.download_and_prepare(download_config=config)
    assert "tensorflow" not in sys.modules
    return builder


def fails(
    manual: Path, builder_class: type[IqaBuilder] = Bapps, *, partial: bool = True
) -> str:
    """The message of a build that must fail, in one line, and leave nothing."""
    with pytest.raises(DataError) as caught:
        build(manual, builder_class, partial=partial)
    assert not list((manual.parent / "out").rglob("*.*"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def read(builder: IqaBuilder, split: str, images: tuple[str, ...]) -> list[Any]:
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    source = tfds.builder_from_directory(builder.data_dir).as_data_source(
        split, decoders=decoders
    )
    return [source[i] for i in range(len(source))]


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def index_of(builder: IqaBuilder) -> list[Mapping[str, str]]:
    with (Path(builder.data_dir) / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("builder_class", "folder", "subsets", "images", "opinion"),
    [
        (Bapps, "2afc", TWOAFC, {"reference": "ref", "p0": "p0", "p1": "p1"}, "judge"),
        (
            BappsJnd,
            "jnd",
            ["val/traditional", "val/cnn"],
            {"p0": "p0", "p1": "p1"},
            "same",
        ),
    ],
)
def test_what_is_read_back_is_what_the_files_hold(
    manual, builder_class, folder, subsets, images, opinion
):
    builder = build(manual, builder_class)
    feature = builder.card.opinion
    lines = iter(index_of(builder))
    assert list(builder.info.splits) == [name.replace("/", "_") for name in subsets]
    for subset in subsets:
        root = manual / "dataset" / folder / subset
        part, _, name = subset.partition("/")
        split = subset.replace("/", "_")
        examples = read(builder, split, tuple(images))
        assert len(examples) == 3
        for number, (example, share) in enumerate(
            zip(examples, SHARES["jnd" if folder == "jnd" else part], strict=True)
        ):
            for image, where in images.items():
                file = root / where / f"{number:06}.png"
                assert example[image] == file.read_bytes()
                np.testing.assert_array_equal(
                    decoded(example[image]), np.array(Image.open(file))
                )
            assert example["id"].decode() == f"{subset}/{number:06}"
            assert example["reference_id"] == example["id"]
            assert example["distortion"].decode() == name
            assert example["level"] == 0
            assert example["votes"] == (
                3 if folder == "jnd" else {"train": 2, "val": 5}[part]
            )
            assert example[feature] == np.float32(share)
            assert (example["height"], example["width"]) == (33, 40)
            line = next(lines)
            assert (line["split"], line["id"]) == (split, f"{subset}/{number:06}")
            assert np.float32(line[feature]) == np.float32(share)
            answer = np.load(root / opinion / f"{number:06}.npy")
            assert np.float32(line[feature]) == answer[0]
    assert next(lines, None) is None


def test_published_counts_are_checked(manual):
    message = fails(manual, partial=False)
    assert "val_traditional has 3 examples" in message
    assert "4720" in message
    assert "--partial" in message
    message = fails(manual, BappsJnd, partial=False)
    assert "val_traditional has 3 examples" in message
    assert "4800" in message


def test_published_counts_add_up():
    counts = [count for count, _ in Bapps.CARD.counts.values()]
    assert sum(counts) == 36_344


def test_a_missing_subset_needs_partial(manual):
    folder = manual / "dataset" / "2afc" / "val" / "deblur"
    folder.rename(manual / "elsewhere")
    message = fails(manual, partial=False)
    assert str(folder) in message
    assert "--partial" in message
    builder = build(manual)
    assert "val_deblur" not in builder.info.splits
    assert len(builder.info.splits) == 8


def test_no_subset_at_all_is_an_error(manual):
    for part in ("train", "val"):
        (manual / "dataset" / "2afc" / part).rename(manual / part)
    assert "none of its subsets" in fails(manual)


@pytest.mark.parametrize("place", ["bapps/dataset", "bapps", "."])
def test_the_folder_is_found_in_several_places(manual, place):
    root = manual.parent / "other" / place
    root.mkdir(parents=True, exist_ok=True)
    (manual / "dataset" / "jnd").rename(root / "jnd")
    builder = build(manual.parent / "other", BappsJnd)
    assert builder.info.splits["val_cnn"].num_examples == 3


def test_nothing_there_says_where_to_get_it(tmp_path):
    (tmp_path / "manual" / "bapps").mkdir(parents=True)
    message = fails(tmp_path / "manual")
    assert "2afc is missing" in message
    assert "https://github.com/richzhang/PerceptualSimilarity" in message


@pytest.mark.parametrize(
    "name", ["ref/000001.png", "p0/000001.png", "p1/000001.png", "judge/000001.npy"]
)
def test_a_missing_file_is_named(manual, name):
    file = manual / "dataset" / "2afc" / "val" / "superres" / name
    file.unlink()
    assert fails(manual) == f"val/superres/000001: no such file: {file}"


def test_a_missing_folder_is_named(manual):
    folder = manual / "dataset" / "2afc" / "train" / "mix" / "p1"
    folder.rename(manual / "elsewhere")
    assert str(folder) in fails(manual)


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an NPY file"),
        (b"0.5", "not an NPY file"),
        (npy(np.array([0.5], np.float32))[:-2], "not an NPY file"),
        (npy(np.array([0.5], np.float32))[:40], "not an NPY file"),
        (npy(np.array([None]), allow_pickle=True), "not an NPY file"),
        (npy(np.array(["0.5"])), "not an NPY file"),
        (npz(np.array([0.5], np.float32)), "not an NPY file"),
        (npy(np.array([0.5, 0.5], np.float32)), "(2,)"),
        (npy(np.array([], np.float32)), "(0,)"),
        (npy(np.array([1.2], np.float32)), "1.2"),
        (npy(np.array([-0.2], np.float32)), "-0.2"),
        (npy(np.array([np.nan], np.float32)), "nan"),
    ],
)
def test_bad_answers_are_refused(manual, content, says):
    file = manual / "dataset" / "2afc" / "val" / "cnn" / "judge" / "000002.npy"
    file.write_bytes(content)
    message = fails(manual)
    assert message.startswith(f"{file}: ")
    assert says in message


def test_a_truncated_image_is_refused(manual):
    file = manual / "dataset" / "2afc" / "val" / "cnn" / "p1" / "000002.png"
    file.write_bytes(file.read_bytes()[:-2000])
    message = fails(manual)
    assert message.startswith(f"val/cnn/000002: {file}: damaged or truncated")


def test_patches_of_different_sizes_are_refused(manual):
    file = manual / "dataset" / "2afc" / "train" / "cnn" / "p0" / "000000.png"
    Image.fromarray(np.zeros((34, 40, 3), np.uint8)).save(file)
    message = fails(manual)
    assert message.startswith("train/cnn/000000: ")
    assert "40x33" in message
    assert "40x34" in message
