"""The folder of what can be made or fetched again: weights, compiled programs."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import jax
import platformdirs


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


def cache_compilations() -> None:
    """Keeps compiled programs for the next run, unless the user has a say in it.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false
    keeps none. Warns if the folder cannot be written, and keeps none.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    folder = cache_folder() / "xla"
    if problem := unwritable(folder):
        warnings.warn(
            f"{problem}: compiled programs are not kept; set SPIPS_HOME to a folder"
            " that can be",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
