"""A training run: set up and checked first, then trained, validated, logged, saved."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from ml_collections import ConfigDict

from spips_jax import data, parallel, weights
from spips_jax.cache import cache_compilations, cache_folder
from spips_jax.data.loader import Batch, Batches, eval_plan
from spips_jax.evaluation.batches import run_batches
from spips_jax.evaluation.statistics import agreements as agreements_of
from spips_jax.evaluation.statistics import main_of
from spips_jax.images import MIN_SIZE
from spips_jax.kinds import Kind
from spips_jax.outputs import holds_others
from spips_jax.progress import tracked
from spips_jax.training import config as config_lib
from spips_jax.training import pooled, setup, state, step, validation
from spips_jax.training.checkpoint import Checkpoints, describe
from spips_jax.training.config import TrainingError
from spips_jax.training.logs import Log
from spips_jax.training.setup import Model, Sets
from spips_jax.training.state import Params, TrainState

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"

Agreements = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: batches seen.
      agreements: of the last validation, by set.
      stopped_by: number of the signal that stopped it before its end, or 0.
    """

    step: int
    agreements: Agreements
    stopped_by: int = 0


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> Outcome:
    """Trains a model, resuming from the last checkpoint in `workdir` if there is one.

    Args:
      config: from `config.default`, with its sets.
      workdir: for checkpoints, logs and the resolved config; local or gs://.

    Raises:
      TrainingError: the run cannot start, or its loss is not finite.
      DataError, WeightsError, CheckpointError: from sets, weights and checkpoints.
    """
    config_lib.check(config)
    try:
        parallel.initialize(config.distributed)
    except ValueError as error:
        raise TrainingError(str(error)) from None
    config_lib.check_devices(config)
    cache_compilations()
    folder = epath.Path(workdir).expanduser()
    open_one = partial(setup.open_set, config)
    sets = setup.build_sets(config, open_one)
    model = setup.build_model(config)
    pooling = config.data.cache and model.fixed is not None
    _check_sources(config, sets, pooling=pooling)
    _check_saved(config, model, folder)
    _claim(config, folder)

    frozen = parallel.replicate(model.frozen)
    if pooling:
        sets = setup.build_sets(
            config, partial(open_pooled, config, model, frozen, open_one)
        )
    tx = setup.build_optimizer(config)
    fresh = setup.build_state(config, model, tx)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(folder / CHECKPOINTS, keep=config.checkpoint.keep)
        )
        checkpoint = checkpoints.latest(fresh)
        batches = stack.enter_context(_batches(config, sets))
        first, agreements = 0, {}
        if checkpoint is not None:
            first, fresh = checkpoint.step, checkpoint.state
            agreements = checkpoint.record["agreements"]
            batches.set_state(checkpoint.record["loader"])
        log = stack.enter_context(
            Log(
                folder,
                num_steps=config.num_steps,
                first_step=first,
                writer=parallel.is_writer(),
            )
        )
        if first:
            log.message(f"resuming from step {first} in {folder}")
        run = _Run(
            config=config,
            model=model,
            frozen=frozen,
            sets=sets,
            folder=folder,
            checkpoints=checkpoints,
            batches=batches,
            log=log,
            tx=tx,
        )
        stop = stack.enter_context(parallel.stop_signal())
        return run.go(parallel.replicate(fresh), first, agreements, stop)


def _batches(config: ConfigDict, sets: Sets) -> Batches:
    return data.train_batches(
        list(sets.training.values()),
        batch_size=config.batch_size,
        seed=config.seed,
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )


def _check_sources(config: ConfigDict, sets: Sets, *, pooling: bool) -> None:
    """Raises for sources that yield no batches, before anything is computed."""
    sources = {
        # Pooled pairs have one size even if images do not: any crop can stand for it.
        label: replace(source, crop=MIN_SIZE) if pooling and _whole(source) else source
        for label, source in sets.training.items()
    }
    with _batches(config, replace(sets, training=sources)):
        pass


def _whole(source: data.Source) -> bool:
    """Whether images are used unchanged, so that they can be pooled once."""
    return source.crop is None and not source.flip


def _check_saved(config: ConfigDict, model: Model, folder: epath.Path) -> None:
    """Raises if there is a run in the folder that this one cannot resume."""
    saved = describe(folder / CHECKPOINTS)
    if saved is None:
        return
    config_lib.check_same(config, saved.record["config"], os.fspath(folder))
    theirs = saved.record["backbone"]
    if theirs != model.backbone:
        raise TrainingError(
            f"{folder}: was trained on a backbone of digest {theirs[:16]}...,"
            f" model.weights has {model.backbone[:16]}...: resume with the same, or"
            " give another workdir"
        )


