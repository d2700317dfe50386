"""JAX in forked processes: it hangs there, so this is said instead."""

from __future__ import annotations

import functools
import os

from spips_jax.messages import UserError


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
