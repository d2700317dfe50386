"""Checkpoints: exact bits, what is kept, other states, what is left by kills."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from checkpoint_cases import (
    State,
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

from spips_jax.training import checkpoint
from spips_jax.training.checkpoint import Checkpoint, CheckpointError, Checkpoints


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
