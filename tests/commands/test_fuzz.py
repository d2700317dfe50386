"""A short run of `fuzz.py`: no input ends the command in a traceback."""

from __future__ import annotations

from fuzz import fuzz


def test_no_input_breaks_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    ends = fuzz(2000, seconds=40)
    # Faults that leave a file sound, and such as do not.
    assert ends["scored"] > 0
    assert ends["refused"] > 0
