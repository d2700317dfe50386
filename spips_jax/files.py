"""Writing files whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spips_jax.messages import printable

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_WITHOUT_LOCKS = (
    *(errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP),
    *(errno.EINVAL, errno.EBADF),
)
"""What flock says on file systems that have no locks."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields a file to write in place of `path`, which it becomes at the end.

    If the block raises, `path` stays as it was and nothing else is left behind. The
    folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the rename is atomic; with the same ending, because
    # some writers choose their format by it.
    handle, partial = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
    )
    os.close(handle)
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # mkstemp's file is its owner's alone
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Lets one process at a time into the block that makes or changes `path`.

    Others wait for it, which a line on standard error says; what they want to make may
    then be there. While a process is in the block, `.NAME.lock` is beside `path`. A
    process that is killed lets go of it. The folder is made if it is missing. It is not
    reentrant: a process that is in the block of `path` waits for itself.

    Yields:
      Whether others are kept out, which not all file systems can do: on those that
      cannot the block must bear company.

    Raises:
      OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = _locked(lock, path)
    try:
        yield handle is not None
    finally:
        # Before it is let go: whoever waits for it sees that it is gone, and takes
        # another. Where it cannot be removed, it stays and serves again.
        with contextlib.suppress(OSError):
            lock.unlink()
        if handle is not None:
            # By name, as forked processes may have copies of the handle.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _locked(lock: Path, path: Path) -> int | None:
    """Opens and locks a file; None where there are no locks."""
    if fcntl is None:
        return None
    said = False
    while True:
        handle = _open(lock)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    # At once, as processes that share a log do not mix such lines.
                    sys.stderr.write(
                        printable(f"{path}: waiting for another process") + "\n"
                    )
                said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is(handle, lock):
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in _WITHOUT_LOCKS:
                return None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not lock.exists():
            raise
        return os.open(lock, os.O_RDONLY)  # another user's


def _is(handle: int, lock: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
