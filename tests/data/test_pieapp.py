"""PieAPP: the official layout in small, read back, and its errors."""

from __future__ import annotations

import csv
import io
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from spips_jax.data.builder import DataError, IqaBuilder
from spips_jax.data.pieapp import Pieapp, PieappScores

tfds.disable_progress_bar()

PAIRS = "ref. image, distorted image A, distorted image B, "
TABLES = {
    "train/ref_1_pairwise_labels.csv": [
        PAIRS + "raw preference for A, processed preference for A",
        "ref_1.png,distort_1_blur_inter_3.png,distort_1_jpeg_2000_intra_1.png,0.25,0.3",
        "ref_1.png,distort_1_blur_inter_3.png,distort_1_blur_inter_4.png,,0.875",
        "ref_1.png, distort_1_odd.png, distort_1_blur_inter_4.png, 1, ",
    ],
    "val/ref_141_pairwise_labels.csv": [
        PAIRS + "raw preference for A",
        "ref_141.png,distort_141_blur_inter_3.png,distort_141_blur_inter_4.png,0.5",
    ],
    "test/ref_161_pairwise_labels.csv": [
        PAIRS + "preference for A",
        "ref_161.png,ref_161.png,distort_161_haze_1.png,0.975",
        "ref_161.png,distort_161_haze_1.png,distort_161_haze_2.png,0.6",
    ],
    "test/ref_161_per_image_score.csv": [
        "ref. image, distorted image, score for distorted image",
        "ref_161.png,distort_161_haze_1.png,3.25",
        "ref_161.png,distort_161_haze_2.png,-0.125",
        "ref_161.png,ref_161.png,0",
    ],
}
EXPECTED = {
    "train": [
        (
            "distort_1_blur_inter_3/distort_1_jpeg_2000_intra_1",
            "blur/jpeg_2000",
            0.75,
            40,
            0.7,
        ),
        ("distort_1_blur_inter_3/distort_1_blur_inter_4", "blur/blur", 0.125, 0, 0.125),
        ("distort_1_odd/distort_1_blur_inter_4", "/blur", 0.0, 40, math.nan),
    ],
    "val": [
        (
            "distort_141_blur_inter_3/distort_141_blur_inter_4",
            "blur/blur",
            0.5,
            40,
            math.nan,
        )
    ],
    "test": [
        ("ref_161/distort_161_haze_1", "/haze", 1 - 0.975, 40, math.nan),
        ("distort_161_haze_1/distort_161_haze_2", "haze/haze", 0.4, 40, math.nan),
    ],
}
REFERENCES = {"train": "ref_1", "val": "ref_141", "test": "ref_161"}
SPLITS = tuple(REFERENCES)
IMAGES = {
    Pieapp: ("reference", "p0", "p1"),
    PieappScores: ("reference", "distorted"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path / "manual" / "PieAPP_dataset_CVPR_2018"
    for split, reference in REFERENCES.items():
        (root / "labels" / split).mkdir(parents=True)
        (root / f"{split}_reference_list.txt").parent.mkdir(exist_ok=True)
        (root / f"{split}_reference_list.txt").write_text(f"{reference}.png\n")
    for path, lines in TABLES.items():
        (root / "labels" / path).write_bytes("\r\n".join(lines).encode())
        split, reference = path.split("/")[0], REFERENCES[path.split("/")[0]]
        names = {name.strip() for line in lines[1:] for name in line.split(",")[:3]}
        for name in sorted(name for name in names if name.endswith(".png")):
            file = path_of(root, split, name)
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (33, 40, 3), np.uint8)
                Image.fromarray(pixels).save(file)
    return root


def path_of(root: Path, split: str, name: str) -> Path:
    if name.startswith("ref"):
        return root / "reference_images" / split / name
    return root / "distorted_images" / split / REFERENCES[split] / name


def build(
    root: Path, builder_class: type[IqaBuilder] = Pieapp, *, partial: bool = True
) -> IqaBuilder:
    builder = builder_class(partial=partial, data_dir=root.parents[1] / "out")
    config = tfds.download.DownloadConfig(manual_dir=str(root.parent))
    builder.download_and_prepare(download_config=config)
    assert "tensorflow" not in sys.modules
    return builder


def fails(
    root: Path, builder_class: type[IqaBuilder] = Pieapp, *, partial: bool = True
) -> str:
    """The message of a build that must fail, in one line, and leave nothing."""
    with pytest.raises(DataError) as caught:
        build(root, builder_class, partial=partial)
    assert not list((root.parents[1] / "out").rglob("*.*"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def read(builder: IqaBuilder, split: str) -> list[Any]:
    images = IMAGES[type(builder)]
    source = tfds.builder_from_directory(builder.data_dir).as_data_source(
        split, decoders={name: tfds.decode.SkipDecoding() for name in images}
    )
    return [source[i] for i in range(len(source))]


def pixels(data: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.array(image)


def index_of(builder: IqaBuilder) -> list[Mapping[str, str]]:
    with (Path(builder.data_dir) / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pairs_are_read_back_as_the_files_hold_them(root):
    builder = build(root, partial=False)  # no counts are published for the splits
    lines = iter(index_of(builder))
    assert tuple(builder.info.splits) == SPLITS
    for split in SPLITS:
        for example, expected in zip(
            read(builder, split), EXPECTED[split], strict=True
        ):
            line = next(lines)
            name, kind, judgement, votes, estimate = expected
            names = (REFERENCES[split], *name.split("/"))
            for feature, source in zip(IMAGES[Pieapp], names, strict=True):
                np.testing.assert_array_equal(
                    pixels(example[feature]),
                    pixels(path_of(root, split, f"{source}.png")),
                )
            assert line["split"] == split
            assert example["id"].decode() == line["id"] == name
            assert example["reference_id"].decode() == REFERENCES[split]
            assert example["distortion"].decode() == line["distortion"] == kind
            assert example["level"] == 0
            assert example["judgement"] == np.float32(judgement)
            assert float(line["judgement"]) == judgement
            assert example["votes"] == int(line["votes"]) == votes
            np.testing.assert_equal(example["estimate"], np.float32(estimate))
            np.testing.assert_equal(float(line["estimate"]), estimate)
            assert (example["height"], example["width"]) == (33, 40)
    assert next(lines, None) is None


def test_scores_are_read_back_without_the_reference_itself(root):
    builder = build(root, PieappScores)
    examples, lines = read(builder, "test"), index_of(builder)
    assert list(builder.info.splits) == ["test"]
    for example, line, (name, score) in zip(
        examples,
        lines,
        [("distort_161_haze_1", 3.25), ("distort_161_haze_2", -0.125)],
        strict=True,
    ):
        for feature, source in (("reference", "ref_161"), ("distorted", name)):
            np.testing.assert_array_equal(
                pixels(example[feature]),
                pixels(path_of(root, "test", f"{source}.png")),
            )
        assert example["id"].decode() == line["id"] == name
        assert example["reference_id"].decode() == "ref_161"
        assert example["distortion"].decode() == "haze"
        assert example["dmos"] == float(line["dmos"]) == score


def test_val_may_have_both_columns_as_train(root):
    file = root / "labels" / "val" / "ref_141_pairwise_labels.csv"
    header, line = file.read_text().splitlines()
    file.write_text(f"{header}, processed preference for A\n{line},0.75\n")
    (example,) = read(build(root), "val")
    assert (example["judgement"], example["estimate"]) == (0.5, 0.25)


def test_names_are_found_whatever_their_case(root):
    path_of(root, "val", "ref_141.png").rename(path_of(root, "val", "ref_141.PNG"))
    assert build(root).info.splits["val"].num_examples == 1


def test_published_counts_are_checked(root):
    message = fails(root, PieappScores, partial=False)
    assert "test has 2 examples" in message
    assert "600" in message
    assert "--partial" in message


def test_a_missing_split_needs_partial(root):
    file = root / "val_reference_list.txt"
    file.unlink()
    message = fails(root, partial=False)
    assert str(file) in message
    assert "--partial" in message
    assert list(build(root).info.splits) == ["train", "test"]


def test_no_split_at_all_is_an_error(root):
    for split in SPLITS:
        (root / f"{split}_reference_list.txt").unlink()
    assert "train_reference_list.txt" in fails(root)
    assert "test_reference_list.txt" in fails(root, PieappScores)


@pytest.mark.parametrize("builder_class", [Pieapp, PieappScores])
def test_nothing_there_says_where_to_get_it(tmp_path, builder_class):
    root = tmp_path / "manual" / "PieAPP_dataset_CVPR_2018"
    root.mkdir(parents=True)
    message = fails(root, builder_class)
    assert "https://github.com/prashnani/PerceptualImageError" in message


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("labels/train/ref_1_pairwise_labels.csv", "train_reference_list.txt, line 1"),
        ("reference_images/train/ref_1.png", "train_reference_list.txt, line 1"),
        (
            "distorted_images/train/ref_1/distort_1_blur_inter_4.png",
            "ref_1_pairwise_labels.csv, line 3",
        ),
        (
            "distorted_images/test/ref_161/distort_161_haze_2.png",
            "ref_161_pairwise_labels.csv, line 3",
        ),
    ],
)
def test_a_missing_file_is_named_with_its_line(root, path, where):
    (root / path).unlink()
    assert fails(root) == f"{where}: no such file: {root / path}"


def test_a_missing_score_table_is_named(root):
    file = root / "labels" / "test" / "ref_161_per_image_score.csv"
    file.unlink()
    where = "test_reference_list.txt, line 1"
    assert fails(root, PieappScores) == f"{where}: no such file: {file}"


def test_a_missing_folder_is_named(root):
    folder = root / "distorted_images" / "test" / "ref_161"
    shutil.rmtree(folder)
    assert str(folder) in fails(root)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ref_1.png,A.png,distort_1_odd.png,0.5,0.5", "no such file: "),
        ("ref_1.png,distort_1_odd.png,A.png,0.5,0.5", "no such file: "),
        ("ref_2.png,ref_1.png,distort_1_odd.png,0.5,0.5", "is of 'ref_2.png'"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,half,0.5", "raw preference for A is"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,0.5,inf", "processed preference for A"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,1.5,0.5", "which is not in 0 to 1"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,0.5,-1", "which is not in 0 to 1"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,,", "has no preference"),
        ("ref_1.png,ref_1.png,distort_1_odd.png,0.5", "has 4 values"),
        (
            "ref_1.png,distort_1_odd.png,distort_1_blur_inter_4.png,1,1",
            "is in ref_1_pairwise_labels.csv, line 4 already",
        ),
    ],
)
def test_malformed_pairs_are_refused(root, line, says):
    file = root / "labels" / "train" / "ref_1_pairwise_labels.csv"
    file.write_text(f"{file.read_text()}\n{line}\n")
    message = fails(root)
    assert message.startswith("ref_1_pairwise_labels.csv, line 5: ")
    assert says in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ref_161.png,A.png,1", "no such file: "),
        ("ref_1.png,distort_161_haze_2.png,1", "is of 'ref_1.png'"),
        ("ref_161.png,distort_161_haze_2.png,bad", "is 'bad', which is not a number"),
        ("ref_161.png,distort_161_haze_2.png,", "is '', which is not a number"),
        ("ref_161.png,distort_161_haze_2.png,99", "dmos 99 is outside the scale"),
        ("ref_161.png,distort_161_haze_2.png,1", "line 3 already"),
    ],
)
def test_malformed_scores_are_refused(root, line, says):
    file = root / "labels" / "test" / "ref_161_per_image_score.csv"
    file.write_text(f"{file.read_text()}\n{line}\n")
    message = fails(root, PieappScores)
    assert message.startswith("ref_161_per_image_score.csv, line 5: ")
    assert says in message