def _claim(config: ConfigDict, folder: epath.Path) -> None:
    """Makes the folder and writes the config; raises if it cannot be written."""
    reason = ""
    if parallel.is_writer():
        text = json.dumps(config_lib.as_dict(config), indent=2) + "\n"
        try:
            if holds_others(folder, ours=lambda: _is_run(folder)):
                raise FileExistsError("it is not empty, and holds no run")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG).write_text(text)
        except OSError as error:
            reason = error.strerror or str(error)
    # All processes raise, or the others would wait for the one that failed.
    if not parallel.everywhere(not reason):
        raise TrainingError(
            f"{folder}: cannot be written ({reason or 'by the first process'}): give"
            " another workdir"
        )


def _is_run(folder: epath.Path) -> bool:
    """Whether there is a run to resume in a folder."""
    if (folder / CHECKPOINTS).exists():
        return True
    try:  # a run that ended before its first checkpoint
        return "num_steps" in json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False


def open_pooled(
    config: ConfigDict, model: Model, frozen: Params, open_one: setup.OpenSet, one: Any
) -> data.Dataset:
    """Opens a set, as pooled pairs if its images are used whole."""
    dataset = open_one(one)
    if one.get("crop") or one.get("flip"):
        return dataset
    assert model.fixed is not None
    digest = weights.digest(state.unflatten(model.fixed))
    folder = config.data.cache_dir or cache_folder() / "pooled"
    maps = ",".join(model.network.module.classical)

    def compute(done: np.ndarray) -> Iterator[pooled.Pair]:
        pool = _eval_step(model, dataset.kind, pool=True)
        # Of the whole set: the batches that are left are the same as without a break.
        plan = eval_plan(dataset, batch_size=config.validate.batch_size)
        pairs = run_batches(
            partial(pool, model.trained, frozen),
            dataset,
            batch_size=config.validate.batch_size,
            num_threads=config.data.num_threads,
            chosen=((plan >= 0) & ~done[np.maximum(plan, 0)]).any(axis=1),
        )
        if not parallel.is_writer():
            return pairs
        what = f"{dataset.name}: running the frozen network once"
        if done.any():
            what += f", {done.sum():,} of {len(done):,} done before"
        return tracked(pairs, total=len(dataset), what=what, done=int(done.sum()))

    return pooled.pooled_dataset(
        dataset,
        folder=folder,
        network=f"{config.model.name} {config.model.dtype} {maps} {digest}",
        compute=compute,
        spare=not config.data.cache_dir,
    )


def _eval_step(
    model: Model, kind: Kind, *, pool: bool = False
) -> Callable[[Params, Params, Batch], Mapping[str, jax.Array]]:
    """`step.eval_step` on all devices, for a batch from the loader."""
    mapped = parallel.mapped(
        partial(step.eval_step, network=model.network, kind=kind, pool=pool)
    )
    return lambda params, frozen, batch: mapped(
        params, frozen, parallel.split(_arrays(batch, "position", "mask"))
    )


def _arrays(batch: Batch, *columns: str) -> dict[str, np.ndarray]:
    """The part of a batch that a step needs: images or `pooled`, and some columns."""
    return {
        name: value
        for name, value in batch.items()
        if name in (*columns, step.POOLED)
        or (isinstance(value, np.ndarray) and value.dtype == np.uint8)
    }


