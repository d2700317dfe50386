"""On real images and real opinions: the numbers that others measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from spips_jax import evaluation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tid2013")]


def test_lpips_and_psnr_are_the_published_ones(
    rebuilt_tid2013: tuple[Path, Path, list[dict[str, str]]],
    real_weights: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """All 1,784 images; LPIPS as the oracle fed it, (0, 1) for (-1, 1)."""
    _, data_dir, rows = rebuilt_tid2013
    config = evaluation.default()
    config.data_dir = str(data_dir)
    config.worst = 0
    config.samples = 100
    config.models.lpips = evaluation.model(
        "lpips-alexnet",
        weights=str(real_weights("alexnet")),
        head=str(real_weights("lpips-alexnet")),
        value_range=(-1, 1),
    )
    config.models.psnr = evaluation.model("psnr")
    config.data.tid2013 = evaluation.dataset("tid2013")
    done = evaluation.evaluate(config, tmp_path)
    assert not done.errors
    with (tmp_path / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    exact = np.array([row["provenance"] == "exact" for row in rows])
    assert exact.sum() == 703
    mos = np.array([float(row["mos"]) for row in rows])
    for label, column, sign in (
        ("lpips", "oracle_lpips", -1),
        ("psnr", "oracle_psnr", 1),
    ):
        found = np.array([float(row[label]) for row in scores])
        oracle = np.array([float(row[column]) for row in rows])
        # The genuine file: per image. Digits were cut after eight places.
        np.testing.assert_allclose(found[exact], oracle[exact], rtol=1e-3, atol=1e-6)
        # The others are fresh realisations of the same distortion.
        expected = sign * scipy.stats.spearmanr(oracle, mos).statistic
        srcc = done.results["sets"]["tid2013"]["models"][label]["srcc"]
        assert srcc["value"] == pytest.approx(expected, abs=0.005)
        assert srcc["low"] < expected < srcc["high"]
