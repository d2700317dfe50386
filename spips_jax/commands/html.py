"""The scores of a run as one page for a browser, with everything in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spips_jax.commands.rows import direction
from spips_jax.files import replacing
from spips_jax.messages import UserError, printable
from spips_jax.outputs import SOFTWARE

if TYPE_CHECKING:
    from spips_jax.commands.rows import Row
    from spips_jax.metric import Metric

THUMBNAIL = 176
"""The longer side of a picture in the table, in pixels."""

MAPS = 1100
"""The width at which heat maps are put in."""

BINS = 24

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3b76c4; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 78rem; }
h1 { font-size: 1.35rem; margin: .2rem 0; } p { margin: .3rem 0; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.card { flex: 1 1 20rem; border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; min-width: 0; }
.card h2 { font-size: 1rem; margin: 0 0 .2rem; }
svg { width: 100%; height: 5.5rem; display: block; } svg rect { fill: var(--bar); }
.ends { display: flex; justify-content: space-between; font-size: .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: middle; }
td.name { overflow-wrap: anywhere; min-width: 9rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0;
  color: inherit; cursor: pointer; } th button::after { content: " \\2195"; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--soft); }
td img { display: block; max-width: 8rem; max-height: 6rem; }
summary { cursor: pointer; } details img { max-width: min(100%, 68rem);
  max-height: none; } .error { color: #c33; }
"""

_SCRIPT = """
const body = document.querySelector("tbody");
document.querySelectorAll("th button").forEach(button => {
  button.addEventListener("click", () => {
    const head = button.parentElement, column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    document.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const number = head.classList.contains("number");
    const key = row => row.cells[column].dataset.value ?? "";
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // errors come last
      return (up ? 1 : -1) * (number ? x - y : x.localeCompare(y));
    });
    body.append(...rows);
  });
});
"""


class Html:
    """A page with a row for each pair, written when all are scored or it is stopped."""

    def __init__(self, path: Path, metrics: Sequence[Metric]) -> None:
        self._path = path
        self._metrics = metrics
        self._rows: list[str] = []
        self._scores: list[list[float]] = [[] for _ in metrics]
        self._maps = False
        # Its last two: a reference has several rows.
        self._thumbnail = lru_cache(maxsize=2)(_thumbnail)

    def write(self, rows: Sequence[Row]) -> None:
        first = rows[0]
        cells = []
        for side in ("reference", "distorted"):
            name = html.escape(printable(first[side]))
            cells.append(f"<td>{self._thumbnail(first[side], name)}")
            cells.append(f'<td class="name" data-value="{name}">{name}')
        for number, (metric, row) in enumerate(zip(self._metrics, rows, strict=True)):
            if row["score"] is None:
                error = html.escape(printable(row["error"]))
                cells.append(f'<td class="number error" data-value="">{error}')
            else:
                score = row["score"]
                self._scores[number].append(score)
                cells.append(f'<td class="number" data-value="{score!r}">{score:.4f}')
            if metric.calibration is not None:
                cells.append(_opinion(metric, row))
        if first.get("maps"):
            self._maps = True
            picture = _picture(first["maps"], MAPS)
            cells.append(
                f"<td><details><summary>maps</summary>{_image(picture, 'heat maps')}"
                "</details>"
            )
        self._rows.append(f"<tr>{''.join(cells)}")

    def close(self) -> None:
        if not self._rows:
            return
        try:
            with replacing(self._path) as partial_file:
                Path(partial_file).write_text(self._page(), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written: {error.strerror}"
            ) from None

    def _page(self) -> str:
        heads = ["<th>", _head("reference"), "<th>", _head("distorted")]
        for metric in self._metrics:
            heads.append(_head(metric.name, number=True))
            if metric.calibration is not None:
                heads.append(_head(metric.calibration.opinion.upper(), number=True))
        if self._maps:
            heads.append("<th>maps")
        cards = [
            _card(metric, scores)
            for metric, scores in zip(self._metrics, self._scores, strict=True)
        ]
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="generator" content="{SOFTWARE}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Scores of {len(self._rows)} pairs</title><style>{_STYLE}</style>"
            f"<h1>Scores of {len(self._rows):,} pairs</h1>"
            f'<div class="cards">{"".join(cards)}</div>'
            f'<div class="wide"><table><thead><tr>{"".join(heads)}</thead>'
            f"<tbody>{''.join(self._rows)}</tbody></table></div>"
            f"<script>{_SCRIPT}</script></html>\n"
        )


def summary(scores: Sequence[float]) -> str:
    """Mean, median, and the ends that leave out a twentieth on each side."""
    low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
    return (
        f"mean {np.mean(scores):.4f}, median {middle:.4f}, 5th percentile {low:.4f},"
        f" 95th {high:.4f}"
    )


def _head(name: str, *, number: bool = False) -> str:
    attribute = ' class="number"' if number else ""
    return f"<th{attribute}><button>{html.escape(printable(name))}</button>"


def _opinion(metric: Metric, row: Row) -> str:
    known: Any = metric.calibration
    value = row.get(known.opinion)
    if value is None:
        return '<td class="number" data-value="">'
    grade = html.escape(known.grade(row["score"]))
    return f'<td class="number" data-value="{value!r}" title="{grade}">{value:.3g}'


def _card(metric: Metric, scores: Sequence[float]) -> str:
    """The distribution of a metric's scores."""
    title = f"<h2>{html.escape(printable(metric.name))}</h2><p>{direction(metric)}"
    if not scores:
        return f'<div class="card">{title}; no pair has a score</div>'
    counts, edges = np.histogram(scores, bins=BINS)
    bars = "".join(
        f'<rect x="{x}" y="{100 - 100 * count / counts.max():.1f}" width=".92"'
        f' height="{100 * count / counts.max():.1f}"><title>{count}: {low:.4f} to'
        f" {high:.4f}</title></rect>"
        for x, (count, low, high) in enumerate(
            zip(counts, edges[:-1], edges[1:], strict=True)
        )
    )
    return (
        f'<div class="card">{title}; {summary(scores)}'
        f'<svg viewBox="0 0 {BINS} 100" preserveAspectRatio="none" role="img"'
        f' aria-label="distribution of scores">{bars}</svg><div class="ends">'
        f"<span>{edges[0]:.4f}</span><span>{edges[-1]:.4f}</span></div></div>"
    )


def _thumbnail(path: str, name: str) -> str:
    from spips_jax.image_files import ImageError, read_image

    try:
        pixels = read_image(path, min_size=1)
    except ImageError:
        return ""  # its row says why
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * pixels).astype(np.uint8)
    return _image(_small(pixels, THUMBNAIL), name)


def _picture(path: str, side: int) -> bytes:
    from spips_jax.image_files import read_image

    return _small(read_image(path, min_size=1), side)


def _small(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG whose longer side is at most `side`."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _image(jpeg: bytes, alt: str) -> str:
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img loading="lazy" alt="{alt}" src="data:image/jpeg;base64,{data}">'
