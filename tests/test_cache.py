"""The cache folder: unwritable, damaged, full; what users set has precedence."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from filelock import FileLock
from jax.experimental.compilation_cache import compilation_cache

from spips_jax import cache
from spips_jax.commands import _show_warning, main


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


SIZE = "JAX_COMPILATION_CACHE_MAX_SIZE"
SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

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
def no_cache(monkeypatch):
    """JAX's settings as users have them."""
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    for option in (SIZE, SECONDS):
        monkeypatch.delenv(option, raising=False)


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


def options() -> tuple[str | None, int, float]:
    names = ("jax_compilation_cache_dir", SIZE.lower(), SECONDS.lower())
    folder, size, seconds = (jax.config.values[name] for name in names)
    return folder, size, seconds


@pytest.fixture
def programs(no_cache, tmp_path, monkeypatch) -> Path:
    """The folder of compiled programs, of which there are none yet."""
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    return tmp_path / "xla"


def test_programs_have_a_limit(programs):
    cache.cache_compilations()
    assert options() == (str(programs), 2**30, 0.1)


@pytest.mark.parametrize(
    ("by", "size"),
    [("the environment", -1), ("the environment", 10**6), ("jax.config", 10**6)],
)
def test_what_a_user_set_counts(programs, monkeypatch, size, by):
    """-1 in the environment, too, although it is JAX's own default."""
    if by == "the environment":
        monkeypatch.setenv(SIZE, str(size))
        monkeypatch.setenv(SECONDS, "1.0")
    else:
        jax.config.update(SECONDS.lower(), 2.0)
    jax.config.update(SIZE.lower(), size)  # as JAX does by the environment
    cache.cache_compilations()
    seconds = 1.0 if by == "the environment" else 2.0
    assert options() == (str(programs), size, seconds)


def test_a_limit_of_nothing_keeps_none(programs):
    jax.config.update(SIZE.lower(), 0)
    cache.cache_compilations()
    assert options() == (None, 0, 1.0)
    assert not programs.exists()


def test_a_folder_that_cannot_be_locked_is_not_used(programs, monkeypatch):
    """As on a file system without locks."""
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.01)
    programs.mkdir()
    with (
        FileLock(programs / ".lockfile"),
        pytest.warns(UserWarning, match=r"xla: cannot be locked \(.*are not kept"),
    ):
        cache.cache_compilations()
    assert options()[0] is None


@pytest.fixture
def compiled(programs) -> Iterator[Callable[[int], str]]:
    """Compiles one of some programs as a command does; returns what it then prints."""

    def compile_one(number: int) -> str:
        def program(x):
            return x * number

        program.__name__ = NAME
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cache.cache_compilations()
            assert jax.jit(program)(2) == 2 * number
        lines = [cache.after_unreadable(str(warning.message)) for warning in caught]
        return "\n".join(lines)

    jax.config.update(SECONDS.lower(), 0.0)
    compilation_cache.reset_cache()  # or JAX stays with its folder of the tests
    yield compile_one
    compilation_cache.reset_cache()


NAME = "a_program_of_this_test"


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"jit_{NAME}-*-cache"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: os.truncate(entry, 0),
        lambda entry: os.truncate(entry, entry.stat().st_size // 2),
        lambda entry: entry.write_bytes(b"something else"),
        lambda entry: entry.write_bytes(zlib.compress(b"something else")),
    ],
    ids=["empty", "truncated", "other bytes", "another program"],
)
def test_a_damaged_program_is_said_once(compiled, programs, damage):
    assert compiled(3) == ""
    (entry,) = entries(programs)
    assert compiled(5) == ""
    before = entries(programs)
    damage(entry)
    line = compiled(3)
    assert line == f"{entry}: was damaged and is deleted; the program is compiled again"
    assert compiled(3) == ""  # it was written again
    assert entries(programs) == before  # the other one, too, is there


@pytest.mark.parametrize("theirs", ["the folder", "no limit"])
def test_what_is_the_users_is_not_deleted(compiled, programs, theirs):
    if theirs == "the folder":
        jax.config.update("jax_compilation_cache_dir", str(programs.with_name("own")))
    else:
        jax.config.update(SIZE.lower(), 10**9)
    assert compiled(3) == ""
    (entry,) = entries(Path(options()[0]))
    entry.write_bytes(b"something else")
    jax.config.update(SIZE.lower(), -1)
    assert compiled(3).startswith("Error reading persistent compilation cache entry")
    assert entry.read_bytes() == b"something else"


def test_what_was_not_used_for_longest_is_deleted(compiled, programs):
    """Entries from before there was a limit, without times, among them."""
    assert compiled(3) == ""
    (old,) = entries(programs)
    size = old.stat().st_size
    for used in programs.glob("*-atime"):
        used.unlink()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update(SIZE.lower(), int(2.5 * size))
    compilation_cache.reset_cache()
    assert compiled(5) == ""
    assert old in entries(programs)
    assert compiled(7) == ""
    assert len(entries(programs)) == 2
    assert old not in entries(programs)


def test_other_warnings_are_as_they_were():
    assert cache.after_unreadable("the file is odd") == "the file is odd"


@pytest.mark.usefixtures("programs")
def test_commands_say_it(capsys, monkeypatch):
    monkeypatch.setattr(cache, "after_unreadable", lambda text: f"not {text}")
    _show_warning("this")
    assert capsys.readouterr().err == "warning: not this\n"
