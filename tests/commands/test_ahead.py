"""Pairs are read ahead: in order, within a bound, each with its own errors."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from spips_jax.commands.ahead import read_ahead
from spips_jax.commands.pairs import Pair
from spips_jax.image_files import ImageFile

SECONDS = 10  # what does not come fails the test after these

PAIRS = [Pair(f"r{number}", f"d{number}") for number in range(9)]


class Reader:
    """Reads images of 1000 bytes, and knows which were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end: dict[str, threading.Event] = {}
        self.fails: dict[str, BaseException] = {}
        self._change = threading.Condition()

    def __call__(self, path: str) -> ImageFile:
        with self._change:
            self.begun.append(path)
            self._change.notify_all()
        if path in self.may_end:
            assert self.may_end[path].wait(SECONDS)
        if path in self.fails:
            raise self.fails[path]
        return ImageFile(np.zeros(1000, np.uint8), profile=path)

    def wait_for(self, count: int) -> None:
        """Until so many were begun."""
        with self._change:
            assert self._change.wait_for(lambda: len(self.begun) >= count, SECONDS)


@pytest.mark.parametrize("threads", [1, 4])
def test_pairs_come_in_order(threads):
    read = Reader()
    read.may_end["r1"] = threading.Event()
    found = []
    for pair, reference, distorted in read_ahead(PAIRS, read, threads=threads):
        assert (reference.profile, distorted.profile) == (
            pair.reference,
            pair.distorted,
        )
        found.append(pair)
        read.may_end["r1"].set()  # not before, so later ones may end before it
    assert found == PAIRS
    assert sorted(read.begun) == sorted(f"{what}{n}" for n in range(9) for what in "rd")


def test_a_reference_in_a_row_is_read_once():
    names = ["a", "a", "b", "a", "a"]
    pairs = [Pair(name, f"d{number}") for number, name in enumerate(names)]
    read = Reader()
    references = [one for _, one, _ in read_ahead(pairs, read, threads=2)]
    assert [one.profile for one in references] == names
    assert references[0] is references[1]
    assert references[3] is references[4]
    assert [path for path in read.begun if path in "ab"] == ["a", "b", "a"]


def test_the_next_are_read_while_one_is_worked_on():
    read = Reader()
    with closing(read_ahead(PAIRS, read, threads=2)) as images:
        next(images)
        read.wait_for(2 + 2 * 4)  # twice as many pairs as threads


@pytest.mark.parametrize(
    ("bytes_ahead", "ahead"),
    [(0, 1), (3999, 1), (4000, 2), (6000, 3)],
)
def test_what_waits_has_a_bound(bytes_ahead, ahead):
    """A pair has 2000 bytes; one is always ahead."""
    read = Reader()
    images = read_ahead(PAIRS, read, threads=8, bytes_ahead=bytes_ahead)
    for number in range(3):
        next(images)
        read.wait_for(2 * (number + 1 + ahead))
    images.close()
    assert len(read.begun) == 2 * (3 + ahead)


def test_a_shared_reference_counts_once():
    pairs = [Pair("r", f"d{number}") for number in range(9)]
    read = Reader()
    images = read_ahead(pairs, read, threads=8, bytes_ahead=5000)
    next(images)
    read.wait_for(2 + 3)
    images.close()
    # Three distorted images and the reference, and no room for a pair of 2000.
    assert read.begun.count("r") == 1
    assert len(read.begun) == 2 + 3


def test_an_error_is_that_of_its_pair():
    read = Reader()
    read.fails = {"r1": ValueError("one"), "d3": MemoryError("three")}
    found = [
        tuple(str(one) for one in images if isinstance(one, Exception))
        for _, *images in read_ahead(PAIRS, read, threads=2)
    ]
    assert found == [(), ("one",), (), ("three",), *[()] * 5]


def test_what_is_no_error_ends_it():
    read = Reader()
    read.fails = {"d2": SystemExit(3)}
    images = read_ahead(PAIRS, read, threads=2)
    next(images)
    next(images)
    with pytest.raises(SystemExit):
        next(images)


def test_nothing_is_begun_after_the_end():
    """And the end does not wait for what was begun."""
    read = Reader()
    read.may_end["r1"] = threading.Event()
    images = read_ahead(PAIRS, read, threads=1)
    next(images)
    read.wait_for(3)
    images.close()
    read.may_end["r1"].set()
    for thread in threading.enumerate():
        if thread.name.startswith("read"):
            thread.join(SECONDS)
    assert read.begun == ["r0", "d0", "r1"]


def test_who_waits_is_told_once():
    """So that what was read can be worked on meanwhile."""
    read = Reader()
    late = read.may_end["d1"] = threading.Event()
    with closing(read_ahead(PAIRS, read, threads=2, patience=0.05)) as images:
        assert next(images)[0] == PAIRS[0]
        assert next(images) is None
        late.set()
        assert [one[0] for one in images if one] == PAIRS[1:]
