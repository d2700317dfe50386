"""The report: every number from scores that others compute, too, and every file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from ml_collections import ConfigDict
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from spips_jax import agreement, data, evaluation

SETS = ("pair_list/tiny", "synthetic/scenes", "bapps", "bapps_jnd")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("report")}


@pytest.fixture
def report(
    whole: dict[str, Path], config: Callable[..., ConfigDict]
) -> tuple[Path, dict]:
    """A report of two metrics on all kinds of sets, made once."""
    folder = whole["folder"]
    if "results" not in whole:
        done = evaluation.evaluate(
            config(sets_named=SETS, worst=2), folder, command="python evaluate.py"
        )
        assert not done.errors
        whole["results"] = done.files[1]
    return folder, json.loads((folder / "results.json").read_text())


def rows_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Columns of a set in scores.csv."""
    with (folder / "scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == name]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def test_scores_are_skimages(report: tuple[Path, dict], sets: Path) -> None:
    folder, _ = report
    for name in SETS:
        dataset = data.load(name, data_dir=sets)
        columns = rows_of(folder, name)
        pairs = dataset.kind.compared
        assert columns["id"].tolist() == [
            one for one in dataset.index["id"].tolist() for _ in pairs
        ]
        expected = [
            peak_signal_noise_ratio(example[first], example[second])
            for example in dataset
            for first, second in pairs
        ]
        # float32 means of the squared errors
        np.testing.assert_allclose(columns["psnr"].astype(float), expected, rtol=1e-5)


def test_agreement_is_scipys(report: tuple[Path, dict]) -> None:
    folder, results = report
    columns = rows_of(folder, "pair_list/tiny")
    psnr, mos = (columns[name].astype(float) for name in ("psnr", "value"))
    found = results["sets"]["pair_list/tiny"]["models"]["psnr"]
    for name, correlation in (
        ("srcc", scipy.stats.spearmanr),
        ("krcc", scipy.stats.kendalltau),
        ("plcc", scipy.stats.pearsonr),
    ):
        expected = correlation(psnr, mos).statistic
        # scores.csv has the digits that tell a float32 from its neighbours, not all
        assert found[name]["value"] == pytest.approx(expected, abs=1e-7)
        assert found[name]["low"] <= expected <= found[name]["high"]
    b1, b2, b3, b4 = found["fit_4"]
    fitted = (b1 - b2) / (1 + np.exp(-(psnr - b3) / b4)) + b2
    expected = scipy.stats.pearsonr(fitted, mos).statistic
    assert found["plcc_4"]["value"] == pytest.approx(expected, abs=1e-7)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((fitted - mos) ** 2)))
    outside = np.mean(np.abs(fitted - mos) > 2 * 0.5)
    assert found["outlier_ratio"] == pytest.approx(outside)
    for part, value in found["parts"]["distortion"].items():
        rows = columns["distortion"] == part
        expected = scipy.stats.spearmanr(psnr[rows], mos[rows]).statistic
        assert value["examples"] == rows.sum()
        assert value["value"] == pytest.approx(expected, abs=1e-9)


def test_choices_and_jnd_by_hand(report: tuple[Path, dict]) -> None:
    folder, results = report
    columns = rows_of(folder, "bapps")
    psnr = columns["psnr"].astype(float).reshape(-1, 2)
    judgement = columns["value"].astype(float)[::2]
    # a higher PSNR is nearer
    expected = np.where(psnr[:, 1] > psnr[:, 0], judgement, 1 - judgement)
    found = results["sets"]["bapps"]
    assert found["models"]["psnr"]["two_afc"]["value"] == pytest.approx(expected.mean())
    part = found["models"]["psnr"]["parts"]["distortion"]["color"]
    rows = columns["distortion"][::2] == "color"
    assert part == {"examples": 6, "value": pytest.approx(expected[rows].mean())}
    human = np.mean(judgement**2 + (1 - judgement) ** 2)
    assert found["human"]["value"] == pytest.approx(human)

    columns = rows_of(folder, "bapps_jnd")
    psnr, same = (columns[name].astype(float) for name in ("psnr", "value"))
    # Interpolated as in PASCAL VOC: not below the sum of steps.
    steps = sklearn.metrics.average_precision_score(
        np.repeat([1, 0], len(same)), np.tile(psnr, 2),
        sample_weight=np.concatenate([same, 1 - same]),
    )  # fmt: skip
    value = results["sets"]["bapps_jnd"]["models"]["psnr"]["map"]["value"]
    assert steps <= value + 1e-12 <= 1 + 1e-12
    assert value == pytest.approx(agreement.jnd_map(-psnr, same))


