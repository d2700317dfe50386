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


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted, the host's or a device's."""
    if isinstance(error, MemoryError):
        return True
    # By name, so that this module needs no JAX; jaxlib called it XlaRuntimeError.
    names = {one.__name__ for one in type(error).__mro__}
    text = str(error)
    return bool(names & {"JaxRuntimeError", "XlaRuntimeError"}) and (
        "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    )
