"""Configs by name and by path, and overrides from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from spips_jax.commands import configs, main
from spips_jax.messages import UserError

ROOT = Path(__file__).resolve().parents[2]


def read(name: str, *overrides: str, kind: str = ""):
    return configs.read(name, overrides, kind=kind, fields="docs/training.md")


@pytest.mark.parametrize("kind", ["", "eval"])
def test_every_config_is_found_by_its_name(kind):
    files = list((ROOT / "configs" / kind).glob("*.py"))
    assert files
    for file in files:
        assert configs.find(file.stem, kind) == file
        assert configs.find(str(file), kind) == file


def test_overrides_have_the_types_of_the_fields():
    config = read(
        "quickstart", "--config.num_steps=7", "--config.optim.learning_rate=1",
        "--config.data.cache=false", "--config.data.train.scenes.losses.rank=2",
    )  # fmt: skip
    assert (config.num_steps, config.data.cache) == (7, False)
    rate = config.optim.learning_rate
    assert (type(rate), rate) == (float, 1.0)
    assert config.data.train.scenes.losses.rank == 2.0
    assert read("default", "--config.batch_size=16", kind="eval").batch_size == 16


def test_an_override_may_stand_in_two_words():
    words = ["train", "--config.seed", "3", "--workdir", "x", "--config.name=y"]
    assert configs.split_overrides(words) == (
        ["--config.seed=3", "--config.name=y"],
        ["train", "--workdir", "x"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 // 0\n", r"c\.py, line 2: .*by zero"),
        ("import nothing_of_this_name\n", r"c\.py, line 1: No module named"),
        ("def get_config(:\n", r"c\.py, line 1: invalid syntax"),
        ("def get_config():\n    return {}['x']\n", r"c\.py, line 2: KeyError: 'x'$"),
        ("import sys\ndef get_config():\n    sys.exit(3)\n", r"c\.py, line 3: .*3$"),
        ("import json\ndef get_config():\n    json.loads('{')\n", r"c\.py, line 3: "),
        ("def get_config():\n    return {}\n", r"c\.py: get_config returns a dict, it"),
        ("def get_config(mode):\n    return {}\n", r"c\.py: .*argument: 'mode'"),
        ("get_configs = dict\n", r"c\.py: has no function get_config"),
    ],
)
def test_an_error_in_a_config_is_found(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read(str(tmp_path / "c.py"))
    assert "\n" not in str(caught.value)


FORMULA = """\
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict({"steps": 8, "devices": 2, "optim": {"share": 0}})
    config.optim.share = config.get_ref("steps") // config.get_ref("devices")
    return config
"""


@pytest.mark.parametrize("overrides", [[], ["--config.devices=0"]])
def test_a_formula_that_cannot_be_computed_is_found(tmp_path, overrides):
    """It runs when its field is read, long after `get_config` has returned."""
    path = tmp_path / "c.py"
    path.write_text(FORMULA if overrides else FORMULA.replace('s": 2', 's": 0'))
    with pytest.raises(UserError, match="by zero") as caught:
        read(str(path), *overrides)
    assert str(caught.value).startswith(f"{path}, line 6: ")
    if overrides:
        assert "optim.share cannot be computed" in str(caught.value)
        assert "(with --config.devices=0)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "quickstrat"], "config 'quickstrat' is not one of bapps, .*did"),
        (["--config", "none.py"], "none.py: no such file"),
        (
            ["--config", "quickstart", "--config.lots=3"],
            "no field 'lots' in --con",
        ),
        (
            ["--config", "quickstart", "--config.optim.learning_rat=3"],
            "no field 'learning_rat' in --config.optim.learning_rat=3; docs/training.md"
            r" lists them all; did you mean learning_rate\?\n$",
        ),
        (["--config", "quickstart", "--config.num_steps=x"], "num_steps"),
        (["--config", "quickstart", "--config.seed"], "--config.seed has no value"),
    ],
)
def test_wrong_calls_are_one_line(capsys, tmp_path, words, message):
    import re

    assert main(["train", "--workdir", str(tmp_path / "run"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(f"error: .*{message}", err), err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_commands_without_a_config_take_no_override(capsys):
    assert main(["models", "--config.seed=3"]) == 2
    assert capsys.readouterr().err == (
        "error: --config.seed=3: this command has no config\n"
    )