def test_ranks_agree_within_a_distortion(report: tuple[Path, dict]) -> None:
    folder, results = report
    columns = rows_of(folder, "synthetic/scenes")
    psnr, level = (columns[name].astype(float) for name in ("psnr", "value"))
    groups = np.char.add(columns["reference_id"], columns["distortion"])
    expected = np.mean(
        [
            -scipy.stats.kendalltau(psnr[groups == g], level[groups == g]).statistic
            for g in set(groups.tolist())
        ]
    )
    found = results["sets"]["synthetic/scenes"]["models"]["psnr"]
    assert found["krcc_within"] == pytest.approx(expected, abs=1e-12)
    assert "level" not in found["parts"]


def test_differences_are_paired(report: tuple[Path, dict]) -> None:
    folder, results = report
    columns = rows_of(folder, "pair_list/tiny")
    first, second, mos = (columns[n].astype(float) for n in ("ssim", "psnr", "value"))
    (found,) = results["sets"]["pair_list/tiny"]["differences"]
    expected = agreement.bootstrap_difference(
        agreement.srcc, first, second, mos,
        references=columns["reference_id"].tolist(), samples=50,
    )  # fmt: skip
    assert (found["first"], found["second"]) == ("ssim", "psnr")
    assert found["low"] == pytest.approx(expected.low)
    assert found["high"] == pytest.approx(expected.high)
    assert found["p_value"] == expected.p_value


def test_every_file_is_there(report: tuple[Path, dict]) -> None:
    folder, results = report
    pngs = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    drawn = {name for name in pngs if not name.startswith("worst/")}
    assert drawn == {
        "pair_list-tiny-scatter.png",
        "pair_list-tiny-by-distortion.png",
        "pair_list-tiny-by-level.png",
        "synthetic-scenes-by-distortion.png",
        "bapps-by-distortion.png",  # by split it would be the same
        "bapps_jnd-by-distortion.png",
    }
    for stem in ("pair_list-tiny", "bapps"):
        assert len([name for name in pngs if name.startswith(f"worst/{stem}/")]) == 2
    for name in pngs:
        image = np.asarray(Image.open(folder / name))
        assert image.std() > 10, name  # something is drawn
    for label in ("ssim", "psnr"):
        model = results["models"][label]
        assert len(model["weights"]) == 64
        assert model["value_range"] == [0.0, 1.0]
        assert model["dtype"] == "float32"
    assert results["packages"]["jax"]
    assert results["command"] == "python evaluate.py"


def test_the_tables_have_the_numbers(report: tuple[Path, dict]) -> None:
    folder, results = report
    text = (folder / "results.md").read_text()
    for name, one in results["sets"].items():
        assert f"\n## {name}\n" in text
        for values in one["models"].values():
            main = values[one["main"]]
            told = f"{main['value']:.3f} [{main['low']:.3f}, {main['high']:.3f}]"
            assert told in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "nan" not in text
    assert not any(math.isnan(x) for x in _numbers(results))
    # Published numbers say that they are, and whose.
    published = text.split("Published by others")[1].split("##")[0]
    assert "not measured here" in published
    assert "| LPIPS-AlexNet | color | 2AFC | 0.653 | [lpips] |" in published
    assert "arXiv 1801.03924" in published


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [x for part in value.values() for x in _numbers(part)]
    if isinstance(value, list):
        return [x for part in value for x in _numbers(part)]
    return [value] if isinstance(value, float) else []
