"""The examples of the README and of the first page print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_first_example_prints_its_score(tmp_path, monkeypatch):
    text = README.read_text()
    (example,) = re.findall(r"```python\n(import numpy.*?)```", text, re.S)
    printed = re.search(r"prints `([\d.]+)`", text)
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == printed[1]


def test_the_first_page_of_the_documentation_prints_what_it_says(tmp_path, monkeypatch):
    text = (README.parent / "docs" / "index.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    expected = re.findall(r"print\(.*\)  # (.*)", example)
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == expected == ["0.0", "True"]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) < 200


def test_the_data_example_prints_its_line(tmp_path, monkeypatch):
    text = README.read_text()
    (commands,) = re.findall(r"```bash\n(spips data list.*?)```", text, re.S)
    (example,) = re.findall(
        r"```python\n(from spips_jax import data.*?)```", text, re.S
    )
    printed = re.search(r"prints `(\(8.*?)`", text)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for command in commands.splitlines():
        words = command.partition("#")[0].split()
        if "tid2013" not in words:  # that one needs a download
            command = [sys.executable, "-m", "spips_jax", *words[1:]]
            subprocess.run(command, capture_output=True, check=True)
    assert (tmp_path / "synthetic-scenes.png").is_file()
    result = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == printed[1]
