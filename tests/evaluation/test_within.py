"""Sets whose opinions compare within one reference only: what ranks, what is marked."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from ml_collections import ConfigDict
from PIL import Image

from spips_jax import agreement, evaluation, kinds
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.report import part_statistics
from spips_jax.evaluation.results import disagreements, results_of
from spips_jax.evaluation.statistics import agreements, compared_rows, main_of

REFERENCES, DISTORTIONS, LEVELS = 10, 3, 4


def tournament(comparable: str, *, seed: int = 0) -> Dataset:
    """Mean opinions, the same in all references: points that each has to share."""
    rng = np.random.default_rng(seed)
    versions = DISTORTIONS * LEVELS
    mos = np.concatenate([rng.permutation(versions) for _ in range(REFERENCES)])
    names = np.repeat([f"r{number}" for number in range(REFERENCES)], versions)
    count = len(mos)
    return Dataset(
        name="mine",
        kind=kinds.PAIRS,
        opinion="mos",
        comparable=comparable,
        index={
            "id": np.array([str(number) for number in range(count)]),
            "reference_id": names,
            "distortion": np.tile(
                np.repeat(["blur", "jpeg", "noise"], LEVELS), REFERENCES
            ),
            "level": np.tile(np.arange(LEVELS) + 1, DISTORTIONS * REFERENCES),
            "split": np.full(count, "full"),
            "mos": mos.astype(np.float32),
        },
        fingerprint="",
        _source=None,
        _rows=np.arange(count),
        _references=frozenset(names.tolist()),
    )


def scores_of(dataset: Dataset, noise: float, *, seed: int = 1) -> np.ndarray:
    """Scores of a metric, higher is better, that are off by reference, too."""
    rng = np.random.default_rng(seed)
    mos = np.asarray(dataset.index["mos"], np.float64)
    offsets = dict(
        zip(dataset.references, 6 * rng.normal(size=REFERENCES), strict=False)
    )
    off = np.array([offsets[name] for name in dataset.index["reference_id"].tolist()])
    return (mos + noise * rng.normal(size=len(mos)) + off)[:, None]


def said(dataset: Dataset, scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = results_of(
        dataset, scores, higher_is_better=dict.fromkeys(scores, True),
        samples=200, confidence=0.95, seed=0,
    )  # fmt: skip
    return json.loads(json.dumps(found, allow_nan=False))


def spearmans(dataset: Dataset, scores: np.ndarray, rows: np.ndarray) -> list[float]:
    """SciPy's SRCC of each reference, on some rows."""
    names, mos = dataset.index["reference_id"], dataset.index["mos"]
    return [
        scipy.stats.spearmanr(scores[of, 0], mos[of]).statistic
        for of in (rows & (names == name) for name in dataset.references)
        if of.any()
    ]


@pytest.mark.parametrize(
    ("comparable", "main"), [("set", "srcc"), ("reference", "srcc_within")]
)
def test_both_correlations_are_scipys(comparable: str, main: str) -> None:
    dataset = tournament(comparable)
    scores = scores_of(dataset, 2.0)
    found = said(dataset, {"metric": scores})
    assert found["main"] == main_of(dataset) == main
    assert found["comparable"] == comparable
    values, all_rows = found["models"]["metric"], np.ones(len(dataset), bool)
    overall = scipy.stats.spearmanr(scores[:, 0], dataset.index["mos"]).statistic
    within = np.mean(spearmans(dataset, scores, all_rows))
    assert within > overall + 0.1  # they cannot be taken for each other
    for name, expected in (("srcc", overall), ("srcc_within", within)):
        assert values[name]["value"] == pytest.approx(expected, abs=1e-12)
        assert values[name]["low"] < expected < values[name]["high"]
    # What training's validation sees.
    trained = agreements(dataset, scores, higher_is_better=True)
    assert trained.keys() == {"srcc", "plcc", "krcc", "srcc_within"}
    assert next(iter(trained)) == main
    assert trained["srcc_within"] == pytest.approx(within)
    assert trained["srcc"] == pytest.approx(overall)


def test_differences_are_of_the_mean_within_references() -> None:
    dataset = tournament("reference")
    good, poor = scores_of(dataset, 1.0), scores_of(dataset, 4.0, seed=2)
    found = said(dataset, {"good": good, "poor": poor})
    (difference,) = found["differences"]
    all_rows = np.ones(len(dataset), bool)
    each = np.subtract(*(spearmans(dataset, x, all_rows) for x in (good, poor)))
    assert difference["value"] == pytest.approx(each.mean())
    expected = agreement.bootstrap(
        np.mean, each, references=dataset.references, samples=200
    )
    assert difference["low"] == pytest.approx(expected.low)
    assert difference["high"] == pytest.approx(expected.high)
    assert difference["low"] > 0
    assert difference["p_value"] == 2 / 201  # what 200 draws can show at least


