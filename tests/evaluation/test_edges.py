"""What has no number: constant scores, one reference, NaN, ties, bad configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from spips_jax import agreement, data, evaluation
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation import figures, report
from spips_jax.evaluation.results import disagreements, results_of
from spips_jax.evaluation.statistics import agreements
from spips_jax.weights import WeightsError

PAIRS = "pair_list/tiny"


def said(dataset: Dataset, **scores: np.ndarray) -> dict:
    """Results of scores that rise with quality; plain JSON without NaN."""
    found = results_of(
        dataset,
        scores,
        higher_is_better=dict.fromkeys(scores, True),
        samples=40,
        confidence=0.95,
        seed=0,
    )
    return json.loads(json.dumps(found, allow_nan=False))


def falling(dataset: Dataset) -> np.ndarray:
    """Scores that agree with a set of pairs."""
    return np.asarray(dataset.index["mos"], np.float32)[:, None]


def test_a_constant_metric(sets: Path) -> None:
    """Orders nothing: 0, not NaN; no fit, and a note that says why."""
    dataset = data.load(PAIRS, data_dir=sets)
    constant = np.full((len(dataset), 1), 0.25, np.float32)
    found = said(dataset, constant=constant, good=falling(dataset))
    values = found["models"]["constant"]
    for name in ("srcc", "plcc", "krcc"):
        assert values[name] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert values["plcc_4"] is values["fit_4"] is values["plcc_5"] is None
    assert "rmse" not in values
    assert any("all scores are 0.25" in note for note in found["notes"])
    assert found["models"]["good"]["srcc"]["value"] == pytest.approx(1)
    assert found["differences"][0]["value"] == pytest.approx(-1)


def test_one_reference(sets: Path) -> None:
    """Values without intervals, and no differences; the note says so once."""
    dataset = data.load(PAIRS, data_dir=sets).exclude_references(["r0", "r1"])
    found = said(dataset, good=falling(dataset), better=falling(dataset))
    assert found["models"]["good"]["srcc"] == {"value": 1.0, "low": None, "high": None}
    assert found["differences"] == []
    assert len([note for note in found["notes"] if "two at least" in note]) == 1


EQUAL = {"mos": 3.0, "level": 2, "same": 0.5}
"""Opinions that are all equal, by their name; of choices they decide as any others."""


def undefined(dataset: Dataset, how: str) -> Dataset:
    """A set that no metric can be measured on."""
    if how == "equal":
        column = np.full_like(dataset.index[dataset.opinion], EQUAL[dataset.opinion])
        return replace(dataset, index={**dataset.index, dataset.opinion: column})
    return dataset.select([0, 3]) if how == "two" else dataset.select([0])


def missing(one: dict) -> set[str]:
    """The statistics of a metric that are null."""
    return {name for name, value in one.items() if value is None}


@pytest.mark.parametrize("how", ["equal", "two", "one"])
@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        (PAIRS, {"srcc", "plcc", "krcc", "srcc_within", "plcc_4", "plcc_5"}),
        ("pair_list/points", {"srcc", "plcc", "krcc", "srcc_within", "plcc_4"}),
        ("synthetic/scenes", {"srcc", "plcc", "krcc", "krcc_within"}),
        ("bapps_jnd", {"map"}),
    ],
)
def test_what_is_not_defined_is_null_and_has_a_note(
    sets: Path, name: str, nothing: set[str], how: str
) -> None:
    """Of every kind: no 0, no 1, no RMSE of 0; and no difference of two metrics."""
    dataset = undefined(data.load(name, data_dir=sets), how)
    scores = np.arange(len(dataset), dtype=np.float32)[:, None]
    if name == "bapps_jnd" and how == "two":
        return  # one share of 0.2 and one of 0.6: the nearer pair can be found
    found = said(dataset, up=scores, down=-scores)
    for one in found["models"].values():
        assert missing(one) >= nothing
        assert "rmse" not in one
    assert found["differences"] == []
    for statistic in nothing:
        known = [n for n in found["notes"] if statistic in n or "fit of" in n]
        assert known, statistic
    with pytest.raises(agreement.AgreementError):  # what training's validation sees
        agreements(dataset, scores)


def test_parts_that_define_nothing_are_told_and_not_averaged(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part of three has two examples, one equal opinions: the mean is of one."""
    dataset = data.load(PAIRS, data_dir=sets)
    level = np.repeat([1, 2, 3], [2, 6, 13]).astype(np.int32)
    mos = np.where(level == 2, 4, dataset.index["mos"]).astype(np.float32)
    dataset = replace(dataset, index={**dataset.index, "level": level, "mos": mos})
    rng = np.random.default_rng(0)
    noisy = (mos + rng.normal(size=len(mos)))[:, None]
    found = said(dataset, good=falling(dataset), noisy=noisy)
    parts = found["models"]["noisy"]["parts"]["level"]
    assert [parts[part]["value"] is None for part in "123"] == [True, True, False]
    told = {
        "set": {"name": PAIRS}, "selected": 21, "published": None, "failed": {},
        "seen": {}, "scores": {}, **found,
    }  # fmt: skip
    text = "\n".join(report._parts(told, "level"))
    assert "| 1 | 2 | n/a | n/a |" in text
    assert "| 2 | 6 | n/a | n/a |" in text
    assert f"| mean over 1 of the 3 |  | 1.000 | {parts['3']['value']:.3f} |" in text
    assert "\nn/a: too few examples" in text
    sizes = []
    for most, name in ((60, "bars.png"), (5, "matrix.png")):  # six bars
        monkeypatch.setattr(figures, "_MOST_BARS", most)
        figures.write_bars(tmp_path / name, told, column="level", title="by level")
        with Image.open(tmp_path / name) as picture:
            sizes.append(picture.size)
    assert sizes[0] != sizes[1]


