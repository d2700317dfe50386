"""Kinds of sets: what their records say, and that a record is all it takes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.stats

from spips_jax import agreement, kinds
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.results import disagreements, results_of
from spips_jax.evaluation.statistics import agreements, columns
from spips_jax.kinds import KINDS, Kind


def dataset_of(
    kind: Kind, opinion: str, opinions: np.ndarray, *, comparable: str = "set"
) -> Dataset:
    """Examples of four references, without images."""
    count = len(opinions)
    names = np.array([f"I{number % 4}" for number in range(count)])
    return Dataset(
        name="mine",
        kind=kind,
        opinion=opinion,
        comparable=comparable,
        index={
            "id": np.array([str(number) for number in range(count)]),
            "reference_id": names,
            "distortion": np.full(count, ""),
            "level": np.zeros(count, np.int32),
            "split": np.full(count, "full"),
            opinion: opinions,
        },
        fingerprint="",
        _source=None,
        _rows=np.arange(count),
        _references=frozenset(names.tolist()),
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_records_agree_with_themselves(kind: Kind) -> None:
    assert KINDS[kind.name] is kind
    assert {name for pair in kind.compared for name in pair} <= set(kind.images)
    assert set(kind.opinions) <= set(agreement.OPINIONS)
    assert kind.comparable in ("set", "reference", "group")
    assert len(kind.score_names) == len(kind.compared)
    for source in (kind.learned_from, kind.calibrated_from):
        assert source in ("", "opinions", "choices")
    assert pickle.loads(pickle.dumps(kind)) == kind  # readers run in other processes
    assert len({hash(kind), hash(pickle.loads(pickle.dumps(kind)))}) == 1


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("opinion", ["mos", "dmos"])
def test_signs_follow_the_declared_directions(
    opinion: str, higher_is_better: bool
) -> None:
    quality = np.arange(8.0)
    opinions = quality if opinion == "mos" else -quality
    scores = (quality if higher_is_better else -quality)[:, None]
    dataset = dataset_of(kinds.PAIRS, opinion, opinions)
    assert agreements(dataset, scores, higher_is_better=higher_is_better) == {
        "srcc": pytest.approx(1),
        "plcc": pytest.approx(1),
        "krcc": pytest.approx(1),
    }
    found = columns(dataset, scores, higher_is_better=higher_is_better)
    verdict = kinds.PAIRS.verdict(found, 6, higher_is_better, "the set")
    assert verdict == "better than 75 % of the set for the metric, than 75 % for people"


def test_a_kind_is_added_by_its_record() -> None:
    """A toy: three images a row, the spread of two distances is what was rated."""

    def spread(scores, opinions, opinion, higher_is_better):
        return np.abs(scores[:, 0] - scores[:, 1]), opinions

    def spearman(spreads: np.ndarray, opinions: np.ndarray) -> float:
        return float(scipy.stats.spearmanr(spreads, opinions).statistic)

    toy = Kind(
        name="spread",
        images=("reference", "left", "right"),
        compared=(("reference", "left"), ("reference", "right")),
        opinions=("mos",),
        comparable="set",
        statistics=(("srcc", spearman),),
        columns=spread,
        disagreement=lambda spreads, opinions: np.abs(spreads - opinions),
        verdict=lambda columns, row, higher_is_better, among: f"row {row}",
    )
    rng = np.random.default_rng(0)
    scores = rng.random((12, 2))
    opinions = np.abs(scores[:, 0] - scores[:, 1])
    opinions[5] += 3
    dataset = dataset_of(toy, "mos", opinions)
    found = results_of(
        dataset,
        {"metric": scores},
        higher_is_better={"metric": False},
        samples=20,
        confidence=0.9,
        seed=0,
    )
    assert (found["kind"], found["main"]) == ("spread", "srcc")
    expected = scipy.stats.spearmanr(
        np.abs(scores[:, 0] - scores[:, 1]), opinions
    ).statistic
    assert found["models"]["metric"]["srcc"]["value"] == pytest.approx(expected)
    values = columns(dataset, scores, higher_is_better=False)
    assert disagreements(dataset, values, count=1) == [5]
    assert toy.score_names == ("d0", "d1")
