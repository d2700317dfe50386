"""A progress bar over the examples of a set. Needs rich."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Rows = TypeVar("Rows", bound=tuple[np.ndarray, ...])


def tracked(
    batches: Iterable[Rows], *, total: int, what: str, done: int = 0
) -> Iterator[Rows]:
    """Yields (positions `(B,)`, ...) as they come, with a bar that counts them.

    Args:
      batches: tuples whose first part has one element an example.
      total: examples.
      what: is done, the line that says so, above the bar.
      done: examples that were done before.
    """
    console = Console(stderr=True)
    console.print(what, markup=False, highlight=False, soft_wrap=True)
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_interactive,
    ) as progress:
        bar = progress.add_task("", total=total, completed=done)
        for batch in batches:
            yield batch
            progress.advance(bar, len(batch[0]))