def test_equal_scores_share_their_rank(sets: Path) -> None:
    import scipy.stats

    dataset = data.load(PAIRS, data_dir=sets)
    tied = np.round(falling(dataset))
    found = said(dataset, tied=tied)["models"]["tied"]
    expected = scipy.stats.spearmanr(tied[:, 0], dataset.index["mos"]).statistic
    assert found["srcc"]["value"] == pytest.approx(expected)
    expected = scipy.stats.kendalltau(tied[:, 0], dataset.index["mos"]).statistic
    assert found["krcc"]["value"] == pytest.approx(expected)


def test_ties_of_choices_count_one_half(sets: Path) -> None:
    dataset = data.load("bapps", data_dir=sets)
    found = said(dataset, tied=np.ones((len(dataset), 2), np.float32))
    assert found["models"]["tied"]["two_afc"]["value"] == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(
    config: Callable[..., ConfigDict], tmp_path: Path, value: float
) -> None:
    """One clear line; the other metrics' numbers are all there."""
    made = config()
    first = evaluation.evaluate(made, tmp_path)
    file = tmp_path / "scores" / "pair_list-tiny" / "psnr.csv"
    lines = file.read_text().splitlines()
    lines[5] = f"{lines[5].split(',')[0]},{value}"
    file.write_text("\n".join(lines) + "\n")
    done = evaluation.evaluate(made, tmp_path)
    (error,) = done.errors
    assert error.startswith("psnr on pair_list/tiny: 1 of 21 scores are NaN or inf")
    assert lines[5].split(",")[0] in error
    assert done.results["sets"][PAIRS]["models"]["psnr"].keys() == {"error"}
    ssim = [one.results["sets"][PAIRS]["models"]["ssim"] for one in (first, done)]
    assert ssim[0] == ssim[1]
    tables = (tmp_path / "results.md").read_text()
    assert "| psnr | higher | n/a |" in tables
    assert error.partition(": ")[2] in tables
    assert "nan" not in tables.replace("NaN or inf", "").lower()
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)


def test_disagreements_are_the_worst(sets: Path) -> None:
    dataset = data.load(PAIRS, data_dir=sets)
    mos = np.asarray(dataset.index["mos"], np.float64)
    scores = mos.copy()
    best = int(np.argmax(mos))
    scores[best] = mos.min() - 1  # the best image, taken for the worst
    assert disagreements(dataset, (scores, mos), count=3)[0] == best
    assert disagreements(dataset, (mos, mos), count=3) == []
    choices = data.load("bapps", data_dir=sets)
    judgement = np.full(len(choices), 0.4)
    judgement[4] = 1.0
    d0, d1 = np.full(len(choices), 0.1), np.full(len(choices), 0.2)
    assert disagreements(choices, (d0, d1, judgement), count=3) == [4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": {}}, "there are no models to evaluate: name them with --model"),
        ({"data": {}}, "there are no data to evaluate: name them with --data"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"samples": 0}, "samples is 0"),
        ({"num_threads": 0}, "num_threads is 0"),
        ({"worst": -1}, "worst is -1"),
        ({"confidence": 1.0}, r"confidence is 1: it must be in \(0, 1\)"),
        ({"distributed": "maybe"}, "distributed is 'maybe'"),
        ({"models.psnr.name": "vgg"}, "model 'vgg' is not one of spips-"),
        ({"models.psnr.dtype": "float16"}, "float32 or bfloat16"),
        ({"models.psnr.value_range": (1.0, 0.0)}, "the first must be below"),
        ({"models.psnr.head": "x"}, "psnr"),
        ({"models.psnr.trained": False}, "but psnr has no uniform head"),
        ({"data.one.fold": "6/5"}, "data.one.fold: fold is '6/5'"),
        ({"data.one.split": "none"}, "has no split 'none'"),
        ({"data.one.name": "other"}, "set 'other' is not one of"),
        ({"data.one.exclude_references": "r9"}, "has no reference r9"),
        ({"data.one.exclude_references": "r0,r1,r2"}, "no example is left"),
        ({"models.psnr.name": "gone.safetensors"}, "gone.safetensors: no such file"),
    ],
)
def test_bad_values_are_one_line_before_any_work(
    config: Callable[..., ConfigDict], tmp_path: Path, fields: dict, message: str
) -> None:
    made = config(models=("psnr",), sets_named=())
    made.data.one = evaluation.dataset(PAIRS)
    for name, value in fields.items():
        if value == {}:
            made[name] = ConfigDict()
        else:
            made.update_from_flattened_dict({name: value})
    errors = (evaluation.EvaluationError, data.DataError, WeightsError)
    with pytest.raises(errors, match=message) as caught:
        evaluation.evaluate(made, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
