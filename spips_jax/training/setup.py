"""From a config to its sets, its network and its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from spips_jax import backbones, data, losses, spips, weights
from spips_jax.agreement import OPINIONS, AgreementError
from spips_jax.data.splits import parse_names
from spips_jax.evaluation.statistics import agreements
from spips_jax.loading import MODELS
from spips_jax.messages import hint
from spips_jax.spips import Spips
from spips_jax.training import distill, state, step
from spips_jax.training.config import TrainingError
from spips_jax.training.objectives import LOSSES, RANKER, Objective, check_losses
from spips_jax.training.state import Params, TrainState

RANDOM = "random"
"""Value of `model.weights` for random parameters of the backbone."""

BACKBONE = f"{weights.BACKBONE}/"
"""Prefix of the paths of the backbone's parameters."""

NAMED = 1000
"""References of a set that a card names at most. Sets of more, as BAPPS, are patches
that are each a reference of its own: the splits and the fold tell which were used."""

OpenSet = Callable[[Any], data.Dataset]


@dataclass(frozen=True)
class Sets:
    """The sets of a run, by label.

    Attributes:
      training: to train on.
      objectives: how to train on each.
      validation: to validate on.
    """

    training: dict[str, data.Source]
    objectives: dict[str, Objective]
    validation: dict[str, data.Dataset]

    def card(self) -> dict[str, Any]:
        """What each set holds and over what its opinions compare, for JSON.

        With the ids of its references, unless they are more than `NAMED`.
        """

        def described(dataset: data.Dataset) -> dict[str, Any]:
            references = dataset.references
            return {
                "set": dataset.name,
                "comparable": dataset.comparable,
                "examples": len(dataset),
                "references": len(references),
                **(
                    {"reference_ids": list(references)}
                    if len(references) <= NAMED
                    else {}
                ),
            }

        return {
            "training": {
                label: {
                    **described(source.dataset),
                    "losses": dict(self.objectives[label].weights),
                }
                for label, source in self.training.items()
            },
            "validation": {
                label: described(one) for label, one in self.validation.items()
            },
        }


@dataclass(frozen=True)
class Model:
    """The network of a run and its parameters before any training.

    Attributes:
      network: the network, with the layout of pooled pairs.
      trained: the parameters to train, by path.
      frozen: the others.
      backbone: digest of the backbone's parameters.
    """

    network: step.Network
    trained: Params
    frozen: Params
    backbone: str

    @property
    def fixed(self) -> Params | None:
        """The backbone's parameters; None if any of them is trained."""
        if any(path.startswith(BACKBONE) for path in self.trained):
            return None
        return {
            path: value
            for path, value in self.frozen.items()
            if path.startswith(BACKBONE)
        }


def open_set(config: ConfigDict, one: Any) -> data.Dataset:
    """Opens the whole set that an entry of `data.train` or `data.validation` names."""
    return data.load(one.set, data_dir=config.data.data_dir or None, split=one.split)


def build_sets(config: ConfigDict, open_one: OpenSet) -> Sets:
    """The sets of a config: their folds, without excluded references.

    Args:
      config: names the sets.
      open_one: opens the whole set of an entry.

    Raises:
      TrainingError: losses that do not suit a set, a reference that no set has.
      DataError: a set or a fold that does not exist.
    """
    excluded = set(parse_names(config.data.exclude_references))
    unknown = set(excluded)
    known: set[str] = set()
    training: dict[str, data.Source] = {}
    objectives = {}
    for label, one in config.data.train.items():
        whole = open_one(one)
        dataset = whole
        if one.part == "training":
            dataset, _ = dataset.fold(config.data.fold)
        dataset = dataset.exclude_shared(parse_names(config.data.exclude_shared))
        dataset = dataset.exclude_references(excluded.intersection(whole.references))
        unknown -= set(whole.references)
        known |= set(whole.references)
        training[label] = data.Source(
            dataset=dataset,
            weight=one.weight,
            crop=one.crop or None,
            flip=one.flip,
            grouped=one.grouped,
            unit=one.unit,
        )
        objectives[label] = build_objective(label, dataset, one)
    if unknown:
        raise TrainingError(
            f"data.exclude_references names {', '.join(sorted(unknown))}, which no"
            f" training set has{hint(min(unknown), sorted(known))}"
        )
    found = [source.dataset.name for source in training.values()]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise TrainingError(
            f"data.train has {', '.join(twice)} more than once: join its splits as a+b"
        )
    validation = {}
    for label, one in config.data.validation.items():
        dataset = open_one(one)
        if one.part == "held_out":
            _, dataset = dataset.fold(config.data.fold)
        if not len(dataset):
            raise TrainingError(f"data.validation.{label} has no examples")
        _check_validation(label, dataset)
        validation[label] = dataset
    return Sets(training, objectives, validation)


def _check_validation(label: str, dataset: data.Dataset) -> None:
    """Raises `TrainingError` for opinions that no score can be compared with."""
    shape = len(dataset), len(dataset.kind.compared)
    try:
        # Whether a statistic is defined depends on the opinions alone.
        agreements(dataset, np.arange(np.prod(shape)).reshape(shape))
    except AgreementError as error:
        raise TrainingError(
            f"data.validation.{label}: {dataset.name} measures no agreement: {error}"
        ) from None


