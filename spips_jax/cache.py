"""The folder of what can be made or fetched again: weights, compiled programs."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """Returns the folder of downloaded, converted and computed files.

    The environment variable SPIPS_HOME names it; otherwise ~/.cache/spips_jax.
    """
    home = os.environ.get("SPIPS_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "spips_jax"


def cache_compilations() -> None:
    """Keeps compiled programs for the next run, unless the user has a say in it.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false
    keeps none.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_folder() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
