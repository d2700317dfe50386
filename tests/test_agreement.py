"""Agreement: SciPy, scikit-learn, published numbers; intervals by simulation."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from spips_jax import agreement
from spips_jax.agreement import AgreementError


def sample(seed: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=200)
    opinions = scores + rng.normal(size=200)
    if ties:
        scores, opinions = scores.round(), opinions.round()
    return scores, opinions


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (agreement.srcc, scipy.stats.spearmanr),
        (agreement.plcc, scipy.stats.pearsonr),
        (agreement.krcc, scipy.stats.kendalltau),
    ],
)
def test_correlations_are_scipys(ours, theirs, ties: bool) -> None:
    for seed in range(5):
        scores, opinions = sample(seed, ties=ties)
        # Float64 sums of 200 values in another order.
        assert ours(scores, opinions) == pytest.approx(
            theirs(scores, opinions).statistic, abs=1e-12
        )


@given(
    arrays.arrays(np.float64, 9, elements=st.floats(-1e3, 1e3, width=32), unique=True),
    st.randoms(use_true_random=False),
)
def test_ranks_ignore_monotone_maps_and_flip_with_the_sign(scores, random) -> None:
    opinions = np.array(random.sample(range(9), 9), np.float64)
    for statistic in (agreement.srcc, agreement.krcc):
        value = statistic(scores, opinions)
        assert -1 <= value <= 1
        assert statistic(np.cbrt(scores), opinions) == pytest.approx(value, abs=1e-12)
        assert statistic(-scores, opinions) == pytest.approx(-value, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_units_neither_under_nor_overflow(scale: float) -> None:
    scores, opinions = sample(0)
    expected = scipy.stats.pearsonr(scores, opinions).statistic
    assert agreement.plcc(scale * scores, opinions) == pytest.approx(expected)


@pytest.mark.parametrize("statistic", [agreement.srcc, agreement.plcc, agreement.krcc])
def test_a_constant_metric_agrees_with_nothing(statistic) -> None:
    assert statistic([0.1] * 5, [1, 2, 3, 4, 5]) == 0


ORDERED = {
    "srcc": agreement.srcc,
    "plcc": agreement.plcc,
    "krcc": agreement.krcc,
    "map": agreement.jnd_map,
    "fit of 4": agreement.fit_logistic,
    "fit of 5": partial(agreement.fit_logistic, parameters=5),
    "spread": lambda _, opinions: agreement.spread_ratio(
        opinions, references=list("aabbccdd")
    ),
    "within": lambda scores, opinions: agreement.within_references(
        agreement.srcc, scores, opinions, references=list("aaaabbbb")
    ),
}
"""Whatever compares scores with opinions that must differ, as functions of both."""


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("name", ORDERED)
def test_equal_opinions_define_nothing(name: str, share: float) -> None:
    """No 0, which is a metric's fault, and no 1, which would be its merit."""
    with pytest.raises(
        AgreementError, match=r"all (opinions|same) are|opinions differ"
    ):
        ORDERED[name](np.arange(8), [share] * 8)


@pytest.mark.parametrize(
    ("name", "few"),
    [("srcc", 2), ("plcc", 2), ("krcc", 2), ("fit of 4", 4), ("fit of 5", 5)],
)
def test_what_any_metric_would_reach_is_not_given(name: str, few: int) -> None:
    """A line meets two points, a curve as many as it has parameters."""
    scores, opinions = sample(0)
    with pytest.raises(AgreementError, match=f"has {few} values: {few + 1} are needed"):
        ORDERED[name](scores[:few], opinions[:few])
    ORDERED[name](scores[: few + 1], opinions[: few + 1])


def test_rmse_and_outliers() -> None:
    assert agreement.rmse([1, 2, 3], [1, 2, 6]) == pytest.approx(3**0.5)
    assert agreement.outlier_ratio([1, 2, 3, 4], [1, 4, 6, 4.5], [1, 1, 1, 0.1]) == 0.5


@pytest.mark.parametrize(
    ("opinion", "higher_is_better", "sign"),
    [
        ("mos", False, -1),
        ("mos", True, 1),
        ("dmos", False, 1),
        ("dmos", True, -1),
        ("level", False, 1),
        ("same", False, -1),
    ],
)
def test_directions_come_from_names(opinion, higher_is_better, sign) -> None:
    oriented = agreement.orient([1, 3], opinion, higher_is_better=higher_is_better)
    assert oriented.tolist() == [sign, 3 * sign]


PUBLISHED = {
    # human ceiling, AlexNet: of the distances that the data come with, by their authors
    "traditional": (80.84, 77.48),
    "cnn": (84.35, 82.87),
    "superres": (73.60, 71.19),
    "deblur": (66.09, 61.04),
    "color": (68.83, 65.23),
    "frameinterp": (68.61, 62.43),
}


