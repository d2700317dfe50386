"""A cache folder that cannot be written: said once where it is a convenience."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from spips_jax import cache
from spips_jax.commands import main


def a_file_in_the_way(path: Path) -> Path:
    path.touch()
    return path / "home"


def a_link_to_nowhere(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


def no_permission(path: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    path.mkdir(mode=0o500)
    return path / "home"


def no_real_file_system(path: Path) -> Path:
    if not Path("/proc").is_dir():
        pytest.skip("there is no such file system here")
    return Path("/proc/spips_jax")


KINDS = (a_file_in_the_way, a_link_to_nowhere, no_permission, no_real_file_system)


@pytest.fixture(params=KINDS)
def unwritable(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    make: Callable[[Path], Path] = request.param
    folder = make(tmp_path / "there")
    monkeypatch.setenv("SPIPS_HOME", str(folder))
    return folder


@pytest.fixture
def no_cache():
    """JAX's setting as users have it, and after the test as it was."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_folder_is_named_with_the_reason(unwritable):
    problem = cache.unwritable(unwritable)
    assert problem.startswith(f"{unwritable}: cannot be written (")
    assert "\n" not in problem


def test_folders_that_can_be_written_are_not_made(tmp_path):
    assert cache.unwritable(tmp_path) == ""
    assert cache.unwritable(tmp_path / "new" / "folder") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_cache")
@pytest.mark.filterwarnings("always")
def test_scores_need_no_folder(unwritable, capsys):
    """One warning, and the score."""
    assert main(["score", "--example", "--model", "psnr"]) == 0
    output = capsys.readouterr()
    (warning,) = output.err.splitlines()
    assert warning.startswith(f"warning: {unwritable / 'xla'}: cannot be written (")
    assert "compiled programs are not kept; set SPIPS_HOME" in warning
    assert len(output.out.splitlines()) == 2
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.usefixtures("no_cache")
def test_who_keeps_no_programs_is_not_warned(unwritable, capsys):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert main(["score", "--example", "--model", "psnr"]) == 0
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["alexnet"], ["dists", "--source", "w.npz"]])
def test_weights_have_no_other_place(unwritable, capsys, words):
    """Known before anything is downloaded or read."""
    assert main(["convert", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {unwritable}: cannot be written (")
    assert line.endswith("set SPIPS_HOME to a folder that can be, or give --output")
