"""How rows of scores are written: to a pipe and to files as they come, or as a table.

A row is what `spips score --json` prints: a pair, a model, its score, and "error" where
there is none.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from spips_jax.messages import UNPRINTABLE, UserError, printable
from spips_jax.outputs import SCORE_COLUMNS

if TYPE_CHECKING:
    from spips_jax.calibration import Calibration
    from spips_jax.metric import Metric

Row = Mapping[str, Any]


class Writer(Protocol):
    """Takes the rows of one pair at a time, a row for each model."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def json_line(row: Any, *, encoding: str | None = None) -> str:
    """A row in one line of JSON, with escapes for what the encoding does not have.

    Nor is there, unescaped, what some readers take for the end of a line. Names that
    are no UTF-8 keep Python's stand-ins for their bytes, which `os.fsencode` turns
    back.

    Args:
      row: what to write.
      encoding: that of standard output by default.
    """
    text = json.dumps(row, ensure_ascii=False)
    text = UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding or getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


class JsonLines:
    """One JSON object a line and a row."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            print(json_line(row, encoding=self._file.encoding), file=self._file)
        self._file.flush()

    def close(self) -> None:
        pass


class JsonArray:
    """All rows as one JSON array, a line each."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._start = _ARRAY

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._file.write(self._start + json_line(row, encoding="utf-8"))
            self._start = ",\n"
        self._file.flush()

    def close(self) -> None:
        self._file.write("[]\n" if self._start == _ARRAY else "\n]\n")


class Csv:
    """A CSV table, a line a row; without a score where there is an error."""

    def __init__(self, file: TextIO, metrics: Sequence[Metric]) -> None:
        opinions = dict.fromkeys(filter(None, map(opinion_of, metrics)))
        self._columns = [*SCORE_COLUMNS, *opinions, "error"]
        self._file = file
        self._lines = csv.writer(file, lineterminator="\n")
        self._lines.writerow(self._columns)

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._lines.writerow([row.get(column) for column in self._columns])
        self._file.flush()

    def close(self) -> None:
        pass


class Tabs:
    """Tab-separated lines, a pair each, for cut, awk and spreadsheets.

    Pairs without any score are left out: they are errors on standard error.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._begun = False

    def write(self, rows: Sequence[Row]) -> None:
        if all(row["score"] is None for row in rows):
            return
        if not self._begun:
            names = ["reference", "distorted"]
            for metric in self._metrics:
                names += [metric.name, *filter(None, [opinion_of(metric)])]
            print(*map(_cell, names), sep="\t")
            self._begun = True
        cells = [_cell(rows[0]["reference"]), _cell(rows[0]["distorted"])]
        for metric, row in zip(self._metrics, rows, strict=True):
            for key in filter(None, ["score", opinion_of(metric)]):
                value = row.get(key)
                cells.append("" if value is None else f"{value:.6f}")
        print(*cells, sep="\t", flush=True)

    def close(self) -> None:
        pass


class Table:
    """A table for people, printed at the end, with what its numbers mean."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._pairs: list[Sequence[Row]] = []

    def write(self, rows: Sequence[Row]) -> None:
        if any(row["score"] is not None for row in rows):
            self._pairs.append(rows)

    def close(self) -> None:
        from rich.table import Table as Drawn

        from spips_jax.commands.html import summary
        from spips_jax.commands.tables import console

        if not self._pairs:
            return
        drawn = Drawn()
        for column in ("reference", "distorted"):
            drawn.add_column(column, overflow="fold")  # in full, over several lines
        for metric in self._metrics:
            for column in filter(None, [metric.name, opinion_of(metric)]):
                drawn.add_column(printable(column), justify="right")
        for rows in self._pairs:
            cells = [printable(rows[0][key]) for key in ("reference", "distorted")]
            for metric, row in zip(self._metrics, rows, strict=True):
                cells += _numbers(row, metric.calibration)
            drawn.add_row(*cells)
        screen = console()
        screen.print(drawn)
        for number, metric in enumerate(self._metrics):
            named = metric.calibration is not None or len(self._metrics) > 1
            zero = "" if metric.higher_is_better else ", 0 is identical"
            name = f"{printable(metric.name)}: " if named else ""
            screen.print(f"{name}{direction(metric)}{zero}")
            scores = [
                rows[number]["score"]
                for rows in self._pairs
                if rows[number]["score"] is not None
            ]
            if len(scores) > 1:
                screen.print(f"  {len(scores):,} pairs: {summary(scores)}")
            if metric.calibration is not None:
                for line in _legend(metric.calibration):
                    screen.print(line)


