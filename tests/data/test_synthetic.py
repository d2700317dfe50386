"""Synthetic pairs: what is stored is what the distortions give, labelled by level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax import data
from spips_jax.data import DataError
from spips_jax.data.distortions import LEVELS, distort
from spips_jax.data.scenes import scene

KINDS = ("gaussian_noise", "jpeg")


def test_scenes_need_no_files(tmp_path: Path) -> None:
    data.prepare("synthetic", data_dir=tmp_path, scenes=2, size=48, kinds=KINDS)
    dataset = data.load("synthetic/scenes", data_dir=tmp_path)
    assert (dataset.kind.name, dataset.opinion) == ("ranks", "level")
    assert len(dataset) == 2 * len(KINDS) * LEVELS
    assert dataset.references == ("scene000", "scene001")
    for example in dataset:
        number = int(example["reference_id"][-3:])
        reference = scene(number, height=48, width=48)
        np.testing.assert_array_equal(example["reference"], reference)
        kind, level = example["distortion"], int(example["level"])
        assert example["id"] == f"{example['reference_id']}/{kind}/{level}"
        if kind == "jpeg":  # the random kinds depend on a seed of the builder's
            np.testing.assert_array_equal(
                example["distorted"], distort(reference, kind, level, seed=0)
            )


@pytest.mark.filterwarnings("ignore:.*left out, as no images")
def test_photographs_of_a_folder_are_cut_and_seeded_by_name(tmp_path: Path) -> None:
    photographs = tmp_path / "photos"
    photographs.mkdir()
    pixels = scene(3, height=64, width=80)
    for name in ("a.png", "b.PNG"):
        Image.fromarray(pixels).save(photographs / name)
    (photographs / "MANIFEST.csv").write_text("not an image")
    data.prepare(
        "synthetic",
        data_dir=tmp_path,
        config="mine",
        photographs=photographs,
        size=40,
        kinds=["gaussian_noise"],
    )
    dataset = data.load("synthetic/mine", data_dir=tmp_path)
    assert dataset.references == ("a", "b")
    np.testing.assert_array_equal(dataset[0]["reference"], pixels[12:52, 20:60])
    # One photograph under two names has two realisations of the noise.
    assert not np.array_equal(dataset[4]["distorted"], dataset[9]["distorted"])


def test_tiles_of_a_photograph_share_its_fold_and_group_apart(tmp_path: Path) -> None:
    photographs = tmp_path / "photos"
    photographs.mkdir()
    sizes = {"a": (70, 100), "b": (64, 64), "c": (32, 70)}
    pixels = {
        name: scene(number, height=height, width=width)
        for number, (name, (height, width)) in enumerate(sizes.items())
    }
    for name, image in pixels.items():
        Image.fromarray(image).save(photographs / f"{name}.png")
    data.prepare(
        "synthetic",
        data_dir=tmp_path,
        config="tiles",
        photographs=photographs,
        size=32,
        tiles=True,
        kinds=["jpeg", "contrast_loss"],
    )
    dataset = data.load("synthetic/tiles", data_dir=tmp_path)
    corners = {
        f"{name}#{row}-{column}": (name, row * 32, column * 32)
        for name, (height, width) in sizes.items()
        for row in range(height // 32)
        for column in range(width // 32)
    }
    assert set(dataset.references) == set(corners)
    for example in dataset:
        name, top, left = corners[example["reference_id"]]
        tile = pixels[name][top : top + 32, left : left + 32]
        np.testing.assert_array_equal(example["reference"], tile)
        kind, level = example["distortion"], int(example["level"])
        distorted = distort(tile, kind, level, seed=0)
        np.testing.assert_array_equal(example["distorted"], distorted)

    def photographs_of(part: data.Dataset) -> set[str]:
        return {name.partition("#")[0] for name in part.references}

    held_out = []
    for number in (1, 2, 3):
        training, held = dataset.fold(f"{number}/3")
        assert photographs_of(training).isdisjoint(photographs_of(held))
        held_out += sorted(photographs_of(held))
    assert sorted(held_out) == ["a", "b", "c"]

    source = data.Source(dataset=dataset, grouped=True)
    with data.train_batches([source], batch_size=2 * LEVELS, seed=0) as batches:
        batch = next(batches)
    for group in np.unique(batch["group"]):
        chosen = batch["group"] == group
        assert len(set(batch["reference_id"][chosen].tolist())) == 1
        assert sorted(batch["level"][chosen]) == list(range(1, LEVELS + 1))


def test_a_sample_of_the_kinds_is_drawn_for_each_reference(tmp_path: Path) -> None:
    def kinds_by_reference(name: str, seed: int) -> dict[str, list[str]]:
        data.prepare(
            "synthetic",
            data_dir=tmp_path,
            config=name,
            scenes=6,
            size=32,
            kinds=["jpeg", "contrast_loss", "brightness", "quantization"],
            sample=2,
            seed=seed,
        )
        index = data.load(f"synthetic/{name}", data_dir=tmp_path).index
        return {
            reference: index["distortion"][index["reference_id"] == reference].tolist()
            for reference in set(index["reference_id"].tolist())
        }

    first = kinds_by_reference("first", 0)
    for drawn in first.values():
        assert [drawn.count(kind) for kind in set(drawn)] == [LEVELS, LEVELS]
    assert len({tuple(drawn) for drawn in first.values()}) > 1
    assert kinds_by_reference("again", 0) == first
    assert kinds_by_reference("other", 1) != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "a sample of 0 kinds: there are 20"),
        ({"sample": 3, "kinds": KINDS}, "a sample of 3 kinds: there are 2"),
        ({"tiles": True, "size": 64}, "tiles are cut from photographs"),
        ({"tiles": True, "photographs": "small"}, "give their folder and size"),
        (
            {"tiles": True, "photographs": "small", "size": 64},
            "s.png: is 40x40 .* too small.* 64x64",
        ),
        ({"kinds": ["fog"]}, "distortion 'fog' is not one of gaussian_noise"),
        ({"scenes": 0}, "0 scenes"),
        ({"photographs": "none"}, "none: no such folder"),
        ({"photographs": "."}, "holds no images"),
        ({"photographs": "small", "size": 64}, "s.png: is 40x40 .* too small.* 64x64"),
        ({"photographs": "twins"}, "has the same name"),
        ({"photographs": "broken"}, "b.png: .*"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("small", "twins", "broken"):
        Path(folder).mkdir()
    image = Image.new("RGB", (40, 40))
    for name in ("small/s.png", "twins/t.png", "twins/t.bmp"):
        image.save(name)
    Path("broken/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=message) as error:
        data.prepare("synthetic", data_dir=tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_photograph_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    (folder / "notes.txt").touch()
    (folder / ".hidden").touch()
    Image.new("RGB", (40, 40)).save(folder / "p.png")
    with pytest.warns(UserWarning, match=r"left out.*: inside, notes.txt$"):
        data.prepare(
            "synthetic/mine",
            data_dir=tmp_path / "out",
            photographs=folder,
            kinds=["jpeg"],
        )
