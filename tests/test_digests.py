"""Digests of code: they change with what code does, not with what it says."""

from __future__ import annotations

import pytest

from spips_jax import digests
from spips_jax.digests import code_digest, source_digest

SOURCE = '''"""A module."""

SCALE = 2.0
"""Of what is doubled."""


def double(x: float) -> float:
    """Doubles."""
    return SCALE * x  # always
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another module."),
        ("Of what is doubled.", "The factor."),
        ("Doubles.", "Returns twice `x`."),
        ("  # always", ""),
        ("\n\n\ndef", "\n\n# It doubles.\ndef"),
    ],
)
def test_words_do_not_count(old, new):
    assert old in SOURCE
    assert source_digest(SOURCE.replace(old, new)) == source_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("2.0", "2.1"), ("SCALE * x", "x * SCALE"), ("def double", "def d")],
)
def test_code_counts(old, new):
    assert source_digest(SOURCE.replace(old, new)) != source_digest(SOURCE)


def test_every_module_counts():
    assert code_digest("spips", "streams") != code_digest("spips")
    assert code_digest("training/step") == code_digest("training/step")
    with pytest.raises(FileNotFoundError):
        code_digest("none")


def test_every_module_of_a_folder_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_ROOT", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "first.py").write_text("x = 1")
    code_digest.cache_clear()
    alone = code_digest("folder")
    (tmp_path / "folder" / "second.py").write_text("x = 2")
    code_digest.cache_clear()
    both = code_digest("folder")
    code_digest.cache_clear()
    assert alone != both
