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
    return f"{what} {name!r} is not one of {', '.join(known)}{more}{hint(name, known)}"


def hint(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Ends a message with the nearest of the names there are, or with nothing.

    Upper and lower case do not count.

    >>> hint("LIVE", ["csiq", "live"])
    '; did you mean live?'

    Args:
      name: the name that was given.
      known: the names there are.
      cutoff: how alike they must be, from 0 to 1, as difflib measures it.
    """
    folded = {one.casefold(): one for one in known if one}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[near[0]]}?" if near else ""
