"""Checkpoints: exact bits, what is kept, damage of every kind, kills, two processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging

from spips_jax.training import checkpoint
from spips_jax.training.checkpoint import Checkpoint, CheckpointError, Checkpoints


@flax.struct.dataclass
class State:
    params: Any
    ema: Any
    optimiser: Any
    key: jax.Array
    step: jax.Array
    name: str = flax.struct.field(pytree_node=False, default="head")


def make_state(seed: int = 0, *, width: int = 3, optimiser: Any = None) -> State:
    """Leaves of float32, bfloat16, int32 and uint32, an empty one, a scalar."""
    rng = np.random.default_rng(seed)
    params = {
        "head": {"kernel": rng.normal(size=(300, width)).astype(np.float32)},
        "a/b.c 'd'": [np.float32([-0.0, np.inf, np.nan, 1e-45])],
        "half": np.asarray(jnp.asarray(rng.normal(size=7), jnp.bfloat16)),
        "empty": np.zeros((0, 3), np.float32),
    }
    optimiser = optimiser or optax.adamw(1e-3, weight_decay=0.1)
    return State(
        params=params,
        ema=jax.tree.map(np.copy, params),
        optimiser=optimiser.init(params),
        key=jax.random.key_data(jax.random.key(seed)),
        step=jnp.int32(seed),
    )


def assert_same(found: Any, expected: Any) -> None:
    """The same structure, types and bits; NaN and -0.0 count as what they are."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == np.asarray(other).tobytes()


def save(
    folder: Path, steps: range, *, metrics: dict[int, float] | None = None
) -> None:
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in steps:
            checkpoints.save(
                step,
                make_state(step),
                record={"next_batch": step},
                metric=(metrics or {}).get(step),
            )


def read(
    folder: Path, *, best: bool = False, read_only: bool = True
) -> tuple[Checkpoint | None, list[str]]:
    """Returns what is found in a folder, and the warnings."""
    with (
        Checkpoints(folder, read_only=read_only) as checkpoints,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        like = make_state()
        found = checkpoints.best(like) if best else checkpoints.latest(like)
    return found, [str(warning.message) for warning in caught]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 to 3, the first the best; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, range(1, 4), metrics={1: 0.9, 2: 0.7, 3: 0.8})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("shapes_only", [False, True])
def test_state_comes_back_bit_for_bit(saved: Path, shapes_only: bool) -> None:
    like = make_state(9)
    if shapes_only:
        like = jax.eval_shape(lambda: like)
    with Checkpoints(saved, read_only=True) as checkpoints:
        found = checkpoints.latest(like)
    assert found is not None
    assert_same(found.state, make_state(3))
    assert isinstance(found.state, State)
    assert isinstance(found.state.optimiser[0], optax.ScaleByAdamState)
    assert (found.step, found.metric) == (3, 0.8)


def test_record_is_the_callers_json(tmp_path: Path) -> None:
    record = {
        "config": {"optim": {"learning_rate": 3e-4, "warm_up": None}, "sets": ["tid"]},
        "loader": {"next_batch": 7, "seed": 2**40},
        "10": "keys are sorted as text",
        "9": [True, 0.1, "ü"],
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, make_state(), record=record)
        found = checkpoints.latest(make_state())
    assert found is not None
    assert found.record == record
    described = checkpoint.describe(tmp_path)
    assert described == Checkpoint(step=5, state=None, record=record, metric=None)


def test_arrays_may_change_once_save_returns(tmp_path: Path) -> None:
    state = make_state(1)
    donated = jnp.arange(1000.0)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, (state, donated), record={})
        state.params["head"]["kernel"][...] = 7
        for _ in range(10):
            donated = add(donated)
        found = checkpoints.latest((state, donated))
    assert found is not None
    assert_same(found.state, (make_state(1), np.arange(1000, dtype=np.float32)))


@pytest.mark.parametrize(
    ("metrics", "kept", "best"),
    [
        ({}, {"5", "6"}, 6),
        ({2: 0.9, 3: 0.5, 6: 0.8}, {"2", "5", "6"}, 2),
        ({1: -0.2, 4: -0.1}, {"4", "5", "6"}, 4),
        ({2: 0.9, 3: 0.9, 5: 0.1}, {"3", "5", "6"}, 3),
        ({1: float("nan"), 2: 0.5, 3: float("inf")}, {"2", "5", "6"}, 2),
        ({2: 0.5, 6: 0.9}, {"5", "6"}, 6),
    ],
)
def test_the_last_and_the_best_are_kept(
    tmp_path: Path, metrics: dict[int, float], kept: set[str], best: int
) -> None:
    for first in (1, 4):  # the best must be known to the next run too
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            for step in range(first, first + 3):
                checkpoints.save(
                    step, make_state(step), record={}, metric=metrics.get(step)
                )
    assert names(tmp_path) == kept
    found, warned = read(tmp_path, best=True)
    assert found is not None
    assert found.step == best
    assert not warned
    assert_same(found.state, make_state(best))


