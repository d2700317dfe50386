"""Parts of error messages that the whole package words alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that a user can put right; one line: what was wrong, and what to do."""


def one_line(error: BaseException) -> str:
    """An exception's message in one line; the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def one_of(what: str, name: str, known: Iterable[str], *, more: str = "") -> str:
    """Says that a name is not among those known, and which of them is nearest.

    >>> one_of("loss", "rnak", ["plcc", "rank"])
    "loss 'rnak' is not one of plcc, rank; did you mean rank?"

    Args:
      what: the kind of thing that is named, as "model".
      name: the name that was given.
      known: the names there are.
      more: follows the list of names, as ", nor a .safetensors file".
    """
    known = tuple(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{what} {name!r} is not one of {', '.join(known)}{more}{hint}"
