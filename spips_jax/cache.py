"""The folder of what can be made or fetched again: weights, compiled programs."""

from __future__ import annotations

import os
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


def cache_compilations() -> None:
    """Keeps compiled programs for the next run, unless the user has a say in it.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false
    keeps none.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_folder() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
