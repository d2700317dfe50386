"""PIPAL: the official layout in small, read back, and its errors."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from spips_jax.data.builder import DataError
from spips_jax.data.pipal import Pipal

tfds.disable_progress_bar()

LABELS = {
    "Train_Label/A0001.txt": [
        ("A0001_00_00.bmp", "1520.0648", "traditional_sr"),
        ("A0001_03_23.bmp", "1437.0798", "gan_based_sr"),
    ],
    "Train_Label/A0060.txt": [
        ("A0060_05_13.bmp", "934.95", "sr_and_denoising_jointly"),
        ("A0060_06_26.bmp", "1835.99", "traditional_distortions"),
    ],
}
TRAIN = [line for lines in LABELS.values() for line in lines]
VALIDATION = [
    ("A0000_10_00.bmp", "1400", ""),
    ("A0000_10_01.bmp", "1399.5", ""),
    ("A0003_02_09.bmp", "1600.25", "sr_with_kernel_mismatch"),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write_image(file: Path, rng: np.random.Generator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (33, 40, 3), np.uint8)).save(file)


def write_labels(file: Path, lines: list[tuple[str, str, str]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{name},{score}\r\n" for name, score, _ in lines))


@pytest.fixture
def root(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Train alone, the distorted images in one folder; cases mixed as on disk."""
    root = tmp_path / "manual" / "PIPAL"
    write_image(root / "Train_Ref" / "A0001.bmp", rng)
    write_image(root / "Train_Ref" / "A0060.BMP", rng)
    for path, lines in LABELS.items():
        for name, _, _ in lines:
            write_image(root / "Train_Dist" / name, rng)
        write_labels(root / path, lines)
    # What another system leaves beside each file is no labels.
    (root / "Train_Label" / "._A0001.txt").write_bytes(b"\x00\xff")
    return root


@pytest.fixture
def validation(root: Path, rng: np.random.Generator) -> Path:
    for name in ("A0000.bmp", "A0003.bmp"):
        write_image(root / "Val_Ref" / name, rng)
    for name, _, _ in VALIDATION:
        write_image(root / "Val_Dist" / name, rng)
    return root


def build(root: Path, *, partial: bool = True) -> Pipal:
    builder = Pipal(partial=partial, data_dir=root.parents[1] / "out")
    config = tfds.download.DownloadConfig(manual_dir=str(root.parent))
    builder.download_and_prepare(download_config=config)
    assert "tensorflow" not in sys.modules
    return builder


