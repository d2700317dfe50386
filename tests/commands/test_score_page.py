"""`spips score --html`: a page that holds everything, and sorts."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax.commands import main

NAMES = ("b.png", "a <i>&.png", "c.png")
"""By how much noise they have."""

CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """Of three pairs and one that cannot be scored, with maps, by two metrics."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 190, (60, 90, 3))
    for folder in ("r", "d"):
        Path(folder).mkdir()
    for level, name in enumerate(NAMES):
        noise = 12 * level * rng.standard_normal(pixels.shape) + 1
        Image.fromarray(pixels.astype("u1")).save(Path("r", name))
        Image.fromarray((pixels + noise).clip(0, 255).astype("u1")).save(f"d/{name}")
        if level == 2:
            Image.new("RGB", (8, 8)).save("r/small.png")
            Image.new("RGB", (8, 8)).save("d/small.png")
    words = ["score", "r", "d", "--html", "page.html", "--model", "ssim"]
    assert main([*words, "--maps", "maps"]) == 2
    return Path("page.html").resolve()


def rows_of(text: str) -> list[str]:
    """The names of distorted images, from the top."""
    return re.findall(r'data-value="(d/[^"]*)"', text)


class Checked(HTMLParser):
    """What of a page comes from elsewhere."""

    elsewhere: tuple[str, ...] = ()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.elsewhere += (f"{tag} {value}",)


def test_the_page_holds_everything(page, capsys):
    text = page.read_text(encoding="utf-8")
    found = Checked()
    found.feed(text)
    assert found.elsewhere == ()
    assert len(rows_of(text)) == len(NAMES) + 1
    assert "a &lt;i&gt;&amp;.png" in text
    assert "<i>" not in text
    assert "below the 11 that ssim needs" in text
    # Six thumbnails, two of the small pair, and three pictures of maps.
    assert text.count("data:image/jpeg;base64,") == 11
    assert "higher is better; mean" in " ".join(text.split("<p>"))
    # It may be written again, and others' pages may not.
    assert main(["score", "r/b.png", "d/b.png", "--html", "page.html"]) == 0
    Path("theirs.html").write_text("<html>")
    capsys.readouterr()
    for name, message in (
        ("theirs.html", "is none of ours to replace"),
        ("page.txt", "--html page.txt: give a name that ends in .html"),
    ):
        assert main(["score", "r/b.png", "d/b.png", "--html", name]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_a_browser_sorts_it(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    click = "<script>document.querySelectorAll('th button')[2].click()</script></html>"
    changed = page.with_name("changed.html")
    changed.write_text(text.replace("</html>", click), encoding="utf-8")
    words = [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *words, changed.as_uri()], capture_output=True, text=True
    )
    sorted_names = rows_of(done.stdout)
    assert [name[2:3] for name in sorted_names] == ["c", "a", "b", "s"]


def test_a_terminal_gets_mean_and_ends(page, capsys, monkeypatch):
    import rich.console

    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    capsys.readouterr()
    assert main(["score", "r", "d", "--model", "psnr"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 pairs: mean " in out
    assert "5th percentile" in out
