"""Folds by reference, by a rule that the shell can repeat; shared photographs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spips_jax.data.splits import assign_folds, parse_fold, shared_references

NAMES = [f"I{number:02d}" for number in range(1, 26)]


def test_folds_follow_the_published_rule() -> None:
    """`printf 2504/I01 | sha256sum`, sorted, every k-th."""
    order = sorted(
        NAMES, key=lambda name: hashlib.sha256(b"2504/" + name.encode()).hexdigest()
    )
    assigned = assign_folds(NAMES, 5)
    for position, name in enumerate(order):
        assert assigned[name] == 1 + position % 5


PLAIN = st.text(
    st.characters(codec="utf-8", exclude_characters="#"), min_size=1, max_size=8
)


@given(st.sets(PLAIN, min_size=7), st.integers(2, 7))
def test_folds_partition_evenly_and_ignore_order_and_repeats(
    references: set[str], folds: int
) -> None:
    assigned = assign_folds(references, folds)
    assert set(assigned) == references
    sizes = [list(assigned.values()).count(fold) for fold in range(1, folds + 1)]
    assert max(sizes) - min(sizes) <= 1
    assert assign_folds([*references, *references][::-1], folds) == assigned


@pytest.mark.parametrize("text", ["", "3", "0/5", "6/5", "1/1", "a/b", "1/5/2", "-1/5"])
def test_bad_folds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fold is"):
        parse_fold(text)


def test_more_folds_than_references() -> None:
    with pytest.raises(ValueError, match="5 folds of 2 references"):
        assign_folds(["a", "b"], 5)


def test_live_and_tid_share_kodak() -> None:
    shared = shared_references("tid2013", ["live"])
    # Five pairs that were found by comparing the images themselves.
    assert {"I06", "I08", "I13", "I19", "I23"} <= shared
    assert len(shared) == 19
    assert "I25" not in shared  # the computer's image is in no other set
    assert shared_references("tid2013", ["tid2008"]) == frozenset(NAMES[:24])
    assert "parrots" in shared_references("live", ["tid2013"])
    assert shared_references("kadid10k", ["tid2013"]).isdisjoint(NAMES)
    assert shared_references("tid2013", ["kadid10k"]) == frozenset()
    assert "kodim23" in shared_references("pair_list/kodak", ["live"])
