"""Whatever a config says is used or refused, with the nearest name that there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ml_collections import ConfigDict

from spips_jax import evaluation, training
from spips_jax.evaluation import config as evaluation_config
from spips_jax.messages import UserError
from spips_jax.training import config as training_config


def trained() -> ConfigDict:
    """A training config without a fault."""
    config = training.default()
    config.data.train.a = training.source("tid2013", {"plcc": 1}, part="training")
    config.data.validation.a = training.held("tid2013", part="held_out")
    return config


def evaluated() -> ConfigDict:
    """An evaluation config without a fault."""
    config = evaluation.default()
    config.models.psnr = evaluation.model("psnr")
    config.data.tid2013 = evaluation.dataset("tid2013")
    return config


def test_those_without_a_fault_pass() -> None:
    training_config.check(trained())
    evaluation_config.check(evaluated())


TRAINING: dict[str, tuple[Any, str]] = {
    "num_stesp": (3, "did you mean num_steps"),
    "optim.learning_rat": (1e-3, "did you mean learning_rate"),
    "optim.multipliers.haed": (0.5, "did you mean head"),
    "model.classic": ("psnr", "did you mean classical"),
    "data.training": ({}, "did you mean train"),
    "data.train.a.wieght": (2.0, "data.train.a: .*did you mean weight"),
    "data.train.a.losses.plccc": ("1", "weight above 0"),
    "data.train.b": ({"set": "live"}, "data.train.b.split: is missing"),
    "data.train.c": ("live", "data.train.c: is 'live'; it has the fields set"),
    "data.validation.a.prat": ("all", "validation.a: .*did you mean part"),
    "data.validation.a.part": ("held-out", "did you mean held_out"),
    "data.train": ("tid2013", "data.train is 'tid2013': it must have named parts"),
    "data.train.a.unit": (4, "grouped is False"),
    "data.train.a.flip": ("no", "data.train.a.flip is 'no': it must be True or Fal"),
    "data.train.a.weight": ("2", "data.train.a.weight is '2': it must be a number"),
    "data.fold": ("2-5", "data.fold is '2-5': write it as 3/5"),
    "num_steps": (2.5, "num_steps is 2.5: it must be a whole number"),
    "seed": (True, "seed is True: it must be a whole number"),
    "name": (3, "name is 3: it must be a text"),
    "model.dtype": ("floaf32", "did you mean float32"),
    "model.classical": ("psnr,sism", "each once; did you mean ssim"),
    "model.streams": ("perceptual,semantics", "this order; did you mean semantic"),
}

EVALUATION: dict[str, tuple[Any, str]] = {
    "smaples": (3, "did you mean samples"),
    "models.psnr.trianed": (False, "models.psnr: .*did you mean trained"),
    "models.psnr.value_range": ((0.0, 1.0, 2.0), "there must be two numbers"),
    "data.tid2013.exclude_refs": ("I01", "did you mean exclude_references"),
    "data.tid2013.fold": ("1/1", "data.tid2013.fold: fold is '1/1'"),
    "data.live": ({"name": "live"}, r"data.live.\w+: is missing"),
    "models": (["psnr"], "models is .* it must have named parts"),
    "worst": ("ten", "worst is 'ten': it must be a whole number"),
    "distributed": ("autp", "did you mean auto"),
}


@pytest.mark.parametrize(
    ("make", "check", "field", "value", "message"),
    [
        (make, check, field, *case)
        for make, check, cases in (
            (trained, training_config.check, TRAINING),
            (evaluated, evaluation_config.check, EVALUATION),
        )
        for field, case in cases.items()
    ],
)
def test_faults_are_refused_in_a_line(
    make: Callable[[], ConfigDict],
    check: Callable[[ConfigDict], None],
    field: str,
    value: Any,
    message: str,
) -> None:
    config = make()
    *path, name = field.split(".")
    node = config
    for part in path:
        node = node[part]
    with config.ignore_type():  # as in a config that was read from a file
        node[name] = value
    with pytest.raises(UserError, match=message) as caught:
        check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: training.source("tid2013", {"plcc": 1.0}, wieght=2.0),
        lambda: training.source("tid2013", {"plcc": 1.0}, prat="training"),
        lambda: training.held("tid2013", prat="held_out"),
        lambda: training.held("tid2013", weight=2.0),
    ],
)
def test_options_of_a_set_are_checked_where_they_are_given(
    call: Callable[[], object],
) -> None:
    with pytest.raises(training.TrainingError, match=r"has no field '\w+'; it has"):
        call()


def test_a_fold_that_holds_out_nothing_is_refused() -> None:
    config = trained()
    config.data.fold = "2/5"
    training_config.check(config)
    config.data.train.a.part = config.data.validation.a.part = "all"
    with pytest.raises(training.TrainingError, match="it would hold out nothing"):
        training_config.check(config)
