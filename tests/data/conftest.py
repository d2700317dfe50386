"""What tests of the dataset builders share: images, builds, reading back."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from spips_jax.data.builder import INDEX, DataError, IqaBuilder

tfds.disable_progress_bar()


@dataclass(frozen=True)
class Built:
    """A prepared set: its examples with images decoded, and the rows of its index."""

    examples: list[dict[str, Any]]
    index: list[dict[str, str]]


@pytest.fixture
def iqa_image() -> Callable[..., np.ndarray]:
    """Writes an image of random pixels and returns them."""
    rng = np.random.default_rng(0)

    def write(path: Path, *, width: int = 40, height: int = 33) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


@pytest.fixture
def iqa_build(tmp_path: Path) -> Callable[..., Built]:
    """Builds a set from a manual_dir and reads all of it back."""

    def build(
        builder_class: type[IqaBuilder], manual: Path, *, partial: bool = True
    ) -> Built:
        builder = builder_class(partial=partial, data_dir=tmp_path / "prepared")
        _prepare(builder, manual)
        images = [
            name
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        ]
        source = tfds.builder_from_directory(builder.data_dir).as_data_source(
            "full", decoders={name: tfds.decode.SkipDecoding() for name in images}
        )
        examples = [dict(source[i]) for i in range(len(source))]
        for example in examples:
            for name in images:
                with Image.open(io.BytesIO(example[name])) as file:
                    example[name] = np.array(file)
        with (Path(builder.data_dir) / INDEX).open(encoding="utf-8") as file:
            index = list(csv.DictReader(file))
        assert "tensorflow" not in sys.modules
        return Built(examples, index)

    return build


@pytest.fixture
def iqa_fails(tmp_path: Path) -> Callable[..., str]:
    """Returns the error of a build: one line, and nothing of the set is left."""

    def fail(
        builder_class: type[IqaBuilder], manual: Path, *, partial: bool = True
    ) -> str:
        prepared = tmp_path / "prepared"
        builder = builder_class(partial=partial, data_dir=prepared)
        with pytest.raises(DataError) as caught:
            _prepare(builder, manual)
        message = str(caught.value)
        assert "\n" not in message
        assert not Path(builder.data_dir).exists()
        assert not [path for path in prepared.rglob("*") if "incomplete" in path.name]
        return message

    return fail


@pytest.fixture
def iqa_check() -> Callable[[Built, list[dict[str, Any]]], None]:
    """Asserts that a set holds the expected examples, and its index the same."""

    def check(built: Built, expected: list[dict[str, Any]]) -> None:
        assert len(built.examples) == len(built.index) == len(expected)
        triples = zip(built.examples, built.index, expected, strict=True)
        for example, line, wanted in triples:
            assert example.keys() == wanted.keys() | {"height", "width"}
            assert line["split"] == "full"
            for name, value in wanted.items():
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(example[name], value)
                elif isinstance(value, str):
                    assert example[name].decode() == line[name] == value
                else:
                    # A float is stored as float32; in the index it keeps all digits.
                    stored = np.float32(value) if isinstance(value, float) else value
                    assert example[name] == stored
                    assert float(line[name]) == value
            size = wanted["distorted"].shape[:2]
            assert (example["height"], example["width"]) == size
            assert (int(line["height"]), int(line["width"])) == size

    return check


def _prepare(builder: IqaBuilder, manual: Path) -> None:
    config = tfds.download.DownloadConfig(manual_dir=str(manual))
    builder.download_and_prepare(download_config=config)
