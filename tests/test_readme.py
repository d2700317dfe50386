"""The README's example prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_first_example_prints_its_number(real_weights, tmp_path, monkeypatch):
    text = README.read_text()
    (example,) = re.findall(r"```python\n(import numpy.*?)```", text, re.DOTALL)
    printed = re.search(r"prints `([\d.]+)`", text)
    (tmp_path / "alexnet.safetensors").symlink_to(real_weights("alexnet"))
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == printed[1]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) < 250
