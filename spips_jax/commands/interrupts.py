"""Ctrl-C at any moment of a command, its imports among them, is a KeyboardInterrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SOON = 0.05
"""Seconds until an interruption that came at a bad moment is tried again."""


@contextlib.contextmanager
def never_lost() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt in the block only where it gets through.

    An exception in the middle of an import becomes another one, is taken for a package
    that is not installed, or aborts the process if compiled code does not expect it; in
    a destructor it is printed and forgotten. An interruption waits until that is over.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # somebody else handles it
        return
    around = _imports(sys._getframe())

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _imports(frame) > around:
            _again()
        else:
            signal.default_int_handler(number, frame)

    def forgotten(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            _again()
        else:
            hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, forgotten
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook


def _imports(frame: FrameType | None) -> int:
    """How many frames of running imports there are in a stack."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return count


def _again() -> None:
    timer = threading.Timer(_SOON, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True  # a command that ends meanwhile does not wait for it
    timer.start()
