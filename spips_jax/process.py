"""Of the process: forks, in which JAX hangs, and the memory that is free."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from spips_jax.messages import UserError


def free_memory() -> int | None:
    """Bytes that this process could still get; None where the system does not tell.

    Linux's estimate (`MemAvailable`), or what a container's limit leaves if it is less.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        found.append(1024 * int(sizes["MemAvailable"].split()[0]))
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip()
            for name in ("max", "current")
        )
        found.append(int(limit) - int(used))  # fails for "max", which is no limit
    except (OSError, KeyError, ValueError, IndexError):
        pass
    return min(found, default=None)


class ForkError(UserError):
    """JAX would be used in the fork of a process that has used it."""


def check_process() -> None:
    """Called before JAX computes; sees a fork of a process that called it before.

    JAX's threads do not live on in a fork, and what waits for them waits forever.

    Raises:
      ForkError: this process is such a fork.
    """
    if os.getpid() != _first_process():
        raise ForkError(
            f"process {os.getpid()} is a fork of {_first_process()}, which has used"
            " JAX already, and would hang in it: start workers with the method spawn"
            " (torch: DataLoader(..., multiprocessing_context='spawn')), or score in"
            " the main process"
        )


@functools.cache  # a fork inherits what is cached
def _first_process() -> int:
    return os.getpid()
