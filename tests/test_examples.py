"""The examples run from start to end at their smallest size, and keep what is there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

PICTURES = {
    "autoencoder": ("autoencoder.png",),
    "diffusion": ("curves.png", "samples.png"),
    "restoration": ("restoration.png",),
}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_there_are_no_others():
    helpers = {"photographs"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == helpers | set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_an_example_draws_its_pictures(example, name, tmp_path, capsys):
    output = tmp_path / "out" / name
    example(name)(["--size", "tiny", "--output", str(output)])
    said = capsys.readouterr().out
    for picture in PICTURES[name]:
        assert str(output / picture) in said
        with Image.open(output / picture) as image:
            assert min(image.size) > 100
    with pytest.raises(SystemExit, match="exists: name a new folder"):
        example(name)(["--size", "tiny", "--output", str(output)])


def test_photographs_of_ones_own(example, tmp_path):
    with pytest.raises(SystemExit, match="has 0 photographs of at least 32 pixels"):
        example("autoencoder")(
            [
                *("--size", "tiny", "--photographs", str(tmp_path)),
                *("--output", str(tmp_path / "out")),
            ]
        )
