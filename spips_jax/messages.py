"""Parts of error messages that the whole package words alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """An error that a user can put right; one line: what was wrong, and what to do."""


def one_line(error: BaseException) -> str:
    """An exception's message in one line; the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
"""Control characters, halves of characters (bytes of a name that are no UTF-8), line
separators, and what turns the direction of writing."""


def printable(text: str) -> str:
    r"""Escapes what would break a line or a terminal, as a file's name may hold.

    >>> print(printable("a\tb\udcff.png"))
    a\tb\xff.png
    """
    return UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode("ascii")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, the host's or a device's.

    XLA raises the same type for all it cannot do; its message begins with the reason.
    """
    if isinstance(error, MemoryError):
        return True
    names = {base.__name__ for base in type(error).__mro__}
    if names.isdisjoint(("JaxRuntimeError", "XlaRuntimeError")):
        return False
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def some_of(names: Sequence[str], *, shown: int = 3) -> str:
    """Lists the first few of many names, and says how many there are more.

    >>> some_of(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    first = ", ".join(names[:shown])
    more = len(names) - shown
    return f"{first} and {more:,} more" if more > 0 else first


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
