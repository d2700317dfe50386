"""Configs by name or path, with overrides from the command line. Needs ml_collections.

The configs of `configs/` lie beside the package in a clone, and inside it where a wheel
was installed.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spips_jax.messages import UserError, one_line, one_of

_PACKAGE = Path(__file__).parents[1]
_OVERRIDE = "--config."


def folder(kind: str = "") -> Path:
    """The folder of the configs of a kind: "" for training, "eval" for evaluation."""
    inside = _PACKAGE / "configs"
    return (inside if inside.is_dir() else _PACKAGE.parent / "configs") / kind


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts words into overrides, `--config.FIELD=VALUE`, and all others.

    `--config.FIELD VALUE` is one, too.
    """
    overrides, others = [], []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith(_OVERRIDE):
            others.append(word)
            continue
        if "=" not in word:
            if not left:
                raise UserError(f"{word} has no value: write {word}=VALUE")
            word = f"{word}={left.pop(0)}"
        overrides.append(word)
    return overrides, others


def find(name: str, kind: str = "") -> Path:
    """The file of a config: a path, or the name of one in `folder`.

    Raises:
      UserError: there is no such file or name; says which names there are.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"{path}: no such file: name a config, as --config NAME")
        return path
    known = {path.stem: path for path in sorted(folder(kind).glob("*.py"))}
    if name not in known:
        raise UserError(one_of("config", name, known, more=", nor a .py file"))
    return known[name]


def read(name: str, overrides: Sequence[str], *, kind: str = "", fields: str) -> Any:
    """Reads a config and applies overrides, whose types are those of the fields.

    Args:
      name: a path or a name, as `find` takes it.
      overrides: `--config.FIELD=VALUE`.
      kind: as `folder` takes it.
      fields: the page that lists the fields, for errors.

    Raises:
      UserError: no such config, an error in its file, an override of no field or of
        the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    path = find(name, kind)
    config = _made(path)
    words = ["spips", *overrides]
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=words
        )
        values(words)
    except (KeyError, AttributeError) as error:  # no such field
        text = str(error.args[0])  # may end with: Did you mean "seed" instead of "sed"?
        field = re.findall(r"\w+", text)[0]
        near = re.search(r"mean \W*(\w+)", text)
        hint = f"; did you mean {near[1]}?" if near else ""
        given = " ".join(overrides)
        raise UserError(
            f"no field {field!r} in {given}; {fields} lists them all{hint}"
        ) from None
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(one_line(error)) from None
    except Exception as error:  # of a field that is computed from others
        _compute(path, config, overrides)
        raise UserError(f"{path}: {_said(error)}{_with(overrides)}") from error
    _compute(path, holder.value, overrides)
    return holder.value


def _made(path: Path) -> Any:
    """What `get_config` of a file returns."""
    from ml_collections import ConfigDict

    try:
        made = runpy.run_path(str(path))
        if "get_config" not in made:
            raise UserError("has no function get_config that returns a config")
        config = made["get_config"]()
    except (Exception, SystemExit) as error:  # a config is a program: raises anything
        raise UserError(_located(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config returns a {type(config).__name__}, it must return a"
            " ConfigDict: begin with default() and return it"
        )
    return config


def _located(path: Path, error: BaseException) -> str:
    """The error of a config's file, with the line."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == str(path) or _same(frame.filename, path):
            return f"{path}, line {frame.lineno}: {_said(error)}"
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}, line {error.lineno}: {error.msg}"
    return f"{path}: {_said(error)}"


def _same(filename: str, path: Path) -> bool:
    try:
        return os.path.samefile(filename, path)
    except OSError:
        return False


def _said(error: BaseException) -> str:
    """An error's words; with its type where they are a bare name or number."""
    if isinstance(error, LookupError | SystemExit) and str(error):
        return f"{type(error).__name__}: {one_line(error)}"
    return one_line(error)


def _compute(path: Path, config: Any, overrides: Sequence[str]) -> None:
    """Computes every field: one may be a formula of others, which overrides change.

    Raises:
      UserError: one that cannot be computed; with its file, and its line if it is set
        by its name there.
    """

    def walk(node: Any, prefix: str) -> None:
        for name in node:
            field = f"{prefix}{name}"
            try:
                value = node[name]
            except Exception as error:
                line = _line_of(path, str(name))
                raise UserError(
                    f"{path}{f', line {line}' if line else ''}: {field} cannot be"
                    f" computed: {_said(error)}{_with(overrides)}"
                ) from error
            if hasattr(value, "items"):
                walk(value, f"{field}.")

    walk(config, "")


def _with(overrides: Sequence[str]) -> str:
    return f" (with {' '.join(overrides)})" if overrides else ""


def _line_of(path: Path, field: str) -> int | None:
    """The last line of a config's file that sets a field of this name."""
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and node.attr == field
        )
        or (isinstance(node, ast.keyword) and node.arg == field)
        or (isinstance(node, ast.Constant) and node.value == field)
    ]
    return max(lines, default=None)
