"""The console that tables are printed on. Needs rich."""

from __future__ import annotations

from typing import Any


def console(*, width: int = 0) -> Any:
    """Returns a `rich.console.Console` on standard output.

    Args:
      width: columns where the output is no terminal, so that nothing is cut; 0 for
        rich's own choice.
    """
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the program with code 1

    made = Piped(highlight=False, markup=False)
    if width and not made.is_terminal:
        made.width = width
    return made
