"""Digests of the package's own code and of plain values, for what is kept on disk."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent


def source_digest(text: str) -> str:
    """SHA-256 of Python source, without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A string that stands by itself documents what is before or around it.
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def json_digest(content: Any) -> str:
    """SHA-256 of plain values, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_digest(*modules: str) -> str:
    """SHA-256 of the code of modules and sub-packages of this package.

    It changes when code changes, but not with comments and docstrings, so that a cache
    keyed by it is never stale and rarely lost.

    Args:
      *modules: by their path in the package, as "spips" or "training/step"; a folder
        means all that is in it.
    """
    sha256 = hashlib.sha256()
    for module in modules:
        path = _ROOT / module
        files = sorted(path.rglob("*.py")) or [path.with_suffix(".py")]
        for file in files:
            name = file.relative_to(_ROOT).with_suffix("").as_posix()
            text = file.read_text(encoding="utf-8")
            sha256.update(f"{name} {source_digest(text)}\n".encode())
    return sha256.hexdigest()
