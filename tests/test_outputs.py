"""No command writes over an input, nor over files that others made."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax import data, evaluation, weights
from spips_jax.commands import main
from spips_jax.messages import UserError
from spips_jax.outputs import check_files, check_folder

LOSS = "is an input, too"
OTHERS = "is there already, and is none of ours"
FILLED = "is not empty, and holds nothing of ours"


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, spips_home):
    """A working folder, with a file of somebody's in a folder of theirs."""
    monkeypatch.chdir(tmp_path)
    Path("theirs").mkdir()
    Path("theirs/notes.txt").write_text("mine")
    return tmp_path


def save(path: str, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path) -> dict[str, str]:
    """Every file and what is in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def spelled(kind: str, path: Path) -> Path:
    """Another name of a file."""
    other = path.parent / "other.png"
    if kind == "relative":
        return Path(os.path.relpath(path))
    if kind == "dots":
        return path.parent / "theirs" / ".." / path.name
    if kind == "link":
        other.symlink_to(path)
    elif kind == "hard link":
        other.hardlink_to(path)
    elif kind == "linked folder":
        (path.parent / "door").symlink_to(path.parent)
        other = path.parent / "door" / path.name
    else:
        other = path
    return other


@pytest.mark.parametrize(
    "kind", ["same", "relative", "dots", "link", "hard link", "linked folder"]
)
def test_an_input_is_known_by_any_name(kind, work):
    path = Path(save(str(work / "a.png")))
    with pytest.raises(UserError, match=LOSS):
        check_files([spelled(kind, path)], inputs=["b.png", path], option="--output")


def test_a_dangling_link_is_somebodys():
    Path("gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=OTHERS):
        check_files(["gone.png"], option="--output")


@pytest.mark.parametrize("name", ["a.png", "a.safetensors", "a.md", "a.json"])
def test_files_of_others_stay(name):
    Path(name).write_text("mine")
    with pytest.raises(UserError, match=OTHERS):
        check_files([name], option="--output")
    check_files([name], option="--output", own=True)


def test_a_folder_is_new_or_empty_or_ours(work):
    check_folder(work / "new", marks=("scores",), option="--output")
    Path("empty").mkdir()
    check_folder(work / "empty", marks=("scores",), option="--output")
    with pytest.raises(UserError, match=FILLED):
        check_folder(work / "theirs", marks=("scores",), option="--output")
    Path("theirs/scores").mkdir()
    check_folder(work / "theirs", marks=("scores",), option="--output")


SCORE = ("--model", "psnr", "--maps")

REFUSED = {
    "maps beside the photograph": (
        ["score", "photo.png", "photo.jpg", *SCORE, "."],
        LOSS,
    ),
    "maps beside the originals": (
        ["score", "originals", "compressed", *SCORE, "originals"],
        LOSS,
    ),
    "maps over the distorted": (
        ["score", "photo.png", "originals", *SCORE, "./originals"],
        LOSS,
    ),
    "maps over another picture": (
        ["score", "photo.png", "photo.jpg", *SCORE, "album"],
        OTHERS,
    ),
    "maps over one picture of several": (
        ["score", "originals", "compressed", *SCORE, "album"],
        OTHERS,
    ),
    "weights over their source": (
        ["convert", "alexnet", "--source", "w.npz", "--output", "w.npz"],
        LOSS,
    ),
    "weights over a photograph": (
        ["convert", "alexnet", "--source", "w.npz", "--output", "photo.png"],
        OTHERS,
    ),
    "weights over a photograph, before their source is downloaded": (
        ["convert", "alexnet", "--output", "photo.png"],
        OTHERS,
    ),
    "a contact sheet over a photograph": (
        ["data", "show", "synthetic/tiny", "--data_dir", "sets",
         "--output", "photo.png"],
        OTHERS,
    ),
    "a report among photographs": (
        ["evaluate", "--model", "psnr", "--data", "synthetic/tiny",
         "--config.data_dir=sets", "--output", "originals"],
        FILLED,
    ),
    "a run among photographs": (
        ["train", "--config", "quickstart", "--workdir", "originals"],
        "it is not empty, and holds no run",
    ),
    "a run beside another config": (
        ["train", "--config", "quickstart", "--workdir", "project"],
        "it is not empty, and holds no run",
    ),
    "a model's card over a text": (
        ["train", "export", "--workdir", "none", "--output", "README.safetensors"],
        OTHERS,
    ),
}  # fmt: skip


@pytest.fixture
def files(work):
    """Somebody's files, and a prepared set."""
    save("photo.png")
    save("photo.jpg")
    for name in ("a", "b"):
        save(f"originals/{name}.png")
        save(f"compressed/{name}.jpg", seed=1)
    save("album/b.png")
    save("album/photo.png")
    np.savez("w.npz", x=np.zeros(3, np.float32))
    Path("README.md").write_text("# Mine\n")
    Path("project").mkdir()
    Path("project/config.json").write_text('{"name": "mine"}')
    data.prepare(
        "synthetic", data_dir="sets", config="tiny", photographs="originals", size=40,
        kinds=["jpeg"],
    )  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_commands_refuse_before_any_work(case, files, work, capsys):
    command, message = REFUSED[case]
    if "quickstart" in command:
        data.prepare("synthetic", data_dir="sets", scenes=5, size=40, kinds=["jpeg"])
        command = [*command, "--config.data.data_dir=sets"]
    before = tree(work)
    assert main(command) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""
    assert tree(work) == before


def test_maps_have_no_folder_without_a_model(files, capsys):
    command = ["score", "photo.png", "photo.jpg", "--model", "none", "--maps", "maps"]
    assert main(command) == 2
    assert "'none' is not one of" in capsys.readouterr().err
    assert not Path("maps").exists()


def test_what_a_command_made_it_makes_again(files, capsys):
    commands = [
        ["score", "photo.png", "photo.jpg", *SCORE, "maps"],
        ["data", "show", "synthetic/tiny", "--data_dir", "sets", "--output", "sheet"],
        ["evaluate", "--model", "psnr", "--data", "synthetic/tiny",
         "--config.data_dir=sets", "--output", "report"],
    ]  # fmt: skip
    for command in commands:
        assert main(command) == 0
        assert main(command) == 0
    assert Path("maps/photo.png").is_file()


def test_a_damaged_file_in_the_cache_is_replaced(random_weights, monkeypatch, work):
    monkeypatch.setenv("SPIPS_HOME", str(work))
    weights.weights_path("alexnet").write_bytes(b"half a file")
    assert weights.weights_path("alexnet").parent == work
    source = random_weights("alexnet")
    with pytest.raises(UserError, match=OTHERS):
        check_files([weights.weights_path("alexnet")], inputs=[source], option="x")
    check_files(
        [weights.weights_path("alexnet")], inputs=[source], option="x", own=True
    )


def test_scores_and_images_are_told_apart(work):
    """`evaluate` may delete `worst/` in its own folder, and in no other."""
    save("album/worst/a.png")
    with pytest.raises(UserError, match=FILLED):
        evaluation.evaluate(evaluation.default(), work / "album")
    assert Path("album/worst/a.png").is_file()