_ARRAY = "[\n"

_ENDINGS: dict[str, Callable[[TextIO, Sequence[Metric]], Writer]] = {
    ".csv": Csv,
    ".json": lambda file, metrics: JsonArray(file),
    ".jsonl": lambda file, metrics: JsonLines(file),
}


def check_ending(path: Path) -> None:
    """Raises `UserError` unless a file's ending says how to write it."""
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(
            f"--output {path}: its ending must say how to write it:"
            f" {', '.join(_ENDINGS)}"
        )


class File:
    """A file whose ending says how it is written; opened with its first rows.

    It is written as rows come, so that a run that is killed leaves those.
    """

    def __init__(self, path: Path, metrics: Sequence[Metric]) -> None:
        self._path = path
        self._metrics = metrics
        self._file: TextIO | None = None
        self._writer: Writer | None = None

    def write(self, rows: Sequence[Row]) -> None:
        try:
            if self._file is None or self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open(
                    "w", encoding="utf-8", errors="backslashreplace", newline=""
                )
                make = _ENDINGS[self._path.suffix.lower()]
                self._writer = make(self._file, self._metrics)
            self._writer.write(rows)
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        if self._file is None or self._writer is None:
            return
        try:
            with self._file:
                self._writer.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot be written: {error.strerror}")


def writers(
    metrics: Sequence[Metric],
    *,
    as_json: bool,
    output: Path | None,
    page: Path | None = None,
) -> list[Writer]:
    """The writers of a call: to standard output, and to the files that are named."""
    from spips_jax.commands.tables import console

    first: Writer
    found: list[Writer]
    if as_json:
        first = JsonLines(sys.stdout)
    elif console().is_terminal:
        first = Table(metrics)
    else:
        first = Tabs(metrics)
    found = [first] if output is None else [File(output, metrics), first]
    if page is not None:
        from spips_jax.commands.html import Html

        found.append(Html(page, metrics))
    return found


def direction(metric: Metric) -> str:
    """Which scores of a metric are better, in words."""
    return "higher is better" if metric.higher_is_better else "lower is better"


def opinion_of(metric: Metric) -> str | None:
    """The name of what a metric's calibration predicts; None without one."""
    return metric.calibration.opinion if metric.calibration is not None else None


def _cell(text: str) -> str:
    return printable(text.replace("\\", "\\\\"))


def _numbers(row: Row, calibration: Calibration | None) -> list[str]:
    if row["score"] is None:
        return ["-"] if calibration is None else ["-", "-"]
    cells = [f"{row['score']:.4f}"]
    if calibration is not None:
        cells.append(_opinion(row[calibration.opinion], calibration))
    return cells


def _opinion(value: float, calibration: Calibration) -> str:
    """An opinion to read, to a thousandth of its scale or so."""
    if calibration.opinion == "preference":
        return f"{100 * value:.0f} %"
    low, high = calibration.scale
    return f"{value:.{max(0, 3 - math.ceil(math.log10(high - low)))}f}"


def _legend(calibration: Calibration) -> list[str]:
    """What opinions and scores mean, in lines."""
    low, high = calibration.scale
    what = {
        "mos": f"what people would say, from {low:g} (worst) to {high:g} (best)",
        "dmos": f"what people would say, from {low:g} (best) to {high:g} (worst)",
        "preference": "how many people would prefer the reference, 50 % being chance",
    }[calibration.opinion]
    rows = [
        (f"{a:.4f} to {b:.4f}" if math.isfinite(b) else f"{a:.4f} and more", words)
        for words, a, b in calibration.legend()
    ]
    width = max(len(scores) for scores, _ in rows)
    return [
        f"{calibration.opinion}: {what}",
        f"fitted to {calibration.examples:,} examples of {calibration.dataset}, RMSE"
        f" {_opinion(calibration.rmse, calibration)}",
        *(f"  {scores:<{width}}  {words}" for scores, words in rows),
    ]
