"""Calibrations: SciPy and simulated opinions; their direction, scale and legend."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

import spips_jax
from spips_jax import agreement, metric
from spips_jax.calibration import (
    GRADES,
    Calibration,
    fit_choices,
    fit_opinions,
)

MOS = Calibration("mos", (0.5, 8.5, 0.4, 0.1), (0.0, 9.0), "ours", 60, 0.5)
DMOS = Calibration("dmos", (110.0, -5.0, 0.4, 0.1), (0.0, 100.0), "ours", 60, 4.0)
PREFERENCE = Calibration("preference", (0.1,), (0.0, 1.0), "ours", 60, 0.2)
EACH = pytest.mark.parametrize("calibration", [MOS, DMOS, PREFERENCE])


def choices(seed: int, *, s: float, votes: int = 5) -> tuple[np.ndarray, ...]:
    """Distances of two images, and the shares of votes that `s` makes of them."""
    rng = np.random.default_rng(seed)
    d0, d1 = rng.gamma(2, 0.2, (2, 5000))
    share = rng.binomial(votes, scipy.special.expit((d0 - d1) / s)) / votes
    return d0, d1, share


def test_values_are_the_equations() -> None:
    x = np.linspace(0, 2, 101)
    # Float64 in another order of operations.
    expected = (0.5 - 8.5) * scipy.special.expit((x - 0.4) / 0.1) + 8.5
    np.testing.assert_allclose(MOS(x), expected, rtol=1e-13)
    expected = np.clip(115 * scipy.special.expit((x - 0.4) / 0.1) - 5, 0, 100)
    np.testing.assert_allclose(DMOS(x), expected, rtol=1e-12)
    difference = np.linspace(-2, 2, 101)
    np.testing.assert_allclose(
        PREFERENCE(difference), scipy.special.expit(difference / 0.1), rtol=1e-13
    )
    assert PREFERENCE(0.0) == 0.5


@EACH
@given(data=st.data())
def test_opinions_are_monotone_and_on_the_scale(calibration, data) -> None:
    numbers = st.floats(-1e300, 1e300)
    scores = np.sort(data.draw(st.lists(numbers, min_size=2, max_size=20)))
    opinions = calibration(scores)
    low, high = calibration.scale
    assert opinions.min() >= low
    assert opinions.max() <= high
    steps = np.diff(opinions) * (-1 if calibration.opinion == "mos" else 1)
    # exp is rounded: neighbouring scores may swap by a last digit of the scale.
    assert steps.min() >= -1e-14 * (high - low)


@EACH
def test_the_shape_is_kept(calibration) -> None:
    for shape in ((), (3,), (2, 0), (2, 3)):
        opinions = calibration(np.full(shape, 0.3, np.float32))
        assert isinstance(opinions, np.ndarray)
        assert (opinions.shape, opinions.dtype) == (shape, np.float64)


@pytest.mark.parametrize("units", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("made_by", [MOS, DMOS])
def test_opinions_give_back_what_made_them(made_by, units: float) -> None:
    x = np.linspace(0, 1, 60)
    top, bottom, centre, width = made_by.parameters
    opinions = (top - bottom) * scipy.special.expit((x - centre) / width) + bottom
    fitted = fit_opinions(
        units * x, opinions, opinion=made_by.opinion, scale=made_by.scale, dataset="set"
    )
    # Without noise; least squares stop at a relative 1e-8.
    np.testing.assert_allclose(
        fitted.parameters, (top, bottom, units * centre, units * width), rtol=1e-3
    )
    assert (fitted.opinion, fitted.scale) == (made_by.opinion, made_by.scale)
    assert (fitted.dataset, fitted.examples) == ("set", 60)
    held = np.clip(opinions, *made_by.scale)
    # Of opinions up to 110, fitted to the 1e-5 of what they span that least squares do.
    assert fitted.rmse == pytest.approx(agreement.rmse(held, opinions), abs=1e-3)


def test_opinions_with_noise() -> None:
    rng = np.random.default_rng(0)
    scores = rng.gamma(2, 0.2, 3000)
    opinions = np.clip(MOS(scores) + rng.normal(0, 0.5, 3000), 0, 9)
    fitted = fit_opinions(
        scores, opinions, opinion="mos", scale=(0, 9), dataset="simulated"
    )
    # 3,000 opinions off by 0.5 fix a curve of 4 parameters to some 0.5 sqrt(4 / 3000)
    # = 0.02 in the mean; three times that where scores are few.
    np.testing.assert_allclose(fitted(scores), MOS(scores), atol=0.06)
    assert fitted.rmse == pytest.approx(0.5, rel=0.05)  # its error is 1.3 %


@pytest.mark.parametrize("units", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("s", [0.02, 0.3, 5.0])
def test_choices_have_the_maximum_likelihood(s: float, units: float) -> None:
    d0, d1, share = choices(0, s=s)
    fitted = fit_choices(units * d0, units * d1, share, dataset="set")

    def cross_entropy(log_s: float) -> float:
        z = (d0 - d1) / math.exp(log_s)
        return float(np.mean(np.logaddexp(0, z) - share * z))

    found = scipy.optimize.minimize_scalar(
        cross_entropy, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}
    )
    # A minimum is flat: it is found to the root of what float64 resolves.
    assert fitted.parameters[0] / units == pytest.approx(math.exp(found.x), rel=1e-6)
    # 25,000 votes; at s = 5 they are nearly even, and tell little: 3 standard errors.
    slope = np.mean((d0 - d1) ** 2 * 5 / 4) / s**2
    error = 1 / math.sqrt(slope * len(share))
    assert fitted.parameters[0] / units == pytest.approx(s, rel=max(3 * error, 0.1))
    assert fitted.rmse == pytest.approx(
        agreement.rmse(scipy.special.expit((d0 - d1) / math.exp(found.x)), share)
    )


def test_shares_that_the_curve_meets_are_met() -> None:
    """Where all differences are small, s lies at the end of its bracket."""
    for s in (0.02, 1.0, 1e4):
        d0 = np.array([0.3, 0.1, 0.2])
        d1 = np.array([0.2, 0.2, 0.2])
        share = scipy.special.expit((d0 - d1) / s)
        fitted = fit_choices(d0, d1, share, dataset="set")
        # Shares hold 1/2 + 2.5e-6 at s = 1e4: to 16 digits of 1/2, 11 of the rest.
        assert fitted.parameters[0] == pytest.approx(s, rel=1e-9)


def test_grades_are_fifths_of_the_scale() -> None:
    for calibration in (MOS, DMOS):
        rows = calibration.legend()
        assert [word for word, _, _ in rows] == list(GRADES)
        assert (rows[0][1], rows[-1][2]) == (0, math.inf)
        assert all(a[2] == b[1] for a, b in itertools.pairwise(rows))
        borders = [row[2] for row in rows[:-1]]
        low, high = calibration.scale
        fifths = np.linspace(low, high, 6)[1:-1]
        if calibration.opinion == "mos":
            fifths = fifths[::-1]
        # The inverse, in float64.
        np.testing.assert_allclose(calibration(borders), fifths, rtol=1e-12)


@pytest.mark.parametrize(
    ("opinion", "parameters", "borders"),
    [
        ("mos", (0.9, 5.1, 0.4, 0.1), [4.5, 3.5, 2.5, 1.5]),
        ("dmos", (5.1, 0.9, 0.4, 0.1), [1.5, 2.5, 3.5, 4.5]),
    ],
)
def test_grades_of_a_scale_from_1_to_5_are_its_numbers(opinion, parameters, borders):
    calibration = Calibration(opinion, parameters, (1, 5), "ours", 9, 0.1)
    found = [row[2] for row in calibration.legend()[:-1]]
    np.testing.assert_allclose(calibration(found), borders, rtol=1e-12)  # float64


def test_grades_that_are_never_reached_are_left_out() -> None:
    # From 4.1 at a score of 0 down to 3, on fifths of 0 to 5: borders 4, 3, 2, 1.
    calibration = Calibration("mos", (3.5, 5.0, 0.1, 0.1), (0, 5), "ours", 9, 0.1)
    words = [row[0] for row in calibration.legend()]
    assert words == ["imperceptible", "perceptible, but not annoying"]
    assert calibration.legend()[-1][2] == math.inf
    # At a score of 0 the curve is below 4 already.
    calibration = Calibration("mos", (0.0, 5.0, -0.2, 0.1), (0, 5), "ours", 9, 0.1)
    assert calibration.legend()[0][0] == "very annoying"
    assert calibration.legend()[0][1:] == (0, math.inf)


def test_the_legend_of_preferences() -> None:
    rows = PREFERENCE.legend()
    assert [word for word, _, _ in rows] == [
        "50 to 60 % prefer the reference",
        "60 to 75 % prefer the reference",
        "75 to 90 % prefer the reference",
        "90 to 100 % prefer the reference",
    ]
    assert (rows[0][1], rows[-1][2]) == (0, math.inf)
    found = PREFERENCE([row[2] for row in rows[:-1]])
    np.testing.assert_allclose(found, [0.6, 0.75, 0.9], rtol=1e-12)  # float64


@EACH
def test_json_gives_back_the_same(calibration) -> None:
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert hash(again) == hash(calibration)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opinion": "level"}, "opinion 'level' is not one of mos, dmos, preference"),
        ({"opinion": ["mos"]}, r"opinion \('mos',\) is not one of"),
        (
            {"opinion": "dmos"},
            "dmos goes from 8.5 to 0.5 as the scores rise, the",
        ),
        ({"parameters": [0.5, 8.5, 0.4]}, "of mos .* finite numbers, 4 of them"),
        ({"parameters": [0.5, 8.5, 0.4, math.nan]}, "nan.: a tuple is needed"),
        ({"parameters": [0.5, 8.5, 0.4, 10**400]}, "a tuple is needed"),
        ({"parameters": [0.5, 8.5, 0.4, True]}, "a tuple is needed"),
        ({"parameters": "four"}, "of mos 'four': a tuple is needed"),
        ({"parameters": [0.5, 8.5, 0.4, 0.0]}, "the curve's width is 0.0: it must"),
        ({"parameters": [8.5, 0.5, 0.4, 0.1]}, "mos goes from 0.5 to 8.5 as the sc"),
        ({"parameters": [5.0, 5.0, 0.4, 0.1]}, "mos goes from 5 to 5"),
        ({"scale": [9.0, 0.0]}, r"scale \(9.0, 0.0\): the lowest opinion comes first"),
        ({"scale": [0.0, 4.0, 9.0]}, "scale .* finite numbers, 2 of them"),
        ({"opinion": "preference", "parameters": [0.1]}, r"is a share, in \(0, 1\)"),
        (
            {"opinion": "preference", "parameters": [-0.1], "scale": [0, 1]},
            "the curve's width is -0.1",
        ),
        ({"dataset": ""}, "dataset '': it must be the name of a set"),
        ({"dataset": 7}, "dataset 7: it must be"),
        ({"examples": 0}, "examples 0: it must be a whole number from 1 on"),
        ({"examples": 2.5}, "examples 2.5: it must be a whole number"),
        ({"rmse": -1.0}, "rmse -1.0: it must be a number from 0 on"),
        ({"rmse": None}, "rmse None: it must be"),
        ({"more": 1}, "a calibration has opinion, parameters, .*'more'"),
    ],
)
def test_values_that_are_none_are_one_clear_line(change, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Calibration.from_dict({**MOS.to_dict(), **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [{}, {"opinion": "mos"}, [], None, "mos"])
def test_other_values_than_all_are_refused(values) -> None:
    with pytest.raises(ValueError, match="a calibration has opinion, param"):
        Calibration.from_dict(values)


def opinions_of(scores, opinions, *, opinion="mos", scale=(0, 9)):
    return fit_opinions(scores, opinions, opinion=opinion, scale=scale, dataset="set")


def choices_of(d0, d1, judgement):
    return fit_choices(d0, d1, judgement, dataset="set")


FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: opinions_of(FIVE, [1, 2, 4, 6, 8]), "mos goes from .* the wrong way"),
        (
            lambda: opinions_of(FIVE, [8, 6, 4, 2, 1], opinion="dmos"),
            "dmos goes from .* the wrong way",
        ),
        (lambda: opinions_of(FIVE, FIVE, opinion="level"), "'level': it is mos or dmo"),
        (lambda: opinions_of(FIVE, [5] * 5), "all opinions are 5: there is nothing"),
        (lambda: opinions_of([1] * 5, FIVE), "all scores are 1: there is nothing"),
        (lambda: opinions_of(FIVE, FIVE[1:]), "scores 5, opinions 4"),
        (lambda: opinions_of([1, 2], [2, 1]), "scores has 2 values: 5 are needed"),
        (
            lambda: opinions_of([-1, 1, 2, 3, 4], [5, 4, 3, 2, 1]),
            "scores goes down to -1: a distance is never below 0",
        ),
        (
            lambda: opinions_of(FIVE, [8, 6, 4, 2, 1], scale=(0, 1)),
            "opinions go from 1 to 8: they are not on the scale from 0 to 1",
        ),
        (
            lambda: opinions_of(FIVE, [8, 6, 4, 2, 1], scale=(9, 0)),
            "the lowest opinion comes first",
        ),
        (lambda: choices_of(FIVE, FIVE, FIVE), "d0 and d1 are equal throughout"),
        (lambda: choices_of(FIVE, FIVE[::-1], [0.5] * 5), "as often as the farther on"),
        (
            lambda: choices_of([1, 2], [2, 1], [0.9, 0.1]),
            "the farther image more oft",
        ),
        (
            lambda: choices_of([1, 2], [2, 1], [0, 1]),
            "without exception: the sm",
        ),
        (lambda: choices_of([1, 2], [2, 1], [0, 2]), "judgement goes from 0 to 2"),
        (lambda: choices_of([], [], []), "d0 has 0 values"),
        (lambda: choices_of([1], [2, 3], [1]), "d0 1, d1 2"),
        (
            lambda: choices_of([-1, 2], [2, 1], [0.2, 0.9]),
            "d0 goes down to -1: a distance is never below 0",
        ),
    ],
)
def test_data_that_cannot_be_fitted_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


class TestOfAMetric:
    """`Metric.calibrate` and what a calibration does to a metric: nothing."""

    @pytest.fixture
    def plain(self, random_metric):
        return random_metric("alexnet")

    def test_opinions(self, plain):
        scores = np.linspace(0, 1, 60)
        calibrated = plain.calibrate(
            scores, MOS(scores), opinion="mos", scale=(0, 9), dataset="set"
        )
        assert calibrated.calibration == opinions_of(scores, MOS(scores))
        assert plain.calibration is None

    def test_choices(self, plain):
        d0, d1, share = choices(0, s=0.3)
        calibrated = plain.calibrate(
            (d0, d1), share, opinion="preference", dataset="set"
        )
        assert calibrated.calibration == choices_of(d0, d1, share)

    def test_scores_and_programs_stay(self, plain, pair):
        calibrated = plain.replace(calibration=MOS)
        images = pair(40, 44)
        expected = plain(*images)
        programs = metric._score._cache_size()
        np.testing.assert_array_equal(calibrated(*images), expected)
        assert metric._score._cache_size() == programs, "nothing is compiled anew"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"opinion": "mos"}, "scale is None: give lowest and highest mos"),
            ({"opinion": "level", "scale": (0, 1)}, "'level': it is mos or dmos"),
            ({"opinion": "preference", "scale": (0, 1)}, "leave it out"),
            ({"opinion": "preference"}, "scores are 5: preferences need .* two images"),
        ],
    )
    def test_wrong_calls_are_one_clear_line(self, plain, arguments, message):
        with pytest.raises(ValueError, match=message) as error:
            plain.calibrate(FIVE, FIVE, dataset="set", **arguments)
        assert "\n" not in str(error.value)

    def test_a_metric_that_is_no_distance_is_refused(self):
        psnr = spips_jax.load("psnr")
        with pytest.raises(ValueError, match="psnr is higher for better images"):
            psnr.calibrate(FIVE, FIVE, opinion="mos", scale=(0, 9), dataset="set")
