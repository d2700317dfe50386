"""Checks of the fields of a config against those that exist.

A config is a program: it can add a field under any name, which nothing would read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spips_jax.messages import UserError, hint


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises unless names are among those known.

    Args:
      where: what the names are fields or options of, as "data.train.live".
      given: the names.
      known: the names there are.

    Raises:
      UserError: a name that there is not; says which there are, and the nearest.
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            raise UserError(
                f"{where}: has no field {name!r}; it has"
                f" {', '.join(known) or 'none'}{hint(name, known)}"
            )


def check_fields(
    where: str, given: Any, like: Mapping[str, Any], *, open_to: Iterable[str] = ()
) -> None:
    """Raises unless a config has the fields of another, of the same types.

    Args:
      where: what the error calls the config; "" for the whole of it.
      given: the config, a mapping.
      like: a config with every field.
      open_to: dotted names of parts that may have any fields of their own.

    Raises:
      UserError: a field too many or too few, or one of another type.
    """
    if not hasattr(given, "items"):
        raise UserError(
            f"{where or 'the config'}: is {given!r}; it has the fields"
            f" {', '.join(like)}"
        )
    check_names(where or "the config", given, like)
    for name, default in like.items():
        dotted = f"{where}.{name}" if where else name
        if name not in given:
            raise UserError(f"{dotted}: is missing from the config")
        value = given[name]
        if dotted in open_to:
            if not hasattr(value, "items"):
                raise UserError(f"{dotted} is {value!r}: it must have named parts")
        elif hasattr(default, "items"):
            check_fields(dotted, value, default, open_to=open_to)
        elif not _alike(value, default):
            raise UserError(
                f"{dotted} is {value!r}: it must be {_TYPES[_type(default)]}"
            )


_TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "several numbers in parentheses",
}


def _type(default: Any) -> type:
    return next(one for one in _TYPES if isinstance(default, one))


def _alike(value: Any, default: Any) -> bool:
    """Whether a value has the type of a field: whole numbers are numbers, too."""
    wanted = _type(default)
    if wanted is bool or isinstance(value, bool):
        return wanted is bool and isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float)
    if wanted is tuple:
        return isinstance(value, tuple | list)
    return isinstance(value, wanted)