@pytest.mark.parametrize("subset", PUBLISHED)
def test_two_afc_on_all_of_bapps(shared, subset: str) -> None:
    path = shared("data/bapps_2afc_val_judge") / f"alex_{subset}.csv"
    with path.open(newline="") as file:
        rows = [[float(x) for x in row[1:]] for row in csv.reader(file)]
    d0, d1, credit, judgement = np.array(rows).T
    ceiling, alexnet = PUBLISHED[subset]
    # Published to two decimals of a per cent.
    assert 100 * agreement.two_afc_human(judgement) == pytest.approx(ceiling, abs=0.01)
    assert 100 * agreement.two_afc(d0, d1, judgement) == pytest.approx(
        alexnet, abs=0.01
    )
    assert agreement.two_afc(d0, d1, judgement) == pytest.approx(credit.mean())


def test_two_afc_by_hand() -> None:
    assert agreement.two_afc([1, 2, 3], [2, 1, 3], [0.2, 0.6, 1]) == pytest.approx(
        (0.8 + 0.6 + 0.5) / 3
    )
    assert agreement.two_afc_human([0, 1, 0.5]) == pytest.approx((1 + 1 + 0.5) / 3)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    """A share is a positive and a negative of that weight."""
    rng = np.random.default_rng(0)
    distances = rng.normal(size=300)
    if ties:
        distances = distances.round(1)
    same = rng.integers(0, 4, 300) / 3
    expected = average_precision_score(
        np.repeat([1, 0], 300),
        -np.concatenate([distances, distances]),
        sample_weight=np.concatenate([same, 1 - same]),
    )
    value = agreement.jnd_map(distances, same, interpolated=False)
    assert value == pytest.approx(expected, abs=1e-12)
    assert agreement.jnd_map(distances, same) >= value


def test_interpolated_precision_by_hand() -> None:
    # Precisions 1/1, 1/2, 2/3 at recalls 1/2, 1/2, 1: the best beyond are 1, 2/3, 2/3.
    value = agreement.jnd_map([1, 2, 3], [1, 0, 1])
    assert value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Precisions 0, 1/2, 2/3: from the first on the best beyond is 2/3.
    assert agreement.jnd_map([1, 2, 3], [0, 1, 1]) == pytest.approx(2 / 3)
    assert agreement.jnd_map([1, 2, 3], [0, 1, 1], interpolated=False) == pytest.approx(
        0.5 * 1 / 2 + 0.5 * 2 / 3
    )


FITS = [
    (8.0, 1.0, 0.4, 0.1),  # rising
    (1.0, 8.0, 0.4, 0.1),  # falling, as a distance against mean opinion scores
    (90.0, -10.0, 0.3, 0.02),  # nearly a step
    (4.0, 8.0, 0.4, 0.1, 0.5),
    (-30.0, 6.0, 0.6, -8.0, 40.0),
]


@pytest.mark.parametrize("units", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("parameters", FITS)
def test_fits_recover_what_made_the_data(parameters, units: float) -> None:
    """On data without noise, in any units of the score."""
    x = np.linspace(0, 1, 60)
    if len(parameters) == 4:
        b1, b2, b3, b4 = parameters
        y = (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4))) + b2
        scaled = (b1, b2, b3 * units, b4 * units)
    else:
        b1, b2, b3, b4, b5 = parameters
        y = b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5
        scaled = (b1, b2 / units, b3 * units, b4 / units, b5)
    fit = agreement.fit_logistic(x * units, y, parameters=len(parameters))
    # Of what the opinions span: least squares stop at a relative 1e-8.
    np.testing.assert_allclose(fit(x * units), y, atol=1e-5 * np.ptp(y))
    found = np.array(fit.parameters)
    if len(parameters) == 5 and found[1] * scaled[1] < 0:
        found[:2] *= -1  # the same curve
    if len(parameters) == 4 and (found[0] - found[1]) * (b1 - b2) < 0:
        found[:2] = found[1::-1]
    np.testing.assert_allclose(found, scaled, rtol=1e-3, atol=1e-3 * abs(b1))


@pytest.mark.parametrize("parameters", [4, 5])
def test_a_fit_is_no_worse_than_the_mean_and_keeps_the_order(parameters: int) -> None:
    for seed in range(3):
        scores, opinions = sample(seed)
        fit = agreement.fit_logistic(scores, opinions, parameters=parameters)
        assert agreement.rmse(fit(scores), opinions) < opinions.std()
        if parameters == 4:
            assert np.all(np.diff(fit(np.sort(scores))) >= 0)


def test_fits_of_odd_data() -> None:
    with pytest.raises(AgreementError, match="all scores are 3"):
        agreement.fit_logistic([3] * 6, [1, 2, 3, 4, 5, 6])
    with pytest.raises(AgreementError, match=r"3 parameters: .* 4 and of 5"):
        agreement.fit_logistic([1, 2], [1, 2], parameters=3)
    with pytest.raises(AgreementError, match="scores has 3 values: 5 are needed"):
        agreement.fit_logistic([1, 2, 3], [1, 2, 3])


