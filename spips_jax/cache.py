"""The folder of what can be made or fetched again: weights, compiled programs."""

from __future__ import annotations

import glob
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import platformdirs

from spips_jax.messages import one_line

if TYPE_CHECKING:
    import filelock


def cache_folder() -> Path:
    """Returns the folder of downloaded, converted and computed files.

    The environment variable SPIPS_HOME names it; by default it is the system's place
    for caches, such as ~/.cache/spips_jax on Linux.
    """
    home = os.environ.get("SPIPS_HOME")
    if home:
        return Path(home).expanduser()
    return platformdirs.user_cache_path("spips_jax", appauthor=False)


def unwritable(folder: str | os.PathLike[str]) -> str:
    """Why nothing can be written to a folder, beginning with its name; "" if it can.

    One that is missing is not made: its nearest parent that is there must be writable.
    """
    try:
        path = Path(folder).absolute()
        while not os.path.lexists(path):
            path = path.parent
        with tempfile.TemporaryFile(dir=path):
            return ""
    except OSError as error:
        return f"{folder}: cannot be written ({error.strerror or error})"


PROGRAMS_BYTES = 2**30
"""How large compiled programs may grow on disk, unless the user says otherwise.

A size of images takes 0.3 MB of it with spips-lite on a CPU (its features' program and
its score's), so it holds thousands, and it is a small part of any disk.
"""

PROGRAMS_SECONDS = 0.1
"""Programs that compile faster are not kept, unless the user says otherwise.

JAX's own limit of a second leaves out the features' program, which a command would
compile each time. Without a limit, hundreds of programs of one operation would be kept.
"""

_LOCK_SECONDS = 10
"""As long as JAX itself waits for another process."""

_UNREADABLE = re.compile(
    r"Error reading persistent compilation cache entry for '(.+?)'"
)
"""How JAX's warning begins that it cannot read a program of that name."""


def cache_compilations() -> None:
    """Keeps compiled programs for the next run, unless the user has a say in it.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false
    keeps none. JAX deletes those that were not used for longest when all together are
    larger than JAX_COMPILATION_CACHE_MAX_SIZE, in bytes, by default `PROGRAMS_BYTES`;
    -1 means no limit, 0 keeps none. JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says
    from how many seconds of compilation on they are kept, by default
    `PROGRAMS_SECONDS`. What was set by `jax.config.update` counts likewise. Warns if
    the folder cannot be written or locked, and keeps none.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    limit = _chosen("jax_compilation_cache_max_size", -1, PROGRAMS_BYTES)
    if limit == 0:
        return
    folder = _programs()
    problem = unwritable(folder)
    if limit != -1:
        problem = problem or _prepare(folder)
    if problem:
        warnings.warn(
            f"{problem}: compiled programs are not kept; set SPIPS_HOME to a folder"
            " that can be",
            stacklevel=2,
        )
        return
    seconds = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(seconds, _chosen(seconds, 1.0, PROGRAMS_SECONDS))
    jax.config.update("jax_compilation_cache_max_size", limit)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def after_unreadable(warning: str) -> str:
    """Deletes the compiled program that JAX could not read, or it would warn for ever.

    JAX compiles the program again, but writes over no file. The damage is that of a
    process that was killed, or of a full disk.

    Args:
      warning: any one.

    Returns:
      What to say instead: the same, where it is another warning, the folder of programs
      is the user's own and not ours to delete from, or there is no limit, so that JAX
      notes no times.
    """
    found = _UNREADABLE.match(warning)
    folder = _programs()
    if (
        found is None
        or jax.config.values["jax_compilation_cache_dir"] != str(folder)
        or jax.config.values["jax_compilation_cache_max_size"] == -1
    ):
        return warning
    try:
        with _locked(folder):
            # JAX notes the time when it opens an entry, even if it then fails.
            (*_, used) = sorted(
                folder.glob(f"{glob.escape(found[1])}-*{_USED}"),
                key=lambda path: path.read_bytes()[::-1],  # the last byte counts most
            )
            entry = used.with_name(f"{used.name.removesuffix(_USED)}{_ENTRY}")
            entry.unlink()
            used.unlink()
    except (OSError, NotImplementedError, ValueError):
        return warning
    return f"{entry}: was damaged and is deleted; the program is compiled again"


def _programs() -> Path:
    return cache_folder() / "xla"


def _chosen(option: str, of_jax: float, ours: float) -> float:
    """An option of JAX: what the user set, or our own value where nobody did."""
    value = jax.config.values[option]
    return ours if value == of_jax and option.upper() not in os.environ else value


_ENTRY, _USED = "-cache", "-atime"
"""Endings of JAX's files: a compiled program, and when it was last used."""


def _prepare(folder: Path) -> str:
    """Makes a folder fit for JAX's limit; returns why that cannot be, or "".

    JAX 0.10 cannot delete from a folder in which the time of an entry is missing: of
    one from before there was a limit, or of a process that was killed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            names = set(os.listdir(folder))
            for name in names:
                key = name.removesuffix(_ENTRY)
                if key != name and f"{key}{_USED}" not in names:
                    written = (folder / name).stat().st_mtime_ns
                    time = written.to_bytes(8, "little")
                    (folder / f"{key}{_USED}").write_bytes(time)
    except (OSError, NotImplementedError) as error:
        return f"{folder}: cannot be locked ({one_line(error)})"
    return ""


def _locked(folder: Path) -> filelock.BaseFileLock:
    """Keeps JAX in other processes from the folder's entries; raises OSError."""
    import filelock

    return filelock.FileLock(folder / ".lockfile", timeout=_LOCK_SECONDS)
