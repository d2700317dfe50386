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
    assert (dataset.kind, dataset.opinion) == ("ranks", "level")
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["fog"]}, "no distortion fog; there are gaussian_noise"),
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
