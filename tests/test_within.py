"""Agreement within references: SciPy on each one alone, by hand, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from spips_jax import agreement
from spips_jax.agreement import AgreementError


def sample(
    seed: int, *, references: int = 12, versions: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, opinions and names, in no order; scores have an offset per reference."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"I{number}" for number in range(references)], versions)
    opinions = rng.normal(size=len(names))
    offsets = np.repeat(5 * rng.normal(size=references), versions)
    scores = opinions + 0.5 * rng.normal(size=len(names)) + offsets
    order = rng.permutation(len(names))
    return scores[order], opinions[order], names[order]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (agreement.srcc, scipy.stats.spearmanr),
        (agreement.krcc, scipy.stats.kendalltau),
    ],
)
def test_each_reference_counts_once(ours, theirs) -> None:
    """SciPy's correlation on each, whatever the number of its rows."""
    scores, opinions, names = sample(0)
    kept = (names != "I3") | (np.arange(len(names)) % 3 == 0)  # some rows of one
    scores, opinions, names = scores[kept], opinions[kept], names[kept]
    found = agreement.within_references(ours, scores, opinions, references=names)
    expected = {
        name: theirs(scores[names == name], opinions[names == name]).statistic
        for name in set(names.tolist())
    }
    assert dict(zip(found.references, found.values, strict=True)) == pytest.approx(
        expected, abs=1e-12
    )
    assert found.mean == pytest.approx(np.mean(list(expected.values())))
    assert (found.left_out, found.constant) == ((), ())


def test_an_offset_per_reference_changes_nothing_within() -> None:
    """What cannot be compared has no influence; overall it has."""
    scores, opinions, names = sample(1)
    moved = opinions + 3 * np.char.str_len(names) * (names > "I4")
    values = [
        agreement.within_references(
            agreement.srcc, scores, one, references=names
        ).values
        for one in (opinions, moved)
    ]
    np.testing.assert_array_equal(*values)
    assert agreement.srcc(scores, moved) != agreement.srcc(scores, opinions)


def test_what_orders_nothing_is_named() -> None:
    names = ["a", "a", "b", "b", "b", "c", "c", "c", "d", "d", "d"]
    opinions = [1, 2, 5, 5, 5, 1, 2, 3, 1, 2, 3]
    scores = [1, 2, 1, 2, 3, 7, 7, 7, 1, 3, 2]
    found = agreement.within_references(
        agreement.srcc, scores, opinions, references=names
    )
    assert found.left_out == ("a", "b")  # two versions; equal opinions
    assert found.references.tolist() == ["c", "d"]
    assert found.constant == ("c",)  # the metric's fault: it counts as 0
    assert found.values.tolist() == pytest.approx([0, 0.5])
    assert found.mean == pytest.approx(0.25)


def test_the_interval_is_that_of_a_mean_over_references() -> None:
    """A bootstrap of a mean has the standard error of the population's formula."""
    scores, opinions, names = sample(2, references=30)
    found = agreement.within_references(
        agreement.srcc, scores, opinions, references=names
    )
    drawn = agreement.bootstrap_draws(
        np.mean, found.values, references=found.references, samples=4000
    )
    # 4,000 draws give a standard deviation to 1.1 %, at one standard error.
    assert drawn.std() == pytest.approx(found.values.std() / 30**0.5, rel=0.05)
    interval = agreement.interval(found.mean, drawn)
    assert interval.low < found.mean < interval.high
    # Rows of whole references drawn anew, each draw's SRCCs computed again.
    rng = np.random.default_rng(0)
    each = {
        name: scipy.stats.spearmanr(
            scores[names == name], opinions[names == name]
        ).statistic
        for name in found.references
    }
    slow = [
        np.mean([each[name] for name in rng.choice(found.references, 30)])
        for _ in range(4000)
    ]
    low, high = np.quantile(slow, [0.025, 0.975])
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.1 * width)
    assert interval.high == pytest.approx(high, abs=0.1 * width)


def test_the_spread_of_references_by_hand() -> None:
    # Means 2 and 4 deviate by 1; all of 1, 3, 3, 5 by the root of 2.
    ratio = agreement.spread_ratio([1, 3, 3, 5], references=["a", "a", "b", "b"])
    assert ratio == pytest.approx(1 / 2**0.5)
    # Points of a tournament: every reference's sum is the same.
    points = [0, 1, 2, 3, 3, 2, 1, 0]
    assert agreement.spread_ratio(points, references=[1] * 4 + [2] * 4) == 0
    # In any unit, of any zero, in either direction.
    scores, opinions, names = sample(3)
    del scores
    moved = agreement.spread_ratio(-40 * opinions + 7, references=names)
    assert moved == pytest.approx(agreement.spread_ratio(opinions, references=names))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: agreement.within_references(
                agreement.srcc, [1, 2, 3], [1, 2, 3], references=["a", "a", "b"]
            ),
            "none of 2 references has 3 examples whose opinions differ",
        ),
        (
            lambda: agreement.within_references(
                agreement.srcc, [1, np.nan, 3], [1, 2, 3], references=["a", "a", "b"]
            ),
            "scores has 1 values that are NaN or inf",
        ),
        (
            lambda: agreement.within_references(
                agreement.srcc, [1, 2, 3], [1, 2, 3], references=["a"]
            ),
            "3 opinions and 1 references",
        ),
        (
            lambda: agreement.spread_ratio([1, 2], references=["a", "a"]),
            "1 reference: the spread of means needs two",
        ),
        (
            lambda: agreement.spread_ratio([2, 2], references=["a", "b"]),
            "all opinions are 2",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(AgreementError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
