"""docs/training.md names every field and every option, with its default."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from spips_jax import backbones, training
from spips_jax.kinds import KINDS
from spips_jax.loading import MODELS
from spips_jax.spips import Spips
from spips_jax.training import config as config_lib
from spips_jax.training import step
from spips_jax.training.objectives import LOSSES, suits

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text("utf-8")

ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]*)` \| (\S.*) \|$", re.M)


def rows(text: str) -> list[tuple[str, Any]]:
    """The names and values of a table of `name` | `value` | meaning."""
    found = [(name, ast.literal_eval(value)) for name, value, _ in ROW.findall(text)]
    assert found
    return found


def test_the_table_follows_the_default_config() -> None:
    table = rows(TEXT.partition("\n## Fields\n")[2])
    fields = {"data.train": {}, "data.validation": {}}
    fields |= config_lib.flat(training.default())
    names = [name for name, _ in table]
    assert sorted(names) == sorted(fields)
    for name, value in table:
        assert (type(value), value) == (type(fields[name]), fields[name]), name


def test_the_options_of_a_source_follow_it() -> None:
    start = TEXT.index("| `source` option |")
    section = TEXT[start : TEXT.index("\n\n", start)]
    defaults = training.source("x", {}).to_dict()
    without = {"set", "losses"}  # given always
    assert dict(rows(section)) == {
        name: value for name, value in defaults.items() if name not in without
    }
    for name in without:
        assert f"\n| `{name}` | | " in section


def test_what_may_change_follows_the_check() -> None:
    """Every field that may change is named where it says so, and no other."""
    paragraph = TEXT[TEXT.index("The config must be the same") :].partition(":")[0]
    named = re.findall(r"`([\w.]+)`", paragraph)
    free = {
        name
        for name in config_lib.flat(training.default())
        if name.startswith(config_lib.FREE)
    }
    told = {
        name
        for name in config_lib.flat(training.default())
        if any(
            name == one or (one[-1] == "." and name.startswith(one)) for one in named
        )
    }
    assert told == free


@pytest.mark.parametrize(
    ("kinds", "row"),
    [
        (("pairs", "ranks"), "| pairs (`mos`, `dmos`), ranks (`level`) "),
        (("2afc",), "| 2afc (`judgement`) "),
        (("jnd",), "| jnd (`same`) "),
    ],
)
def test_the_losses_follow_the_step(kinds: tuple[str, ...], row: str) -> None:
    (line,) = (line for line in TEXT.splitlines() if line.startswith(row))
    _, _, losses, statistics, _ = line.split("|")
    for kind in map(KINDS.__getitem__, kinds):
        suited = [name for name, loss in LOSSES.items() if suits(loss, kind)]
        assert re.findall(r"`(\w+)`", losses) == suited
        assert re.findall(r"`(\w+)`", statistics)[0] == kind.main
    for loss in re.findall(r"`(\w+)`", losses):
        assert f"\n| `{loss}` | " in TEXT


def test_all_models_are_named() -> None:
    for name in MODELS:
        assert f"`{name}`" in TEXT


@pytest.mark.parametrize(
    "name", ["spips-alexnet", "spips-lite", "spips-squeezenet", "spips-vgg16"]
)
def test_the_size_of_a_pair_follows_the_network(name: str) -> None:
    network = step.network_of(
        Spips(backbone=backbones.build(MODELS[name], dtype=jnp.float32), width=4)
    )
    (line,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{name}`"))
    assert f"{network.size:,} | {4 * network.size:,} |" in line