@dataclass(kw_only=True)
class _Run:
    """A run, after its set-up."""

    config: ConfigDict
    model: Model
    frozen: Params
    sets: Sets
    folder: epath.Path
    checkpoints: Checkpoints
    batches: Batches
    log: Log
    tx: optax.GradientTransformation

    def __post_init__(self) -> None:
        self._labels = {
            source.dataset.name: label for label, source in self.sets.training.items()
        }
        self._steps = {
            label: parallel.mapped(
                partial(
                    step.train_step,
                    network=self.model.network,
                    objective=objective,
                    tx=self.tx,
                    decay=self.config.optim.average,
                ),
                donate=True,
            )
            for label, objective in self.sets.objectives.items()
        }
        kinds = {one.kind.name: one.kind for one in self.sets.validation.values()}
        self._eval_steps = {
            name: _eval_step(self.model, kind) for name, kind in kinds.items()
        }
        self._schedule = setup.build_schedule(self.config)
        self._saved = 0
        self._window: dict[str, list[float]] = {}

    def go(
        self,
        current: TrainState,
        first: int,
        agreements: Agreements,
        stop: Callable[[int], int],
    ) -> Outcome:
        """Trains from step `first` to the end, or until `stop` returns a signal."""
        config = self.config
        self._saved = first
        pending: tuple[int, str, Any, Any] | None = None
        for number in range(first + 1, config.num_steps + 1):
            batch = next(self.batches)
            label = self._labels[batch["dataset"]]
            objective = self.sets.objectives[label]
            arrays = parallel.split(_arrays(batch, objective.opinion, "group"))
            current, metrics = self._steps[label](current, self.frozen, arrays)
            # Read one step late, so that the devices already run the next step.
            if pending:
                self._note(*pending)
            pending = (number, label, metrics, batch["id"])
            self.log.advance(number)

            last = number == config.num_steps
            signal = stop(number)
            validate = last or number % config.validate.every == 0
            save = validate or signal or number % config.checkpoint.every == 0
            if save or number % config.log.every == 0:
                self._note(*pending)
                pending = None
            if number % config.log.every == 0 or last:
                self._log(number)
            if save:
                quality = None
                if validate:
                    agreements = self._validate(current, number)
                    quality = self._quality(agreements)
                self._save(current, number, agreements, quality)
            if signal and not last:
                self.checkpoints.wait()
                self.log.message(f"stopped at step {number}, which is saved")
                return Outcome(number, agreements, signal)
        self.checkpoints.wait()
        self.log.curves()
        return Outcome(max(first, config.num_steps), agreements)

    def _note(
        self, number: int, label: str, metrics: Mapping[str, jax.Array], ids: np.ndarray
    ) -> None:
        """Reads the metrics of a step; raises if they are not finite."""
        values = {name: float(value) for name, value in metrics.items()}
        if not all(np.isfinite(value) for value in values.values()):
            terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
            good = f"step {self._saved}" if self._saved else "there is none yet"
            raise TrainingError(
                f"step {number}: the loss is not finite ({terms}) on {len(ids)}"
                f" examples of {label}: {', '.join(map(str, ids))}; last good"
                f" checkpoint: {good} in {self.folder / CHECKPOINTS}; lower the"
                " learning rate, or exclude these examples"
            )
        for name, value in values.items():
            name = name.replace("loss_", f"{label}/")
            self._window.setdefault(name, []).append(value)

    def _log(self, number: int) -> None:
        """Logs the means since the last line."""
        seen = len(self._window["loss"])
        metrics = {
            name: float(np.mean(values)) for name, values in self._window.items()
        }
        self._window = {}
        updates = number // self.config.optim.accumulate
        metrics["learning_rate"] = float(self._schedule(updates))
        self.log.train(number, metrics, examples=seen * self.config.batch_size)

    def _validate(self, current: TrainState, number: int) -> Agreements:
        found = {}
        for label, dataset in self.sets.validation.items():
            distances = validation.distances_of(
                partial(
                    self._eval_steps[dataset.kind.name],
                    current.evaluation_params,
                    self.frozen,
                ),
                dataset,
                batch_size=self.config.validate.batch_size,
                num_threads=self.config.data.num_threads,
            )
            if not np.isfinite(distances).all():
                raise TrainingError(
                    f"step {number}: {np.isnan(distances).sum()} distances of {label}"
                    f" are not finite; last good checkpoint: step {self._saved} in"
                    f" {self.folder / CHECKPOINTS}"
                )
            found[label] = agreements_of(dataset, distances)
        self.log.validation(number, found)
        return found

    def _quality(self, agreements: Agreements) -> float:
        """The mean over the sets, which selects the best checkpoint."""
        return float(
            np.mean(
                [
                    agreements[label][main_of(dataset)]
                    for label, dataset in self.sets.validation.items()
                ]
            )
        )

    def _save(
        self,
        current: TrainState,
        number: int,
        agreements: Agreements,
        quality: float | None,
    ) -> None:
        self.checkpoints.save(
            number,
            jax.device_get(current),
            record={
                "config": config_lib.as_dict(self.config),
                "loader": self.batches.get_state(),
                "backbone": self.model.backbone,
                "data": self.sets.card(),
                "agreements": agreements,
            },
            metric=quality,
        )
        self._saved = number
        self.log.sync()