def test_a_step_that_is_there_is_left(folder: Path) -> None:
    before = files(folder)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(3, make_state(9), record={}, metric=1.0)
    assert files(folder) == before


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert checkpoint.describe(folder) is None
    assert read(folder) == (None, [])
    assert read(folder, best=True) == (None, [])
    assert not folder.exists()
    assert read(folder, read_only=False) == (None, [])
    assert folder.is_dir()


def largest_data_file(step: Path) -> Path:
    return max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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


@pytest.mark.parametrize(
    ("like", "differs"),
    [
        (
            make_state(width=4),
            r"\['kernel'\] is float32 \(300, 3\) in it and float32 \(300, 4\) here",
        ),
        (
            make_state().replace(step=np.float32(0)),
            r"\.step is int32 \(\) in it and float32 \(\) here",
        ),
        (
            make_state(optimiser=optax.sgd(0.1)),
            r"\.optimiser\[0\]\.count is int32 \(\) in it and missing here",
        ),
        (
            make_state().replace(key={"a": np.zeros(2, np.uint32)}),
            r"\.key is uint32 \(2,\) in it and missing here",
        ),
        (
            make_state().replace(ema=[make_state().ema, np.zeros(1)]),
            r"\.ema\['a/b\.c \\'d\\''\]\[0\] is float32|\.ema\[.* in it and missing",
        ),
    ],
)
def test_another_state_is_an_error_not_damage(
    folder: Path, like: State, differs: str
) -> None:
    with Checkpoints(folder) as checkpoints:
        for find in (checkpoints.latest, checkpoints.best):
            with pytest.raises(CheckpointError, match=differs) as caught:
                find(like)
            assert "\n" not in str(caught.value)
            assert "is of another model or optimiser" in str(caught.value)
    assert names(folder) == {"1", "2", "3"}


def test_what_killed_saves_left_is_no_checkpoint(folder: Path) -> None:
    leftover = folder / "4.orbax-checkpoint-tmp"
    shutil.copytree(folder / "3", leftover)
    (leftover / "commit_success.txt").unlink()
    found, warned = read(folder)
    assert found is not None
    assert (found.step, warned) == (3, [])
    assert leftover.exists()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, make_state(4), record={})
    assert names(folder) == {"1", "2", "3", "4"}


def test_old_checkpoints_are_never_half_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(folder, keep=1) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path: None)  # killed before this
            patch.setattr(os, "unlink", lambda path: None)
            checkpoints.save(4, make_state(4), record={}, metric=0.95)
            checkpoints.wait()
        assert [name for name in names(folder) if name.isdigit()] == ["4"]
        assert read(folder, best=True)[0].step == 4
    assert names(folder) == {"4"}


def test_describe_needs_no_arrays(folder: Path) -> None:
    shutil.rmtree(folder / "3" / "state")
    truncate(folder / "3" / "record" / "metadata")
    shutil.rmtree(folder / "2" / "state")
    assert checkpoint.describe(folder) == Checkpoint(
        step=2, state=None, record={"next_batch": 2}, metric=0.7
    )


@pytest.fixture
def verbose() -> Iterator[None]:
    """What absl programs do: log all that Orbax has to say."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.DEBUG)
    yield
    absl_logging.set_verbosity(before)


@pytest.mark.usefixtures("verbose")
def test_orbax_is_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, range(1, 4))
    flip(largest_data_file(tmp_path / "3"))
    found, _ = read(tmp_path, read_only=False)
    assert found is not None
    assert found.step == 2
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.usefixtures("verbose")
def test_a_failed_save_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, make_state(1), record={})
        checkpoints.wait()
        folder.rename(tmp_path / "away")
        folder.write_text("in the way")
        with pytest.raises(CheckpointError, match="cannot be written") as caught:
            checkpoints.save(2, make_state(2), record={})
        assert "\n" not in str(caught.value)
        folder.unlink()
        (tmp_path / "away").rename(folder)
        checkpoints.save(2, make_state(2), record={})
    assert names(folder) == {"1", "2"}
    assert_same(read(folder)[0].state, make_state(2))
    assert capfd.readouterr() == ("", "")


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpoints("runs/one") as checkpoints:
        checkpoints.save(1, make_state(1), record={})
        monkeypatch.chdir("/")
        found = checkpoints.latest(make_state())
    assert found is not None
    assert_same(found.state, make_state(1))
    assert names(tmp_path / "runs" / "one") == {"1"}


def test_an_address_stays_one() -> None:
    assert str(checkpoint._absolute("gs://bucket/run") / "3") == "gs://bucket/run/3"


def test_wrong_use_is_one_line(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="keep 0 checkpoints: it must be 1"):
        Checkpoints(tmp_path, keep=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: checkpoints cannot be written"):
        Checkpoints(tmp_path / "file")
    with (
        Checkpoints(saved, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="reading only: step 4 is not saved"),
    ):
        checkpoints.save(4, make_state(), record={})