def test_parts_are_within_references_too() -> None:
    """A distortion has four versions of each reference: enough to be ordered."""
    dataset = tournament("reference")
    scores = scores_of(dataset, 2.0)
    parts = said(dataset, {"metric": scores})["models"]["metric"]["parts"]
    for column in ("distortion", "level"):
        for part, value in parts[column].items():
            rows = dataset.index[column].astype(str) == part
            overall = scipy.stats.spearmanr(scores[rows, 0], dataset.index["mos"][rows])
            assert value == {
                "examples": rows.sum(),
                "value": pytest.approx(np.mean(spearmans(dataset, scores, rows))),
                "srcc": pytest.approx(overall.statistic),
            }
    few = dataset.select(dataset.index["distortion"] != "noise")  # two of each level
    parts = said(few, {"metric": scores_of(few, 2.0)})["models"]["metric"]["parts"]
    assert {value["value"] for value in parts["level"].values()} == {None}
    assert all(value["srcc"] is not None for value in parts["level"].values())
    set_parts = said(tournament("set"), {"metric": scores})["models"]["metric"]["parts"]
    assert set_parts["level"]["1"].keys() == {"examples", "value"}


def test_scores_per_reference_are_noticed() -> None:
    """A set that says that its scores compare, while references do not differ."""
    scores = scores_of(tournament("set"), 1.0)
    found = said(tournament("set"), {"metric": scores})
    assert found["spread_ratio"] == 0
    (note,) = [one for one in found["notes"] if "scores per reference" in one]
    assert "the 10 references' mean opinions spread 0.000 times as far" in note
    assert "\n" not in note
    # Where the card says so, there is nothing to notice.
    assert not said(tournament("reference"), {"metric": scores})["notes"]
    seven = tournament("set")
    seven = seven.exclude_references(["r0", "r1", "r2"])
    (note,) = said(seven, {"metric": scores_of(seven, 1.0)})["notes"]
    assert note.startswith("7 references: a bootstrap over so few")
    apart = tournament("set")
    moved = apart.index["mos"] + np.repeat(np.arange(10), 12).astype(np.float32)
    apart = replace(apart, index={**apart.index, "mos": moved})
    found = said(apart, {"metric": scores})
    assert not found["notes"]
    expected = np.std(moved.reshape(10, 12).mean(1)) / np.std(moved)
    assert found["spread_ratio"] == pytest.approx(expected, rel=1e-6)


def test_what_orders_nothing_is_counted() -> None:
    dataset = tournament("reference")
    mos = dataset.index["mos"].copy()
    mos[:12] = 5  # of r0, every version
    scores = scores_of(dataset, 1.0)
    scores[12:24] = 3  # of r1
    chosen = np.ones(120, bool)
    chosen[26:36] = False  # leaves two versions of r2
    dataset = replace(dataset, index={**dataset.index, "mos": mos}).select(chosen)
    found = said(dataset, {"metric": scores[chosen]})
    assert found["left_out"] == ["r0", "r2"]
    assert any(
        "srcc_within is without 2 of 10 references" in note and note.endswith("r0, r2")
        for note in found["notes"]
    )
    assert (
        "metric: srcc_within counts 1 references as 0, whose scores are all equal: r1"
        in found["notes"]
    )
    names = dataset.index["reference_id"]
    values = [0.0] + [
        scipy.stats.spearmanr(
            scores[chosen][names == name, 0], dataset.index["mos"][names == name]
        ).statistic
        for name in dataset.references[3:]
    ]
    value = found["models"]["metric"]["srcc_within"]["value"]
    assert value == pytest.approx(np.mean(values))


def test_where_no_reference_can_be_ordered() -> None:
    """It is said once, not for every metric; a run in training ends in one line."""
    pairs = tournament("reference").select(np.arange(0, 120, 6))  # two of each
    scores = {name: scores_of(pairs, 1.0) for name in ("first", "second")}
    found = said(pairs, scores)
    assert found["left_out"] == list(pairs.references)
    assert found["models"]["first"]["srcc_within"] is None
    assert found["models"]["first"]["srcc"]["value"] is not None
    assert found["differences"] == []
    notes = [note for note in found["notes"] if "no srcc_within" in note]
    assert notes == [
        "no srcc_within: none of 10 references has 3 examples whose opinions differ:"
        " there is no agreement within a reference"
    ]
    with pytest.raises(agreement.AgreementError, match="none of 10 references"):
        agreements(pairs, scores["first"], higher_is_better=True)
    whole = replace(pairs, comparable="set")
    assert agreements(whole, scores["first"]).keys() == {"srcc", "plcc", "krcc"}


