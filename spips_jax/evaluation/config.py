"""The fields of an evaluation config.

Every config starts from `default()`, so that every field can be overridden on the
command line (`--config.batch_size=16`). Nothing past `run.evaluate` sees a config.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from spips_jax import loading, parallel
from spips_jax.data.builder import DataError
from spips_jax.data.splits import parse_fold
from spips_jax.fields import check_fields
from spips_jax.messages import UserError, hint


class EvaluationError(UserError):
    """An evaluation that cannot be run; one line that says why and what to do."""


def default() -> ConfigDict:
    """Returns a config with every field except the models and sets.

    `model` makes `config.models.<label>`, `dataset` makes `config.data.<label>`. The
    report covers the first model in most detail.
    """
    return ConfigDict(
        {
            "models": ConfigDict(sort_keys=False),  # in the order they are given
            "data": ConfigDict(sort_keys=False),
            "data_dir": "",  # folder of the prepared sets; TFDS's own
            "batch_size": 8,  # examples over all devices
            "num_threads": 4,  # threads that read images
            "distributed": "auto",  # join the processes of several hosts: yes, no
            "samples": 1000,  # bootstrap samples
            "confidence": 0.95,  # level of the bootstrap intervals
            "seed": 0,  # of the bootstrap samples
            "worst": 10,  # worst disagreements of the first model to draw
            "scale": (),  # lowest, highest opinion, to calibrate; the set's own
        }
    )


def model(
    name: str,
    *,
    trained: bool = True,
    weights: str = "",
    head: str = "",
    dtype: str = "float32",
    value_range: tuple[float, float] = (0.0, 1.0),
) -> ConfigDict:
    """A metric to evaluate, for `config.models.<label>`.

    Args:
      name: of a model or a baseline, or a trained model's .safetensors file.
      trained: False uses the uniform head of a SPIPS model given by name.
      weights: the backbone's file; the cache's by default.
      head: the second file of LPIPS and DISTS; the cache's by default.
      dtype: of the backbone: float32 or bfloat16.
      value_range: the range declared to the metric for images in [0, 1]. One other than
        (0, 1) reproduces published numbers of a metric that was given the wrong range,
        as LPIPS often is: (-1, 1).
    """
    return ConfigDict(
        {
            "name": name,
            "trained": trained,
            "weights": weights,
            "head": head,
            "dtype": dtype,
            "value_range": tuple(map(float, value_range)),
        }
    )


def dataset(
    name: str,
    *,
    split: str = "",
    fold: str = "",
    exclude_references: str = "",
    exclude_shared: str = "",
) -> ConfigDict:
    """A set to evaluate on, for `config.data.<label>`.

    Args:
      name: as `spips data list` gives.
      split: one, or several such as "val_cnn+val_color"; all of them by default.
      fold: "2/5" selects the second of five folds by reference, which a model trained
        with `config.data.fold="2/5"` did not see; all examples by default.
      exclude_references: references to exclude, comma-separated.
      exclude_shared: sets, comma-separated; references whose photograph is in one of
        them are excluded.
    """
    return ConfigDict(
        {
            "name": name,
            "split": split,
            "fold": fold,
            "exclude_references": exclude_references,
            "exclude_shared": exclude_shared,
        }
    )


def check_scale(scale: tuple[float, ...]) -> None:
    """Raises `EvaluationError` unless a scale is empty or goes from low to high."""
    if scale and not (len(scale) == 2 and scale[0] < scale[1]):
        raise EvaluationError(
            f"scale is {' '.join(f'{one:g}' for one in scale)}: it must be the lowest"
            " and the highest opinion"
        )


_CHOICES = {"distributed": parallel.DISTRIBUTED}
_POSITIVE = ("batch_size", "num_threads", "samples")


def check(config: ConfigDict) -> None:
    """Raises `EvaluationError` for fields that there are not, or impossible values."""
    try:
        _check_fields(config)
    except UserError as error:
        raise EvaluationError(str(error)) from None
    for field in ("models", "data"):
        if not config[field]:
            flag = "--model" if field == "models" else "--data"
            raise EvaluationError(
                f"there are no {field} to evaluate: name them with {flag} or in a"
                " config"
            )
    for field in _POSITIVE:
        if config[field] < 1:
            raise EvaluationError(f"{field} is {config[field]}: it must be at least 1")
    if config.worst < 0:
        raise EvaluationError(f"worst is {config.worst}: it must be at least 0")
    if not 0 < config.confidence < 1:
        raise EvaluationError(
            f"confidence is {config.confidence:g}: it must be in (0, 1)"
        )
    for field, choices in _CHOICES.items():
        if config[field] not in choices:
            raise EvaluationError(
                f"{field} is {config[field]!r}: it must be one of {', '.join(choices)}"
                f"{hint(config[field], choices)}"
            )
    for label, one in config.models.items():
        _check_model(label, one)
    for label, one in config.data.items():
        if one.fold:
            try:
                parse_fold(one.fold)
            except (ValueError, DataError) as error:
                raise EvaluationError(f"data.{label}.fold: {error}") from None


def _check_model(label: str, one: Any) -> None:
    try:
        loading.check_name(one.name)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    if not one.trained and one.name not in loading.MODELS:
        raise EvaluationError(
            f"models.{label}.trained is False, but {one.name} has no uniform head: only"
            f" {', '.join(loading.MODELS)} have"
        )
    if one.dtype not in ("float32", "bfloat16"):
        raise EvaluationError(
            f"models.{label}.dtype is {one.dtype!r}: it must be float32 or bfloat16"
        )
    limits = tuple(one.value_range)
    if not (len(limits) == 2 and limits[0] < limits[1]):
        raise EvaluationError(
            f"models.{label}.value_range is ({', '.join(f'{x:g}' for x in limits)}):"
            " there must be two numbers, and the first must be below the second"
        )


def _check_fields(config: ConfigDict) -> None:
    """Raises `UserError` for a field that nothing reads, or of another type."""
    entries = {"models": model(""), "data": dataset("")}
    check_fields("", config, default(), open_to=entries)
    for field, like in entries.items():
        for label, one in config[field].items():
            check_fields(f"{field}.{label}", one, like)
