"""What the documentation site has from elsewhere: the changelog, help texts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = (
    "score", "video", "models", "convert", "export", "check", "twin", "warm",
    "evaluate", "evaluate calibrate", "data list", "data prepare", "data show",
    "train", "train export",
)  # fmt: skip


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fills in what pages include; links to what is not on the site become names."""
    if page.file.src_uri == "changelog.md":
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        markdown = text.replace("](docs/", "](")
    if page.file.src_uri == "commands.md":
        markdown += "".join(_help(command) for command in COMMANDS)
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", _named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    same = text.rstrip("/") == path.rstrip("/").removesuffix("/README.md")
    return f"`{path}`" if same else f"{text} (`{path}` of the repository)"


def _help(command: str) -> str:
    words = [sys.executable, "-m", "spips_jax", *command.split(), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    return f"\n## spips {command}\n\n```text\n{done.stdout.rstrip()}\n```\n"
