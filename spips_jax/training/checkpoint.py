"""Checkpoints: the last few and the best, each whole or skipped. With Orbax.

A checkpoint is a folder named by its step. `state` in it holds the arrays, `record` the
JSON: what the caller gives, the validation result, and every array's path, type, shape
and SHA-256. Orbax writes both under a temporary name and renames the folder when it is
complete, so that a killed process leaves no partial checkpoint. Files can still be
damaged afterwards, and Orbax does not detect every flipped bit: what was read is
compared with the record, and if it differs, the checkpoint before is used instead.

With several JAX processes, all make the same calls. Only the first reads and writes; it
sends what it read to the others, so that all resume from the same step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from spips_jax.digests import json_digest
from spips_jax.messages import one_line
from spips_jax.training.snapshot import (
    Checkpoint,
    CheckpointError,
    check_like,
    digest,
    from_first_process,
    leaves_of,
)

_DELETED = "deleted.orbax-checkpoint-tmp"
"""Old checkpoints are moved here first, so that a process killed while deleting them
leaves no partial one. By its name the folder counts as left by a killed save."""


class Checkpoints:
    """Writes and reads the checkpoints of a folder. A context manager."""

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int = 3, read_only: bool = False
    ) -> None:
        """Opens a folder; for writing, makes it and removes what killed saves left.

        Args:
          folder: where the checkpoints are, a path or gs:// address. One run at a time
            may have it open for writing.
          keep: how many of the last are kept, beside the best by metric.
          read_only: whether to change nothing in the folder, not even damaged
            checkpoints.

        Raises:
          CheckpointError: the folder cannot be made or written, keep is below 1.
        """
        if keep < 1:
            raise CheckpointError(f"keep {keep} checkpoints: it must be 1 or more")
        self._folder = _absolute(folder)
        self._keep = keep
        self._read_only = read_only
        self._metrics: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None
        self._quiet = _NotOrbax()
        logging.getLogger("absl").addFilter(self._quiet)
        if not read_only:
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        """Orbax's manager lists the folder once, when it is made."""
        self._metrics = _metrics(self._folder)
        with _failing(f"{self._folder}: checkpoints cannot be written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for left in ocp.path.step.all_temporary_paths(self._folder):
                    left.get().rmtree()
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=checkpoint_managers.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                        [
                            checkpoint_managers.LatestN(self._keep),
                            _Best(self._metrics),
                        ]
                    ),
                    todelete_subdir=_DELETED,
                    # Then a folder that cannot be made is an error at once.
                    async_options=ocp.AsyncOptions(
                        create_directories_asynchronously=False
                    ),
                    # Otherwise damaged metadata could keep the folder from opening.
                    lightweight_initialize=True,
                ),
            )

    def save(
        self,
        step: int,
        state: Any,
        *,
        record: Mapping[str, Any],
        metric: float | None = None,
    ) -> None:
        """Saves a checkpoint in the background; returns when the arrays are copied.

        A step that is already saved is not overwritten: that would risk an undamaged
        checkpoint for an identical one.

        Args:
          step: the number of steps done.
          state: a pytree of NumPy or JAX arrays, not replicated; raw key data instead
            of typed PRNG keys.
          record: plain values for JSON.
          metric: the validation result, larger is better; one that is not finite
            counts as none.

        Raises:
          CheckpointError: the folder is open for reading only, or this save or the one
            before failed.
        """
        if self._manager is None:
            raise CheckpointError(
                f"{self._folder} is open for reading only: step {step} is not saved"
            )
        if step in self._manager.all_steps():
            return
        if metric is not None:
            metric = float(metric) if math.isfinite(metric) else None
        arrays = {path: np.asarray(leaf) for path, leaf in leaves_of(state).items()}
        content = {
            "record": dict(record),
            "metric": metric,
            "leaves": {
                path: [str(array.dtype), list(array.shape), digest(array)]
                for path, array in arrays.items()
            },
        }
        # Passed through JSON, so that its digest is the same when it is read.
        content = json.loads(json.dumps(content))
        self.wait()
        self._metrics.pop(step, None)
        if metric is not None:
            self._metrics[step] = metric
        with _failing(f"{self._folder}: checkpoints cannot be written"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    # Orbax does not save arrays without elements.
                    state=ocp.args.StandardSave(
                        {path: array for path, array in arrays.items() if array.size}
                    ),
                    record=ocp.args.JsonSave(
                        {"content": content, "sha256": json_digest(content)}
                    ),
                ),
                force=True,
            )

    def latest(self, like: Any) -> Checkpoint | None:
        """Returns the newest undamaged checkpoint, or None if there is none.

        Each damaged one that was skipped is named in a warning and renamed to
        STEP.damaged, so that its step can be saved again; not renamed if `read_only`.

        Args:
          like: a pytree of arrays or `jax.ShapeDtypeStruct`s that the state must match.

        Raises:
          CheckpointError: the checkpoint holds other arrays than `like` asks for, or
            the folder cannot be read.
        """
        return self._find(like, best=False)

    def best(self, like: Any) -> Checkpoint | None:
        """Returns the best undamaged checkpoint by metric, else as `latest` does."""
        return self._find(like, best=True)

    def wait(self) -> None:
        """Waits until pending saves are written.

        Raises:
          CheckpointError: it could not be written.
        """
        if self._manager is not None:
            with _failing(f"{self._folder}: checkpoints cannot be written"):
                self._manager.wait_until_finished()
                deleted = self._folder / _DELETED
                if jax.process_index() == 0 and deleted.exists():
                    deleted.rmtree()

    def close(self) -> None:
        """Waits for pending saves, then ends Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                manager, self._manager = self._manager, None
                manager.close()
            logging.getLogger("absl").removeFilter(self._quiet)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find(self, like: Any, *, best: bool) -> Checkpoint | None:
        self.wait()
        found: Checkpoint | None = None
        damaged: dict[int, str] = {}
        error = ""
        if jax.process_index() == 0:
            try:
                found, damaged = _first_whole(self._folder, like, best=best)
                if not self._read_only:
                    self._set_aside(damaged)
            except CheckpointError as caught:
                error = str(caught)
        if jax.process_count() > 1:
            found, damaged, error = from_first_process(found, damaged, error, like)
        if damaged and self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()
            self._open()
        if error:
            raise CheckpointError(error)
        if jax.process_index() == 0:
            instead = f"step {found.step} is used" if found else "no other is whole"
            for step, what in damaged.items():
                kept = "" if self._read_only else f"; it is now {step}.damaged"
                warnings.warn(
                    f"checkpoint {self._folder / str(step)} is damaged ({what}):"
                    f" {instead}{kept}",
                    stacklevel=3,
                )
        return found

    def _set_aside(self, damaged: Iterable[int]) -> None:
        for step in damaged:
            with _failing(f"{self._folder}: damaged step {step} cannot be renamed"):
                aside = self._folder / f"{step}.damaged"
                if aside.exists():
                    aside.rmtree()
                (self._folder / str(step)).rename(aside)


def describe(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """Returns the newest checkpoint whose record is undamaged, without its state.

    It shows what the state must look like before one has been built. It waits for
    nothing and writes nothing.
    """
    path = _absolute(folder)
    for step in _steps(path):
        with contextlib.suppress(_DamagedError):
            content = _read_content(path / str(step))
            return Checkpoint(
                step=step,
                state=None,
                record=content["record"],
                metric=content["metric"],
            )
    return None


class _DamagedError(Exception):
    """What is wrong with the files of a checkpoint."""


@dataclass(frozen=True)
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint with the largest metric, the newest of equals."""

    metrics: Mapping[int, float]

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        best = max(
            (step for step in steps if step in self.metrics),
            key=lambda step: (self.metrics[step], step),
            default=None,
        )
        return [step == best for step in steps]