def fails(root: Path, *, partial: bool = True) -> str:
    """The message of a build that must fail, in one line, and leave nothing."""
    with pytest.raises(DataError) as caught:
        build(root, partial=partial)
    assert not list((root.parents[1] / "out").rglob("*.*"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def read(builder: Pipal, split: str) -> list[Any]:
    decoders = {name: tfds.decode.SkipDecoding() for name in ("reference", "distorted")}
    source = tfds.builder_from_directory(builder.data_dir).as_data_source(
        split, decoders=decoders
    )
    return [source[i] for i in range(len(source))]


def pixels(data: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.array(image)


def index_of(builder: Pipal) -> list[Mapping[str, str]]:
    with (Path(builder.data_dir) / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check(
    builder: Pipal,
    split: str,
    lines: list[tuple[str, str, str]],
    files: Mapping[str, Path],
) -> None:
    """The records of a split, and its lines of the index, are those of `lines`."""
    index = [line for line in index_of(builder) if line["split"] == split]
    for example, line, (name, score, kind) in zip(
        read(builder, split), index, lines, strict=True
    ):
        reference = name.partition("_")[0]
        for feature, source in (
            ("reference", files[f"{reference}.bmp".lower()]),
            ("distorted", files[name.lower()]),
        ):
            np.testing.assert_array_equal(pixels(example[feature]), pixels(source))
        assert example["id"].decode() == line["id"] == name.removesuffix(".bmp")
        assert example["reference_id"].decode() == line["reference_id"] == reference
        assert example["distortion"].decode() == line["distortion"] == kind
        assert example["level"] == 0
        assert example["mos"] == np.float32(score)
        assert float(line["mos"]) == float(score)
        assert (example["height"], example["width"]) == (33, 40)


def files_of(root: Path) -> Mapping[str, Path]:
    """Every image under a folder by its name; names are unique in PIPAL."""
    return {
        file.name.lower(): file
        for file in root.rglob("*")
        if file.suffix.lower() == ".bmp"
    }


def test_train_is_read_back_as_the_files_hold_it(root):
    builder = build(root)
    assert list(builder.info.splits) == ["train"]
    check(builder, "train", TRAIN, files_of(root))


@pytest.mark.parametrize(
    "folders",
    [
        ("Train_Distort_1", "Train_Distort_2"),
        ("Distortion1", "Distortion_4"),
        ("Train_Dist/Distortion_1", "Train_Dist/Distortion_2"),
        ("Distortion_1/Distortion_1", "Distortion_2/Distortion_2"),
    ],
)
def test_distorted_images_may_lie_in_several_folders(root, folders):
    (root / "Train_Dist").rename(root / "all")
    for reference, folder in zip(("A0001", "A0060"), folders, strict=True):
        (root / folder).mkdir(parents=True)
        for file in (root / "all").glob(f"{reference}*"):
            file.rename(root / folder / file.name)
    (root / "all").rmdir()
    check(build(root), "train", TRAIN, files_of(root))


@pytest.mark.parametrize(
    "labels", ["Val_Label/A0000.txt", "val_label.txt", "Val_Label.txt"]
)
def test_validation_is_built_where_it_is(validation, labels):
    write_labels(validation / labels, VALIDATION)
    builder = build(validation)
    assert list(builder.info.splits) == ["train", "val"]
    check(builder, "train", TRAIN, files_of(validation))
    check(builder, "val", VALIDATION, files_of(validation))
    assert [line["split"] for line in index_of(builder)] == ["train"] * 4 + ["val"] * 3


def test_validation_without_labels_is_an_error(validation):
    message = fails(validation)
    assert str(validation / "Val_Label") in message
    assert "scores of val" in message


def test_validation_without_images_is_an_error(validation):
    write_labels(validation / "val_label.txt", VALIDATION)
    shutil.rmtree(validation / "Val_Dist")
    assert str(validation / "Val_Dist") in fails(validation)


def test_published_counts_are_checked(root):
    message = fails(root, partial=False)
    assert "train has 4 examples" in message
    assert "23200" in message
    assert "--partial" in message


@pytest.mark.parametrize("folder", ["Train_Dist", "Train_Label"])
def test_a_missing_folder_is_named(root, folder):
    shutil.rmtree(root / folder)
    assert str(root / folder) in fails(root)


def test_labels_that_are_all_missing_are_no_examples(root):
    for file in (root / "Train_Label").glob("A*"):
        file.unlink()
    assert "no examples in train" in fails(root)


def test_nothing_there_says_where_to_get_it(tmp_path):
    (tmp_path / "manual" / "PIPAL").mkdir(parents=True)
    message = fails(tmp_path / "manual" / "PIPAL")
    assert "https://www.jasongt.com/projectpages/pipal.html" in message


@pytest.mark.parametrize("name", ["Train_Dist/A0060_06_26.bmp", "Train_Ref/A0060.BMP"])
def test_a_missing_image_is_named_with_its_line(root, name):
    (root / name).unlink()
    message = fails(root)
    where = "A0060.txt, line 2" if "Dist" in name else "A0060.txt, line 1"
    assert message.startswith(f"{where}: no such file: ")
    assert name.lower() in message.lower()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A0001_00_00.bmp", "mos is ''"),
        ("A0001_00_00.bmp,good", "'good', which is not a number"),
        ("A0001_00_00.bmp,nan", "'nan', which is not a number"),
        ("A0001_00_00.bmp,15.2", "mos 15.2 is outside the scale of PIPAL"),
        ("A0001_00_00.bmp,15200", "mos 15200 is outside the scale of PIPAL"),
        ("A0001_00_00.bmp 1500", "is not a name like A0001_00_00.bmp and a score"),
        ("1500,A0001_00_00.bmp", "is not a name like A0001_00_00.bmp and a score"),
        ("A0001_07_00.bmp,1500", "distortion class 07, PIPAL has 00 to 06"),
        ("A0001_03_23.bmp,1500", "is in A0001.txt, line 2 already"),
    ],
)
def test_malformed_lines_are_refused(root, line, says):
    file = root / "Train_Label" / "A0001.txt"
    file.write_text(file.read_text() + line + "\n")
    message = fails(root)
    assert message.startswith("A0001.txt, line 3: ")
    assert says in message


def test_a_truncated_image_is_refused(root):
    file = root / "Train_Dist" / "A0001_03_23.bmp"
    file.write_bytes(file.read_bytes()[:-2000])
    message = fails(root)
    assert message.startswith(f"A0001.txt, line 2: {file}: damaged or truncated")


def test_an_image_of_another_size_is_refused(root):
    file = root / "Train_Dist" / "A0001_03_23.bmp"
    Image.fromarray(np.zeros((34, 40, 3), np.uint8)).save(file)
    message = fails(root)
    assert message.startswith("A0001.txt, line 2: ")
    assert "40x33" in message
    assert "40x34" in message
