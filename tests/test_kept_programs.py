"""Compiled programs are kept of few sizes of images, whoever calls a metric."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import spips_jax
from spips_jax import metric

KEPT = 3
SIDES = range(8, 15)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """No program at first, and those of three sizes at most."""
    monkeypatch.setattr(metric, "SIZES_KEPT", KEPT)
    monkeypatch.setattr(metric, "_sizes_met", {})
    for function in (metric._score, metric._features, metric._explain):
        function.clear_cache()


def image(side: int) -> np.ndarray:
    return np.full((side, 8, 3), 0.5, np.float32)


def psnr(side: int) -> float:
    """Of an image and one that is lighter by 1 / side."""
    return 20 * np.log10(side)


def score(measure: spips_jax.Metric, side: int) -> jax.Array:
    return measure(image(side), image(side) + np.float32(1 / side))


# float32, of a difference of two numbers near 0.5 and a logarithm
CLOSE = {"rtol": 1e-5}


def test_a_loop_over_sizes_keeps_few_programs():
    measure = spips_jax.load("psnr")
    for side in (*SIDES, *SIDES):
        np.testing.assert_allclose(score(measure, side), psnr(side), **CLOSE)
        measure.features(image(side))
        assert metric._score._cache_size() <= KEPT
        assert metric._features._cache_size() <= KEPT


def test_a_size_that_stays_is_compiled_once():
    measure = spips_jax.load("psnr")
    for _ in range(2 * KEPT):
        score(measure, 8)
    assert metric._score._cache_size() == 1


def test_each_metric_has_its_own():
    """Many metrics of few sizes drop nothing."""
    names = ("psnr", "gmsd")
    for name in names:
        for side in SIDES[:KEPT]:
            score(spips_jax.load(name), side)
    assert metric._score._cache_size() == len(names) * KEPT


def test_programs_of_the_caller_stay():
    measure = spips_jax.load("psnr")
    outer = jax.jit(measure)
    for side in (*SIDES, *SIDES):
        lighter = image(side) + np.float32(1 / side)
        np.testing.assert_allclose(outer(image(side), lighter), psnr(side), **CLOSE)
    assert outer._cache_size() == len(SIDES)


def test_derivatives_of_many_sizes():
    measure = spips_jax.load("psnr")
    for side in (*SIDES, SIDES[0]):
        gradient = jax.grad(measure, argnums=1)(image(side), image(side) + 0.1)
        # -10 log10(mean of squares): -20 / ln(10) / (0.1 * number of values) each
        expected = -20 / np.log(10) / (0.1 * gradient.size)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4)  # float32


def test_threads_share_them():
    measure = spips_jax.load("psnr")
    sides = [*SIDES] * 3
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda side: float(score(measure, side)), sides))
    np.testing.assert_allclose(scores, [psnr(side) for side in sides], **CLOSE)