class _NotOrbax(logging.Filter):
    """Drops Orbax's many log lines; its errors are raised as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}checkpoint{os.sep}" not in record.pathname


def _absolute(folder: str | os.PathLike[str]) -> epath.Path:
    """Orbax needs absolute paths; epath's `resolve` treats addresses as relative."""
    path = epath.Path(folder).expanduser()
    return path if "://" in str(path) else path.resolve()


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """Makes a `CheckpointError` of Orbax's errors, of many types and lines."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{what}: {one_line(error)}") from error


class _AllRead(ocp.type_handlers.NumpyHandler):
    """Raises only after every array has been read or has failed.

    Orbax raises at the first failure and closes the event loop that the other reads
    still use; each of these then prints an error on stderr.
    """

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.RestoreArgs] | None = None,
    ) -> Sequence[np.ndarray]:
        args = args or [ocp.RestoreArgs()] * len(infos)
        results: list[Any] = await asyncio.gather(
            *(
                super(_AllRead, self).deserialize([info], [arg])
                for info, arg in zip(infos, args, strict=True)
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [array for (array,) in results]


def _steps(folder: epath.Path) -> list[int]:
    """Steps of finished checkpoints, newest first."""
    names = ocp.path.step.standard_name_format()
    with _failing(f"{folder}: cannot be listed"):
        return sorted((found.step for found in names.find_all(folder)), reverse=True)


def _metrics(folder: epath.Path) -> dict[int, float]:
    metrics = {}
    for step in _steps(folder):
        with contextlib.suppress(_DamagedError):
            metric = _read_content(folder / str(step))["metric"]
            if metric is not None:
                metrics[step] = metric
    return metrics


def _best_first(folder: epath.Path) -> list[int]:
    """Steps by metric, those without one last and those without a record first.

    One whose record cannot be read may be the best: trying it lets a warning name it.
    """

    def rank(step: int) -> tuple[float, int]:
        try:
            metric = _read_content(folder / str(step))["metric"]
        except _DamagedError:
            return math.inf, step
        return (-math.inf if metric is None else metric), step

    return sorted(_steps(folder), key=rank, reverse=True)


def _first_whole(
    folder: epath.Path, like: Any, *, best: bool
) -> tuple[Checkpoint | None, dict[int, str]]:
    """Returns the first undamaged checkpoint, and what is wrong with earlier ones."""
    damaged: dict[int, str] = {}
    for step in _best_first(folder) if best else _steps(folder):
        try:
            return _read(folder / str(step), like), damaged
        except _DamagedError as error:
            damaged[step] = str(error)
    return None, damaged


def _read_content(path: epath.Path) -> dict[str, Any]:
    """Returns the record's content, compared with its digest."""
    try:
        saved = ocp.JsonCheckpointHandler().restore(path / "record")
        content = saved["content"]
        whole = saved["sha256"] == json_digest(content)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _DamagedError("its record is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    except (ValueError, KeyError, TypeError):
        raise _DamagedError("its record is not JSON as it was written") from None
    if not whole:
        raise _DamagedError("its record is not what was written")
    return content


def _read(path: epath.Path, like: Any) -> Checkpoint:
    content = _read_content(path)
    leaves = content["leaves"]
    check_like(path, leaves, like)
    try:
        arrays = ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(
                (np.ndarray, _AllRead())
            )
        ).restore(path / "state")
    except MemoryError:
        raise
    except Exception as error:  # of any type that Orbax and its libraries raise
        raise _DamagedError(f"its arrays cannot be read: {one_line(error)}") from None
    for name, (dtype, shape, sha256) in leaves.items():
        if not math.prod(shape):
            arrays[name] = np.zeros(shape, dtype)
        array = arrays.get(name)
        if array is None or [str(array.dtype), list(array.shape)] != [dtype, shape]:
            raise _DamagedError(f"{name} is not as it was written")
        if digest(array) != sha256:
            raise _DamagedError(f"{name} has other bits than were written")
    return Checkpoint(
        step=int(path.name),
        state=jax.tree.unflatten(
            jax.tree.structure(like), [arrays[name] for name in leaves_of(like)]
        ),
        record=content["record"],
        metric=content["metric"],
    )
