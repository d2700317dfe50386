"""The fields of a training config, and the checks of their values.

Every config starts from `default()`, so that every field can be overridden on the
command line (`--config.optim.learning_rate=3e-4`). `loop.train`
and `setup` take it apart; no step sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from spips_jax import backbones, parallel
from spips_jax.classical import MAPS
from spips_jax.data.splits import parse_fold, parse_names
from spips_jax.fields import check_fields, check_names
from spips_jax.loading import MODELS
from spips_jax.messages import UserError, hint
from spips_jax.spips import CLASSICAL, STATISTICS, STREAMS


class TrainingError(UserError):
    """A run that cannot start or continue; one line that says why and what to do."""


def default() -> ConfigDict:
    """Returns a config with every field except the sets, made by `source` and `held`.

    Numbers of steps count batches.
    """
    return ConfigDict(
        {
            "name": "",  # of the exported model; spips-<backbone>-<name>
            "seed": 0,
            "num_steps": 2000,
            "batch_size": 64,  # examples over all devices
            "distributed": "auto",  # join the processes of several hosts: yes, no
            "model": {
                "name": "spips-alexnet",
                "weights": "",  # the backbone's file; "random" for random ones
                "teacher": "",  # a backbone to learn from: training.distill
                "dtype": "float32",  # of the backbone: float32 or bfloat16
                # Inputs of the head; other values are for ablations.
                "streams": ",".join(STREAMS),
                "statistics": ",".join(STATISTICS),
                "classical": ",".join(CLASSICAL),
                "head": "monotone",  # or free
                "width": 32,  # hidden units of the head
                # Paths of the parameters to train: see training.state.partition.
                "trainable": "perceptual,semantic,head,gain",
            },
            "data": {
                "data_dir": "",  # folder of the prepared sets; TFDS's own
                "train": {},
                "validation": {},
                "fold": "1/5",  # which of the folds by reference is held out
                "exclude_references": "",  # from training, comma-separated
                "exclude_shared": "",  # sets whose photographs are excluded
                "cache": True,  # keep pooled pairs if the backbone is frozen
                "cache_dir": "",  # SPIPS_HOME/pooled
                "num_workers": 0,  # processes that read ahead
                "num_threads": 4,  # threads that read, in each
            },
            "optim": {
                "learning_rate": 3e-3,
                "schedule": "cosine",  # decay to 0: cosine, linear, constant
                "warmup_steps": 100,
                "hold_steps": 0,  # at the highest rate before the decay
                "weight_decay": 1e-4,
                "b1": 0.9,
                "b2": 0.999,
                "clip": 1.0,  # largest gradient norm; 0 for no clipping
                "accumulate": 1,  # batches whose mean gradient makes one update
                "average": 0.99,  # decay of the parameters' average; 0 for none
                "multipliers": {  # of the learning rate
                    "backbone": 0.01,
                    "perceptual": 0.3,
                    "semantic": 0.3,
                    "head": 1.0,
                    "gain": 1.0,
                    "ranker": 1.0,
                    "adapter": 1.0,
                },
            },
            "validate": {"every": 500, "batch_size": 8},
            "checkpoint": {"every": 500, "keep": 3},
            "log": {"every": 50},
        }
    )


def source(dataset: str, losses: Mapping[str, float], **options: Any) -> ConfigDict:
    """A set to train on, for `config.data.train.<label>`.

    Args:
      dataset: its name, as `spips data list` gives.
      losses: weights by name: plcc, rank, l1 for scores and grades, and, with a
        teacher, features, differences; ranker, choice for forced choices.
      **options: `split`, "" for all; `part`, "all" or "training": all references or
        those that `config.data.fold` does not hold out; `weight`, how often a batch is
        drawn from it; `crop`, a side in pixels, 0 for whole images; `flip`; `grouped`
        and `unit`, as `data.Source` has them; `scale`, the difference in distance that
        counts as clear.

    Raises:
      TrainingError: an option that there is not.
    """
    return _entry("training.source", _SOURCE, options, set=dataset, losses=dict(losses))


def held(dataset: str, **options: Any) -> ConfigDict:
    """A set to validate on, for `config.data.validation.<label>`.

    Args:
      dataset: its name.
      **options: `split`; `part`, "all" or "held_out": all references or those that
        `config.data.fold` holds out.

    Raises:
      TrainingError: an option that there is not.
    """
    return _entry("training.held", _HELD, options, set=dataset)


_SOURCE: Mapping[str, Any] = {
    "set": "",
    "split": "",
    "part": "all",
    "weight": 1.0,
    "crop": 0,
    "flip": False,
    "grouped": False,
    "unit": 8,
    "scale": 0.05,
    "losses": {},
}
"""The fields of a set to train on, and what they are by default."""

_HELD: Mapping[str, Any] = {"set": "", "split": "", "part": "all"}
"""The fields of a set to validate on."""

_PARTS = {"train": ("all", "training"), "validation": ("all", "held_out")}


def _entry(
    maker: str, like: Mapping[str, Any], options: Mapping[str, Any], **given: Any
) -> ConfigDict:
    try:
        check_names(maker, options, [name for name in like if name not in given])
    except UserError as error:
        raise TrainingError(str(error)) from None
    return ConfigDict({**like, **options, **given})


_POSITIVE = (
    "num_steps", "batch_size", "model.width", "data.num_threads", "optim.learning_rate",
    "optim.accumulate", "validate.every", "validate.batch_size", "checkpoint.every",
    "checkpoint.keep", "log.every",
)  # fmt: skip
_NON_NEGATIVE = (
    "data.num_workers", "optim.warmup_steps", "optim.hold_steps", "optim.weight_decay",
    "optim.clip", "optim.average",
)  # fmt: skip
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "model.name": tuple(MODELS),
    "model.teacher": ("", *backbones.BACKBONES),
    "model.dtype": ("float32", "bfloat16"),
    "model.head": ("monotone", "free"),
    "optim.schedule": ("cosine", "linear", "constant"),
    "distributed": parallel.DISTRIBUTED,
}


def check(config: ConfigDict) -> None:
    """Raises `TrainingError` for fields that there are not, or impossible values."""
    try:
        _check_fields(config)
    except UserError as error:
        raise TrainingError(str(error)) from None
    fields = flat(config)
    for name in _POSITIVE:
        if not fields[name] > 0:
            raise TrainingError(f"{name} is {fields[name]}: it must be above 0")
    for name in _NON_NEGATIVE:
        if fields[name] < 0:
            raise TrainingError(f"{name} is {fields[name]}: it must be 0 or more")
    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            raise TrainingError(
                f"{name} is {fields[name]!r}, which is not one of"
                f" {', '.join(filter(None, choices))}{hint(fields[name], choices)}"
            )
    for name, known in (("streams", STREAMS), ("statistics", STATISTICS)):
        given = parse_names(config.model[name])
        if not given or given != [one for one in known if one in given]:
            raise TrainingError(
                f"model.{name} is {config.model[name]!r}: name some of"
                f" {','.join(known)}, in this order{_nearest(given, known)}"
            )
    maps = parse_names(config.model.classical)
    if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(MAPS):
        raise TrainingError(
            f"model.classical is {config.model.classical!r}: name some of"
            f" {','.join(MAPS)}, each once{_nearest(maps, MAPS)}"
        )
    if config.optim.average >= 1:
        raise TrainingError(
            f"optim.average is {config.optim.average}: a decay must be below 1"
        )
    planned = config.optim.warmup_steps + config.optim.hold_steps
    updates = config.num_steps // config.optim.accumulate
    if planned > updates:
        raise TrainingError(
            f"optim.warmup_steps and hold_steps are {planned} together, there are only"
            f" {updates} updates: raise num_steps or lower them"
        )
    for group, parts in _PARTS.items():
        if not config.data[group]:
            raise TrainingError(f"data.{group} names no set: name at least one")
        for label, one in config.data[group].items():
            if one.part not in parts:
                raise TrainingError(
                    f"data.{group}.{label}.part is {one.part!r}: {' or '.join(parts)}"
                    f"{hint(one.part, parts)}"
                )
    for label, one in config.data.train.items():
        weights = one.losses.values()
        if not weights or not all(
            isinstance(weight, int | float) and weight > 0 for weight in weights
        ):
            raise TrainingError(
                f"data.train.{label}.losses is {dict(one.losses)}: give one loss at"
                " least, each with a weight above 0"
            )
        if not one.scale > 0:
            raise TrainingError(
                f"data.train.{label}.scale is {one.scale}: it must be above 0"
            )
        if one.unit != _SOURCE["unit"] and not one.grouped:
            raise TrainingError(
                f"data.train.{label}.unit is {one.unit}, and grouped is False: nothing"
                " is grouped by it; leave it out, or set grouped"
            )
    _check_fold(config)


def _nearest(given: Iterable[str], known: Iterable[str]) -> str:
    """A hint for the first of some names that is not known."""
    known = tuple(known)
    return next((hint(name, known) for name in given if name not in known), "")


def _check_fields(config: ConfigDict) -> None:
    """Raises `UserError` for a field that nothing reads, or of another type."""
    groups = {"data.train": _SOURCE, "data.validation": _HELD}
    check_fields("", config, default(), open_to=groups)
    for group, like in groups.items():
        for label, one in config[group].items():
            where = f"{group}.{label}"
            check_fields(where, one, like, open_to=[f"{where}.losses"])


def _check_fold(config: ConfigDict) -> None:
    """Raises for a malformed fold, or one that holds out nothing."""
    fold = config.data.fold
    try:
        parse_fold(fold)
    except ValueError as error:
        raise TrainingError(f"data.{error}") from None
    parts = [one.part for group in _PARTS for one in config.data[group].values()]
    if fold != default().data.fold and set(parts) == {"all"}:
        raise TrainingError(
            f"data.fold is {fold}, and no set has part training or held_out: it would"
            " hold out nothing"
        )


def check_devices(config: ConfigDict) -> None:
    """Raises `TrainingError` for batches that the devices cannot share."""
    devices = jax.device_count()
    for name, size in (
        ("batch_size", config.batch_size),
        ("validate.batch_size", config.validate.batch_size),
    ):
        if size % devices:
            above = -(-size // devices) * devices
            raise TrainingError(
                f"{name} is {size}, which {devices} devices cannot share evenly: make"
                f" it {above}, or another multiple of {devices}"
            )


FREE = (
    "name", "num_steps", "distributed", "validate.", "checkpoint.", "log.",
    "model.weights", "data.cache", "data.data_dir", "data.num_",
)  # fmt: skip
"""Prefixes of the fields that may differ when a run resumes."""


def check_same(config: ConfigDict, saved: Mapping[str, Any], workdir: str) -> None:
    """Raises `TrainingError` if this config cannot resume a saved run.

    Args:
      config: of this run.
      saved: the config of the checkpoint, as `as_dict` made it.
      workdir: the saved run's, for the message.
    """
    mine, theirs = flat(config), flat(saved)
    for name in sorted(mine.keys() | theirs.keys()):
        if name.startswith(FREE):
            continue
        here, there = mine.get(name, "not there"), theirs.get(name, "not there")
        if here != there:
            raise TrainingError(
                f"{workdir}: was trained with {name} {there!r}, this config has"
                f" {here!r}: resume with the same, or give another workdir"
            )


def as_dict(config: ConfigDict) -> dict[str, Any]:
    """The config as plain values, unchanged by a round trip through JSON."""
    return json.loads(config.to_json())


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """All fields by their dotted names."""
    fields: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, Mapping | ConfigDict):
                walk(value, f"{prefix}{name}.")
            else:
                fields[prefix + name] = value

    walk(config, "")
    return fields