def test_intervals_cover_at_their_rate() -> None:
    """Data made of references with an effect of their own, whose true mean is 0.

    300 intervals of 95 %: a rate of 0.95 has a standard error of 0.0126, and the
    percentile bootstrap of 30 units is known to cover some 1 to 2 % too little.
    Rows resampled without regard to references would cover less than 0.6 here.
    """
    references = np.repeat(np.arange(30), 8)
    covered = 0
    for trial in range(300):
        rng = np.random.default_rng(trial)
        values = rng.normal(size=30)[references] + 0.5 * rng.normal(size=240)
        interval = agreement.bootstrap(
            np.mean, values, references=references, samples=300, seed=trial
        )
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_better_metric_beats_and_the_same_one_does_not() -> None:
    rng = np.random.default_rng(0)
    references = np.repeat(np.arange(25), 20).astype(str)
    opinions = rng.normal(size=500)
    good, poor = (opinions + s * rng.normal(size=500) for s in (0.3, 1))
    beats = agreement.bootstrap_difference(
        agreement.srcc, good, poor, opinions, references=references
    )
    assert beats.low > 0.1
    assert beats.p_value == 2 / 1001
    same = agreement.bootstrap_difference(
        agreement.srcc, good, good, opinions, references=references
    )
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("shift", [-5.0, -2.0, -0.7, 0.0, 0.4, 5.0])
@pytest.mark.parametrize("samples", [1, 19, 400])
def test_p_values_are_scipys(shift: float, samples: int) -> None:
    """SciPy's Monte Carlo test of 0 among the draws: (r + 1) / (n + 1), two-sided."""
    drawn = np.random.default_rng(samples).normal(shift, size=samples)
    found = agreement.difference((shift, drawn), (0.0, np.zeros(samples)))
    expected = scipy.stats.monte_carlo_test(
        [0.0],
        lambda size: drawn.reshape(size),
        lambda x, axis: x.sum(axis),
        n_resamples=samples,
    )
    assert found.p_value == pytest.approx(min(float(expected.pvalue), 1))
    assert found.p_value >= min(2 / (samples + 1), 1)


def test_equal_metrics_differ_at_the_stated_rate() -> None:
    """150 pairs of equally good metrics: 5 % have p < 0.05, with a standard error of
    1.8 %, and a percentile bootstrap of 25 units finds 1 to 2 % too many.
    """
    references = np.repeat(np.arange(25), 20)
    found = 0
    for trial in range(150):
        rng = np.random.default_rng(1000 + trial)
        opinions = rng.normal(size=500)
        first, second = (opinions + 0.3 * rng.normal(size=500) for _ in range(2))
        interval = agreement.bootstrap_difference(
            agreement.plcc,
            first,
            second,
            opinions,
            references=references,
            samples=200,
            seed=trial,
        )
        found += interval.p_value < 0.05
    assert 0.01 <= found / 150 <= 0.12


def test_pairs_of_columns_are_compared_too() -> None:
    rng = np.random.default_rng(0)
    judgement = rng.integers(0, 6, 200) / 5
    right = np.stack([judgement, 1 - judgement])  # nearer where people said so
    interval = agreement.bootstrap_difference(
        agreement.two_afc, right, right[::-1], judgement, references=np.arange(200)
    )
    assert interval.low > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: agreement.srcc([1, np.nan, np.inf], [1, 2, 3]),
            "2 values .* first at 1",
        ),
        (lambda: agreement.srcc([1, 2], [1, 2, 3]), "scores 2, opinions 3"),
        (lambda: agreement.srcc([1], [1]), "scores has 1 values: 3 are needed"),
        (lambda: agreement.srcc([[1, 2]], [[1, 2]]), r"scores has shape \(1, 2\)"),
        (lambda: agreement.two_afc([1], [2], [2]), "judgement goes from 2 to 2"),
        (lambda: agreement.two_afc([], [], []), "d0 has 0 values"),
        (lambda: agreement.jnd_map([1, 2], [0, 0]), "no pair was taken for the same"),
        (lambda: agreement.orient([1], "score", higher_is_better=True), "'score'"),
        (
            lambda: agreement.bootstrap(np.mean, [1, 2], references=["a", "a"]),
            "1 reference: .* two at least",
        ),
        (
            lambda: agreement.bootstrap_draws(
                np.mean, [1, 2], references=["a", "b"], samples=0
            ),
            "0 samples: a bootstrap needs one",
        ),
        (
            lambda: agreement.bootstrap_draws(
                lambda x: np.nan, [1, 2], references=["a", "b"], samples=4
            ),
            "of 4 of 4 resamplings is NaN or inf",
        ),
        (
            lambda: agreement.difference((0.1, [0.1, 0.2]), (0.2, [0.1])),
            "2 draws of one metric and 1 of the other",
        ),
        (
            lambda: agreement.bootstrap(np.mean, [1, 2], references=["a"]),
            r"have \[1, 2\] rows",
        ),
        (
            lambda: agreement.bootstrap(
                np.mean, [1, 2], references=["a", "b"], confidence=95
            ),
            "confidence is 95",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(AgreementError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
