"""Every config in configs/ makes a run, as far as can be told without its sets."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from spips_jax import data
from spips_jax.data.bapps import Bapps
from spips_jax.data.sets import BUILDERS
from spips_jax.kinds import PAIRS, RANKS, Kind
from spips_jax.training import config as config_lib
from spips_jax.training import setup
from spips_jax.training.config import TrainingError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))

SCALES = {
    "mos": (1.0, 5.0), "dmos": (0.0, 100.0), "level": (1, 5), "judgement": (0.0, 1.0),
}  # fmt: skip


@pytest.fixture(params=CONFIGS, ids=[path.stem for path in CONFIGS])
def module(request: pytest.FixtureRequest) -> dict[str, Any]:
    return runpy.run_path(str(request.param))


@pytest.fixture
def config(module: dict[str, Any]) -> ConfigDict:
    return module["get_config"]()


def described(name: str) -> tuple[Kind, str, str, set[str]]:
    """The kind of a set, its opinion, what compares, and splits, from its builder."""
    builder = BUILDERS[name.partition("/")[0]]
    card = getattr(builder, "CARD", None)
    if name == "pair_list/live":  # as configs/release.py describes it
        return PAIRS, "dmos", PAIRS.comparable, {"full"}
    if card is None:  # a builder that makes its card: the synthetic sets
        assert name in ("synthetic/scenes", "synthetic/photos")
        return RANKS, "level", RANKS.comparable, {"full"}
    splits = set(card.counts)
    if builder is Bapps:  # the sizes of its training splits are not counted
        splits = {f"{part}_{subset}" for part, subset in Bapps.SUBSETS}
    return card.kind, card.opinion, card.comparable, splits


def empty_of(config: ConfigDict, one: ConfigDict) -> data.Dataset:
    """A set as the config names it: 20 references, 5 levels, no images behind them."""
    kind, opinion, comparable, splits = described(one.set)
    assert set(filter(None, one.split.split("+"))) <= splits
    levels = np.tile(np.arange(5), 60)
    names = [f"I{number // 15}" for number in range(300)]
    low, high = SCALES[opinion]
    return data.Dataset(
        name=one.set,
        kind=kind,
        opinion=opinion,
        comparable=comparable,
        index={
            "id": np.array([str(number) for number in range(300)]),
            "reference_id": np.array(names),
            "distortion": np.array([f"{number // 5 % 3}" for number in range(300)]),
            "level": levels,
            "height": np.full(300, 256),
            "width": np.full(300, 256),
            opinion: np.linspace(low, high, 300, dtype=np.float32),
        },
        fingerprint="",
        _source=None,
        _rows=np.arange(300),
        _references=frozenset(names),
    )


def test_it_makes_a_run(config: ConfigDict) -> None:
    config_lib.check(config)
    sets = setup.build_sets(config, lambda one: empty_of(config, one))
    sources = list(sets.training.values())
    # Where the backbone stays as it is no source is cropped or flipped, so that what
    # the network makes is cached.
    frozen = "backbone" not in config.model.trainable
    assert all(
        (source.crop is None and not source.flip) == frozen for source in sources
    )
    for source in sources:
        # Names are of this set alone here, so only those of one set can be told apart.
        for label, held in sets.validation.items():
            held_out = config.data.validation[label].part == "held_out"
            if held.name == source.dataset.name and held_out:
                shared = set(held.references) & set(source.dataset.references)
                assert not shared
    with data.train_batches(sources, batch_size=config.batch_size, seed=0):
        pass  # groups that a batch cannot hold raise


@pytest.mark.parametrize("comparable", ["set", "reference"])
@pytest.mark.parametrize("how", ["equal", "few"])
def test_a_validation_that_measures_nothing_is_refused(
    how: str, comparable: str
) -> None:
    """Before any training, which would end at the first validation."""
    path = next(path for path in CONFIGS if path.stem == "tid2013")
    config = runpy.run_path(str(path))["get_config"]()
    (label,) = config.data.validation

    def open_one(one: ConfigDict) -> data.Dataset:
        dataset = replace(empty_of(config, one), comparable=comparable)
        if one is not config.data.validation[label]:
            return dataset
        if how == "few":
            return dataset.select([0, 100])
        return replace(dataset, index={**dataset.index, "mos": np.full(300, 4.0)})

    config.data.validation[label].part = "all"
    with pytest.raises(
        TrainingError,
        match=rf"^data.validation.{label}: tid2013 measures no agreement: .*"
        r"(all opinions are equal|3 are needed|opinions differ)",
    ):
        setup.build_sets(config, open_one)


def test_its_docstring_says_what_came_of_it(module: dict[str, Any]) -> None:
    text = module["__doc__"]
    for word in ("Command", "Hardware", "Time", "Result"):
        assert re.search(rf"^{word}\b.*: ?", text, re.M), word
    stem = Path(module["__file__"]).stem
    assert f"spips train --config {stem} --workdir=" in text


def test_eight_devices_share_its_batches_or_it_says_how(
    module: dict[str, Any], config: ConfigDict
) -> None:
    """A TPU VM of v5e has eight."""
    assert config.validate.batch_size % 8 == 0
    assert config.batch_size % 8 == 0 or "--config.batch_size" in module["__doc__"]


def test_the_rate_of_bapps_follows_the_recipe() -> None:
    """Zhang et al.: 5 epochs at 1e-4, 5 of linear decay, 151.4k triplets by 50."""
    path = next(path for path in CONFIGS if path.stem == "bapps")
    config = runpy.run_path(str(path))["get_config"]()
    schedule = setup.build_schedule(config)
    epoch = 151_400 / 50
    rates = [float(schedule(int(epochs * epoch))) for epochs in (0, 2, 5, 7.5, 10)]
    # The schedule is float32.
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-4, 5e-5, 0], atol=1e-10)
    assert config.num_steps == 10 * epoch
