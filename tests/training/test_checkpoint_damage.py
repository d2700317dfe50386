"""Checkpoints: damage of every kind is passed over, with one warning, and set aside."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_cases import (
    assert_same,
    files,
    flip,
    largest_data_file,
    make_state,
    names,
    read,
    save,
    truncate,
)

from spips_jax.training.checkpoint import Checkpoints


def edit_record(step: Path, edit: Callable[[dict], object]) -> None:
    path = step / "record" / "metadata"
    saved = json.loads(path.read_text())
    edit(saved)
    path.write_text(json.dumps(saved))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "data truncated": lambda step: truncate(largest_data_file(step)),
    "data emptied": lambda step: largest_data_file(step).write_bytes(b""),
    "data missing": lambda step: largest_data_file(step).unlink(),
    "data flipped": lambda step: flip(largest_data_file(step)),
    "data of another step": lambda step: shutil.copytree(
        step.parent / "1" / "state", step / "state", dirs_exist_ok=True
    ),
    "array metadata missing": lambda step: (step / "state" / "_METADATA").unlink(),
    "array metadata truncated": lambda step: truncate(step / "state" / "_METADATA"),
    "manifest emptied": lambda step: (step / "state" / "manifest.ocdbt").write_bytes(
        b""
    ),
    "arrays missing": lambda step: shutil.rmtree(step / "state"),
    "record missing": lambda step: shutil.rmtree(step / "record"),
    "record emptied": lambda step: (step / "record" / "metadata").write_bytes(b""),
    "record truncated": lambda step: truncate(step / "record" / "metadata"),
    "record not text": lambda step: (step / "record" / "metadata").write_bytes(
        b"\xff" * 99
    ),
    "record other JSON": lambda step: (step / "record" / "metadata").write_text("[1]"),
    "record flipped": lambda step: edit_record(
        step, lambda saved: saved["content"]["record"].update(next_batch=2)
    ),
    "metric flipped": lambda step: edit_record(
        step, lambda saved: saved["content"].update(metric=0.81)
    ),
    "emptied folder": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("read_only", [True, False])
def test_a_damaged_checkpoint_is_passed_over(
    folder: Path, damage: Callable[[Path], object], read_only: bool
) -> None:
    damage(folder / "3")
    before = files(folder)
    found, warned = read(folder, read_only=read_only)
    assert found is not None
    assert (found.step, found.record) == (2, {"next_batch": 2})
    assert_same(found.state, make_state(2))
    (line,) = warned
    assert line.startswith(f"checkpoint {folder / '3'} is damaged (")
    assert "step 2 is used" in line
    assert "\n" not in line
    if read_only:
        assert files(folder) == before
        return
    assert line.endswith("it is now 3.damaged")
    assert names(folder) == {"1", "2", "3.damaged"}
    # Training comes to that step again, perhaps to be damaged again.
    save(folder, range(3, 4))
    found, warned = read(folder, read_only=False)
    assert found is not None
    assert (found.step, warned) == (3, [])
    assert_same(found.state, make_state(3))
    damage(folder / "3")
    found, _ = read(folder, read_only=False)
    assert found is not None
    assert found.step == 2
    assert names(folder) == {"1", "2", "3.damaged"}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_best_is_passed_over(
    folder: Path, damage: Callable[[Path], object]
) -> None:
    shutil.move(folder / "3", folder / "5")  # so that "1" is there to copy from
    shutil.move(folder / "1", folder / "4")
    shutil.copytree(folder / "2", folder / "1")
    damage(folder / "4")
    found, warned = read(folder, best=True)
    assert found is not None
    assert (found.step, found.metric) == (5, 0.8)
    (line,) = warned
    assert f"{folder / '4'} is damaged" in line
    assert "step 5 is used" in line


def test_one_that_is_open_passes_over_too(folder: Path) -> None:
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, make_state(4), record={}, metric=0.5)
        checkpoints.wait()
        flip(largest_data_file(folder / "4"))
        flip(largest_data_file(folder / "1"))
        with pytest.warns(UserWarning, match="4 is damaged .* step 3 is used"):
            assert checkpoints.latest(make_state()).step == 3
        with pytest.warns(UserWarning, match="1 is damaged .* step 3 is used"):
            assert checkpoints.best(make_state()).step == 3
        checkpoints.save(4, make_state(4), record={})
        checkpoints.save(5, make_state(5), record={}, metric=0.1)
        found = checkpoints.latest(make_state())
    assert found is not None
    assert_same(found.state, make_state(5))
    assert names(folder) == {"3", "4", "5", "1.damaged", "4.damaged"}


def test_all_damaged_is_none(folder: Path) -> None:
    for step in "123":
        flip(largest_data_file(folder / step))
    found, warned = read(folder)
    assert found is None
    assert [line.split(" is damaged")[0] for line in warned] == [
        f"checkpoint {folder / step}" for step in "321"
    ]
    assert all("no other is whole" in line for line in warned)


ANY_FILE: dict[str, Callable[[Path], object]] = {
    "flipped first": lambda path: flip(path, 0),
    "flipped": lambda path: flip(path, random.Random(path.name).random()),
    "flipped last": lambda path: flip(path, 1),
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", ANY_FILE.values(), ids=ANY_FILE.keys())
def test_whatever_file_is_damaged_the_state_is_whole(
    folder: Path, damage: Callable[[Path], object]
) -> None:
    """Not every file matters to what is read, but nothing may come back changed."""
    whole = shutil.copytree(folder / "3", folder.parent / "whole")
    skipped = 0
    for name in files(whole):
        damage(folder / "3" / name)
        found, warned = read(folder)
        assert found is not None
        assert found.step == 3 - len(warned)
        assert found.record == {"next_batch": found.step}
        assert_same(found.state, make_state(found.step))
        skipped += len(warned)
        shutil.rmtree(folder / "3")
        shutil.copytree(whole, folder / "3")
    assert skipped > 3  # the record, the manifest, array metadata and data at least
