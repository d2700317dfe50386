"""Folds by reference, by a rule that the shell can repeat; shared photographs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spips_jax.data.splits import (
    PHOTOGRAPHS,
    assign_folds,
    parse_fold,
    photograph_of,
    shared_references,
)

NAMES = [f"I{number:02d}" for number in range(1, 26)]
KODAK = [f"kodim{number:02d}" for number in range(1, 25)]
OTHERS = ["carnivaldolls", "coinsinfountain", "monarch", "womanhat2", "I25"]


def by_sha256(names: list[str]) -> list[str]:
    """`printf 2504/kodim01 | sha256sum`, sorted."""
    return sorted(
        names, key=lambda name: hashlib.sha256(b"2504/" + name.encode()).hexdigest()
    )


def test_folds_follow_the_published_rule() -> None:
    """Every k-th in the order of their sums."""
    assigned = assign_folds(NAMES, 5)  # of a set without Kodak's photographs
    for position, name in enumerate(by_sha256(NAMES)):
        assert assigned[name] == 1 + position % 5


@pytest.mark.parametrize("folds", [2, 3, 5, 8])
def test_a_photograph_is_in_the_same_fold_of_every_set(folds: int) -> None:
    expected = {name: 1 + p % folds for p, name in enumerate(by_sha256(KODAK))}
    sizes = [list(expected.values()).count(fold) for fold in range(1, folds + 1)]
    assert max(sizes) - min(sizes) <= 1

    for tid in ("tid2013", "tid2008"):
        assigned = assign_folds(NAMES, folds, dataset=tid)
        for number, photograph in enumerate(KODAK, 1):
            assert assigned[f"I{number:02d}"] == expected[photograph]
        assert assigned["I25"] == 1  # the first of the others, and the only one

    live = [*PHOTOGRAPHS["live"], *OTHERS]
    assigned = assign_folds(live, folds, dataset="live")
    for name, photograph in PHOTOGRAPHS["live"].items():
        assert assigned[name] == expected[photograph]
    # Matched by eye, whatever the table says: bikes, caps, parrots, statue.
    for name, number in (("bikes", 5), ("caps", 3), ("parrots", 23), ("statue", 17)):
        assert assigned[name] == expected[f"kodim{number:02d}"]
    for position, name in enumerate(by_sha256(OTHERS)):
        assert assigned[name] == 1 + position % folds

    some = ["kodim05", "photos/kodim23", "kodim17#0-3", "a/b\\kodim03#1-1", *OTHERS]
    for mine in ("pair_list/mine", "synthetic/photos", ""):
        mine_assigned = assign_folds(some, folds, dataset=mine)
        for name, number in zip(some, (5, 23, 17, 3), strict=False):
            assert mine_assigned[name] == expected[f"kodim{number:02d}"]
        for name in OTHERS:
            assert mine_assigned[name] == assigned[name]


@pytest.mark.parametrize(
    ("reference", "dataset", "photograph"),
    [
        ("I05", "tid2013", "kodim05"),
        ("I05", "kadid10k", "I05"),
        ("I25", "tid2013", "I25"),
        ("bikes", "live", "kodim05"),
        ("bikes", "pair_list/bikes", "bikes"),
        ("images/kodim24", "pair_list/mine", "kodim24"),
        ("images/kodim25", "pair_list/mine", "images/kodim25"),
        ("kodim05b", "", "kodim05b"),
        ("old-kodim05", "", "old-kodim05"),
        ("a/photo#2-1", "synthetic/photos", "a/photo"),
    ],
)
def test_photographs_of_kodak_are_known(
    reference: str, dataset: str, photograph: str
) -> None:
    assert photograph_of(reference, dataset=dataset) == photograph


PLAIN = st.text(
    st.characters(codec="utf-8", exclude_characters="#"), min_size=1, max_size=8
).filter(lambda name: photograph_of(name) == name not in KODAK)


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
    live = [*PHOTOGRAPHS["live"], *OTHERS]
    shared = shared_references(NAMES, {"live": live}, dataset="tid2013")
    # Five pairs that were found by comparing the images themselves.
    assert {"I06", "I08", "I13", "I19", "I23"} <= shared
    assert len(shared) == 19
    assert "I25" not in shared  # the computer's image is in no other set
    assert "parrots" in shared_references(live, {"tid2013": NAMES}, dataset="live")
    mine = ["photos/kodim23", "kodim23#0-1", "kodim01", "other"]
    assert shared_references(mine, {"live": live}, dataset="pair_list/kodak") == {
        "photos/kodim23",
        "kodim23#0-1",  # LIVE has no kodim01
    }


SETS = {
    "tid2013": NAMES,
    "tid2008": NAMES,
    "live": [*PHOTOGRAPHS["live"], *OTHERS],
    "kadid10k": [f"I{number:02d}" for number in range(1, 82)],
    "pieapp": ["ref_1", "ref_161"],
    "pieapp_scores": ["ref_161"],
    "synthetic/kodak": KODAK,
    "synthetic/tiles": ["kodim05#0-1", "kodim05#1-1", "beach#0-0"],
    "pair_list/mine": ["refs/kodim05", "refs/beach", "I25"],
}

SHARED = {
    ("tid2013", "tid2008"): (25, 25),  # with the one that is none of Kodak's
    ("tid2013", "live"): (19, 19),
    ("tid2013", "synthetic/kodak"): (24, 24),
    ("tid2013", "kadid10k"): (0, 0),  # other images, called alike
    ("tid2013", "pair_list/mine"): (1, 1),
    ("live", "synthetic/tiles"): (1, 2),
    ("pieapp", "pieapp_scores"): (1, 1),
    ("synthetic/tiles", "pair_list/mine"): (3, 2),
    ("kadid10k", "pair_list/mine"): (0, 0),
}


@pytest.mark.parametrize("pair", SHARED, ids="-".join)
def test_what_two_sets_share_is_the_same_from_both_sides(pair: tuple[str, str]) -> None:
    found = tuple(
        len(shared_references(SETS[one], {other: SETS[other]}, dataset=one))
        for one, other in (pair, pair[::-1])
    )
    assert found == SHARED[pair]