@pytest.mark.parametrize(
    ("comparable", "columns"),
    [
        ("set", ()),
        ("reference", ("reference_id",)),
        ("group", ("reference_id", "distortion")),
    ],
)
def test_disagreements_are_among_what_compares(
    comparable: str, columns: tuple[str, ...]
) -> None:
    dataset = tournament(comparable)
    keys = list(zip(*(dataset.index[name].tolist() for name in columns), strict=True))
    keys = keys or [()] * len(dataset)
    groups = compared_rows(dataset)
    assert sorted(row for rows in groups for row in rows) == list(range(len(dataset)))
    for rows in groups:
        key = keys[rows[0]]
        assert rows == [row for row, other in enumerate(keys) if other == key]
    # Offsets of whole references disagree with people only where these compare.
    scores = scores_of(dataset, 0.0)[:, 0]
    mos = np.asarray(dataset.index["mos"], np.float64)
    worst = disagreements(dataset, (scores, mos), count=5)
    assert len(worst) == (5 if comparable == "set" else 0)


def test_parts_show_what_they_have() -> None:
    """Within references where there is one; overall, too, where some part has none."""
    within, overall = ("value", "srcc_within"), ("srcc", "srcc")
    for values, expected in (
        ((0.5, 0.6), [within]),
        ((0.5, None), [within, overall]),
        ((None, None), [overall]),
    ):
        parts = {
            str(number): {"examples": 9, "value": value, "srcc": 0.1}
            for number, value in enumerate(values)
        }
        one = {"main": "srcc_within", "models": {"x": {"parts": {"level": parts}}}}
        assert part_statistics(one, "level") == expected
    parts = {"0": {"examples": 1, "value": None}}  # of a set that compares as a whole
    one = {"main": "srcc", "models": {"x": {"parts": {"level": parts}}}}
    assert part_statistics(one, "level") == [("value", "srcc")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("points")


@pytest.fixture
def report(whole: Path, config: Callable[..., ConfigDict]) -> tuple[Path, dict]:
    """A report on sets of three protocols, made once."""
    if not (whole / "results.json").exists():
        sets = ("pair_list/points", "pair_list/tiny", "synthetic/scenes")
        done = evaluation.evaluate(config(sets_named=sets, worst=1), whole)
        assert not done.errors
    return whole, json.loads((whole / "results.json").read_text())


def section(folder: Path, name: str) -> str:
    text = (folder / "results.md").read_text()
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_report_says_over_what_opinions_compare(
    report: tuple[Path, dict],
) -> None:
    folder, results = report
    for name, words in (
        ("pair_list/points", "opinions compare within one reference only."),
        ("pair_list/tiny", "opinions compare over the whole set."),
        ("synthetic/scenes", "opinions compare within one distortion of one reference"),
    ):
        assert f"By the set's card, {words}" in section(folder, name)
    with (folder / "scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "pair_list/points"]
    mos = np.array([float(row["value"]) for row in rows]).reshape(3, 7)
    ratio = mos.mean(1).std() / mos.std()
    found = results["sets"]["pair_list/points"]
    assert found["spread_ratio"] == pytest.approx(ratio, rel=1e-6)
    assert f"is {ratio:.3f} times that of all" in section(folder, "pair_list/points")
    assert "spread_ratio" not in results["sets"]["synthetic/scenes"]
    assert "standard deviation" not in section(folder, "synthetic/scenes")


def test_what_the_protocol_does_not_support_is_marked(
    report: tuple[Path, dict],
) -> None:
    folder, results = report
    points = section(folder, "pair_list/points")
    head = next(line for line in points.splitlines() if line.startswith("| metric |"))
    assert head == (
        "| metric | better | SRCC within a reference | SRCC† | PLCC† | KRCC† | PLCC,"
        " 4-parameter fit† | PLCC, 5-parameter fit† | RMSE† | outlier ratio† |"
    )
    assert points.count("\n† Over all examples") == 1
    assert "does not support it: opinions compare within one reference only." in points
    assert "Differences in SRCC within a reference, both metrics" in points
    assert "SRCC within a reference by distortion:" in points
    # Of a level there is one version of each reference: the overall one is shown.
    assert "SRCC within a reference by level" not in points
    assert "\nSRCC† by level, for want of three versions of each" in points
    assert "SRCC† by distortion" not in points
    tiny = section(folder, "pair_list/tiny")
    assert "†" not in tiny
    assert "| metric | better | SRCC | PLCC | KRCC |" in tiny
    assert "SRCC within a reference |" in tiny
    scenes = section(folder, "synthetic/scenes")
    assert "SRCC† | PLCC† | KRCC† | KRCC within a distortion |" in scenes
    assert "Differences in SRCC†" in scenes
    one, other = (
        results["sets"][name]["models"]["psnr"]
        for name in ("pair_list/points", "pair_list/tiny")
    )
    assert {**one, "parts": None} == {**other, "parts": None}  # nothing else differs


def test_its_figures_are_drawn(report: tuple[Path, dict]) -> None:
    """The scatter has a line more above it; worst is worst within a reference."""
    folder, _ = report
    for name in ("scatter", "by-distortion", "by-level"):
        image = np.asarray(Image.open(folder / f"pair_list-points-{name}.png"))
        assert image.std() > 10
    assert len(list((folder / "worst" / "pair_list-points").glob("*.png"))) == 1
