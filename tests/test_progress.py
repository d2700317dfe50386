"""Progress where there is no terminal: a line now and then."""

import io
import sys

import pytest

from spips_jax import progress


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def rows(count, clock, seconds):
    for number in range(count):
        clock.now += seconds
        yield (range(10), number)


@pytest.mark.parametrize("rich", [True, False])
def test_lines_in_logs(clock, capsys, monkeypatch, rich):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    batches = rows(10, clock, seconds=20)
    found = list(progress.tracked(batches, total=1100, what="pooling", done=1000))
    assert [number for _, number in found] == list(range(10))
    output = capsys.readouterr()
    assert output.out == ""
    # A line for every 30 seconds, which are over with every second batch.
    assert output.err.splitlines() == [
        "pooling",
        "1,020 of 1,100, about 3 min left",
        "1,040 of 1,100, about 2 min left",
        "1,060 of 1,100, about 80 s left",
        "1,080 of 1,100, about 40 s left",
        "1,100 of 1,100, about 0 s left",
    ]


def test_short_work_says_nothing(clock, capsys):
    list(progress.tracked_rows([1, 2, 3], "writing"))
    list(progress.tracked(rows(2, clock, seconds=10), total=20, what="scoring"))
    assert capsys.readouterr().err == "scoring\n"


def test_days_of_work_do_not_fill_a_log(clock, capsys):
    found = progress.tracked(rows(10_000, clock, seconds=30), total=10**5, what="long")
    for _ in found:
        pass
    lines = capsys.readouterr().err.splitlines()
    assert 300 < len(lines) < 900  # for 3 1/2 days
    assert (
        lines[200] == "10,400 of 100,000, about 74.7 h left" or "h left" in lines[200]
    )


def test_rows_are_named(clock, capsys):
    for _ in progress.tracked_rows([1, 2], "train"):
        clock.now += 31
    assert capsys.readouterr().err.splitlines() == [
        "train: 1 of 2, about 31 s left",
        "train: 2 of 2, about 0 s left",
    ]


def test_bytes(clock, capsys):
    with progress.Bar("", total=None, in_bytes=True, lines=True) as bar:
        clock.now += 31
        bar.advance(12_300_000)
    assert capsys.readouterr().err == "12 MB\n"


def test_a_terminal_has_the_bar_alone(clock):
    console = pytest.importorskip("rich.console", reason="draws the bar")
    screen = console.Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress.Bar("x", total=2, lines=True, console=screen) as bar:
        clock.now += 100
        bar.advance(1)
    assert "left" not in screen.file.getvalue()
