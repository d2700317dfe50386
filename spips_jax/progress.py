"""The one progress bar: on a terminal's standard error, lines now and then elsewhere.

It needs rich; without it there is no bar and messages are plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from spips_jax.messages import printable

_LINE_EVERY = 30.0
"""Seconds between lines in place of a bar, until an hour has passed; then more."""

Rows = TypeVar("Rows", bound=tuple[Any, ...])


class Bar:
    """A bar that counts. A context manager.

        with Bar("scoring", total=20) as progress:
            progress.advance(1)

    Attributes:
      shown: whether there is a bar; without one, `message` is all that is seen.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None,
        done: int = 0,
        in_bytes: bool = False,
        transient: bool = True,
        shown: bool = True,
        lines: bool = False,
        console: Any = None,
    ) -> None:
        """Opens a bar.

        Args:
          what: is done, in a word or two.
          total: how much there is of it; None if that is not known.
          done: how much was done before.
          in_bytes: whether bytes are counted.
          transient: whether the bar is gone at its end.
          shown: False for no bar, only messages.
          lines: whether there are lines now and then where there is no bar, for logs.
          console: a `rich.console.Console`; that of standard error by default.
        """
        self.shown = False
        self._what, self._total, self._done = what, total, done
        self._in_bytes = in_bytes
        self._begun = self._said = time.monotonic()
        self._before = done
        self._lines = lines and shown
        self._console: Any = console
        self._progress: Any = None
        try:
            from rich import progress
            from rich.console import Console
        except ImportError:
            return
        self._console = console or Console(stderr=True)
        self.shown = shown and self._console.is_interactive
        counts = (
            (progress.DownloadColumn(), progress.TransferSpeedColumn())
            if in_bytes
            else (progress.MofNCompleteColumn(),)
        )
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            *counts,
            progress.TextColumn("{task.fields[state]}", markup=False),
            progress.TextColumn("eta"),
            progress.TimeRemainingColumn(),
            console=self._console,
            speed_estimate_period=120,  # sees past a pause, such as a validation
            transient=transient,
            redirect_stdout=False,  # that is the program's, maybe a pipe
            disable=not self.shown,
        )
        self._task = self._progress.add_task(
            what, total=total, completed=done, state=""
        )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def advance(self, count: int) -> None:
        """Counts `count` more."""
        self._done += count
        if self._progress is not None:
            self._progress.advance(self._task, count)
        if self._lines and not self.shown:
            self._line()

    def move(self, done: int, *, state: str | None = None) -> None:
        """Sets the count, and a few words beside it."""
        if self._progress is not None:
            more = {} if state is None else {"state": state}
            self._progress.update(self._task, completed=done, **more)

    def _line(self) -> None:
        """Says how far it is, if it has not for a while."""
        now = time.monotonic()
        if now - self._said < max(_LINE_EVERY, (now - self._begun) / 120):
            return
        self._said = now
        done, total = self._done, self._total
        unit = " MB" if self._in_bytes else ""
        scale = 1e6 if self._in_bytes else 1
        text = f"{self._what}: " if self._what else ""
        text += f"{done / scale:,.0f}"
        if total:
            left = (
                (now - self._begun) * max(total - done, 0) / max(done - self._before, 1)
            )
            text += f" of {total / scale:,.0f}{unit}, about {_duration(left)} left"
        else:
            text += unit
        self.message(text)

    def message(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        text = printable(text)
        if self._console is None:
            sys.stderr.write(f"{text}\n")  # at once: others may write there, too
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Ends the bar; `message` still prints."""
        if self._progress is not None:
            self._progress.stop()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tracked(
    batches: Iterable[Rows], *, total: int, what: str, done: int = 0
) -> Iterator[Rows]:
    """Yields (positions `(B,)`, ...) as they come, with a bar or lines that count them.

    Args:
      batches: tuples whose first part has one element an example.
      total: examples.
      what: is done; a line above the bar.
      done: examples that were done before.
    """
    with Bar("", total=total, done=done, lines=True) as progress:
        progress.message(what)
        for batch in batches:
            yield batch
            progress.advance(len(batch[0]))


def tracked_rows(rows: Sequence[Any], what: str) -> Iterator[Any]:
    """Yields rows as they are, with a bar or lines that count them."""
    with Bar(what, total=len(rows), lines=True) as progress:
        for row in rows:
            yield row
            progress.advance(1)