def test_a_table_without_preferences_is_refused(root):
    file = root / "labels" / "test" / "ref_161_pairwise_labels.csv"
    file.write_text(file.read_text().replace("preference for A", "votes"))
    message = fails(root)
    assert message.startswith("ref_161_pairwise_labels.csv, line 2: has no preference")


def test_a_table_without_a_column_is_refused(root):
    file = root / "labels" / "test" / "ref_161_pairwise_labels.csv"
    file.write_text(file.read_text().replace("distorted image B", "image"))
    message = fails(root)
    assert message.startswith(f"{file}: ")
    assert "distorted image B" in message


def test_a_truncated_image_is_refused(root):
    file = path_of(root, "train", "distort_1_odd.png")
    file.write_bytes(file.read_bytes()[:-2000])
    message = fails(root)
    where = "ref_1_pairwise_labels.csv, line 4"
    assert message.startswith(f"{where}: {file}: damaged or truncated")


def test_an_image_of_another_size_is_refused(root):
    file = path_of(root, "test", "distort_161_haze_2.png")
    Image.fromarray(np.zeros((34, 40, 3), np.uint8)).save(file)
    for builder_class, table in (
        (Pieapp, "pairwise_labels"),
        (PieappScores, "per_image_score"),
    ):
        message = fails(root, builder_class)
        assert message.startswith(f"ref_161_{table}.csv, line 3: ")
        assert "40x33" in message
        assert "40x34" in message