def build_objective(label: str, dataset: data.Dataset, one: Any) -> Objective:
    """The objective of an entry of `data.train`.

    Raises:
      TrainingError: losses that do not suit the set, or nothing to learn in it.
    """
    try:
        check_losses(one.losses, dataset.kind, dataset.name)
    except ValueError as error:
        raise TrainingError(f"data.train.{label}.losses: {error}") from None
    if not len(dataset):
        raise TrainingError(f"data.train.{label} has no examples left to train on")
    opinions = dataset.index[dataset.opinion]
    least, most = float(opinions.min()), float(opinions.max())
    if least == most:
        raise TrainingError(
            f"data.train.{label}: all opinions of {dataset.name} are {least:g}, which"
            " leaves nothing to learn"
        )
    falls = OPINIONS[dataset.opinion].higher_is_better
    return Objective(
        kind=dataset.kind,
        opinion=dataset.opinion,
        comparable=dataset.comparable,
        weights=tuple(sorted(one.losses.items())),
        scale=one.scale,
        opinions=(most, least) if falls else (least, most),
    )


def options(config: ConfigDict) -> dict[str, Any]:
    """The attributes of `Spips` except its backbone."""
    return {
        "width": config.model.width,
        "streams": tuple(parse_names(config.model.streams)),
        "statistics": tuple(parse_names(config.model.statistics)),
        "classical": tuple(parse_names(config.model.classical)),
        "monotone": config.model.head == "monotone",
    }


def build_model(config: ConfigDict) -> Model:
    """The network of a config, its parameters split into trained and frozen.

    Raises:
      TrainingError: `model.trainable` names no parameters.
      WeightsError: the backbone's file is missing or cannot be used.
    """
    name = MODELS[config.model.name]
    module = Spips(
        backbone=backbones.build(name, dtype=jnp.dtype(config.model.dtype)),
        **options(config),
    )
    key, backbone_key, ranker_key = jax.random.split(jax.random.key(config.seed), 3)
    if config.model.weights == RANDOM:
        backbone = backbones.initialize(name, backbone_key)
    else:
        backbone = weights.read_network(name, config.model.weights or None)
    params = state.flatten({**spips.initialize(module, key=key), "backbone": backbone})
    try:
        trained, frozen = state.partition(params, config.model.trainable)
    except ValueError as error:
        raise TrainingError(f"model.{error}") from None
    if any(LOSSES[name].needs_ranker for _, name in _losses(config)):
        zero = jnp.zeros((1,))
        ranker = losses.Ranker().init(ranker_key, zero, zero)["params"]
        trained |= state.flatten({RANKER: ranker})
    teacher = None
    if _check_teacher(config, trained):
        teacher = backbones.build(config.model.teacher)
        channels = [
            {tap: count for tap, (*_, count) in _taps(one).items()}
            for one in (name, config.model.teacher)
        ]
        trained |= state.flatten({distill.ADAPTER: distill.adapters(*channels)})
        params = weights.read_network(config.model.teacher)
        frozen |= state.flatten({distill.TEACHER: params})
    return Model(
        network=step.network_of(module, teacher=teacher),
        trained=trained,
        frozen=frozen,
        backbone=weights.digest(backbone),
    )


def _check_teacher(config: ConfigDict, trained: Params) -> bool:
    """Whether the config has a teacher; raises if it does not fit or is not used."""
    teacher = config.model.teacher
    learning = [
        f"data.train.{label}.losses has {name}"
        for label, name in _losses(config)
        if LOSSES[name].needs_teacher
    ]
    if not learning:
        if teacher:
            taught = [name for name, one in LOSSES.items() if one.needs_teacher]
            raise TrainingError(
                f"model.teacher is {teacher}, and no set is trained with the losses"
                f" {' or '.join(taught)}: leave it empty"
            )
        return False
    if not teacher:
        raise TrainingError(
            f"{learning[0]}, and model.teacher is empty: name a backbone to learn from"
        )
    if not any(path.startswith(BACKBONE) for path in trained):
        raise TrainingError(
            f"{learning[0]}, and model.trainable {config.model.trainable!r} has no part"
            " of the backbone, which would learn from the teacher: add backbone"
        )
    student = MODELS[config.model.name]
    sizes = [
        {tap: size for tap, (*size, _) in _taps(one).items()}
        for one in (student, teacher)
    ]
    if sizes[0] != sizes[1]:
        raise TrainingError(
            f"model.teacher is {teacher}, whose taps are not those of {student} in name"
            " and size: lite and alexnet have the same"
        )
    return True


def _losses(config: ConfigDict) -> list[tuple[str, str]]:
    """Each training set's label with each of its losses."""
    return [
        (label, name) for label, one in config.data.train.items() for name in one.losses
    ]


def _taps(network: str) -> dict[str, tuple[int, ...]]:
    """Shapes `(h, w, C)` of a backbone's taps, for an image of odd size."""
    taps, _ = backbones.shapes(network, height=75, width=98)
    return {tap: x.shape[1:] for tap, x in taps.items()}


def build_schedule(config: ConfigDict) -> optax.Schedule:
    """The learning rate by update; an update takes `optim.accumulate` batches."""
    optim = config.optim
    return state.learning_rates(
        learning_rate=optim.learning_rate,
        schedule=optim.schedule,
        warmup_steps=optim.warmup_steps,
        hold_steps=optim.hold_steps,
        num_steps=config.num_steps // optim.accumulate,
    )


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of a config."""
    optim = config.optim
    return state.optimizer(
        build_schedule(config),
        weight_decay=optim.weight_decay,
        b1=optim.b1,
        b2=optim.b2,
        clip=optim.clip,
        accumulate=optim.accumulate,
        multipliers=dict(optim.multipliers),
    )


def build_state(
    config: ConfigDict, model: Model, tx: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    return state.create(model.trained, tx, average=config.optim.average > 0)
