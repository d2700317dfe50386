"""One pass over a set on all devices, for scoring in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches
from spips_jax.data.units import Planned
from spips_jax.messages import UserError, one_line, out_of_memory

ScoreBatch = Callable[[Batch], Mapping[str, Any]]
Rows = tuple[np.ndarray, np.ndarray]
"""Positions `(B,)` in a set, and what was computed for the examples there."""


def run_batches(
    score: ScoreBatch,
    dataset: Dataset,
    *,
    batch_size: int,
    num_threads: int,
    by_reference: bool = False,
    chosen: np.ndarray | None = None,
    on_failure: Callable[[int, str], None] | None = None,
) -> Iterator[Rows]:
    """Yields (positions `(B,)`, values `(B, ...)`), every example once.

    Args:
      score: runs a batch on all devices and returns `position`, `mask`, `values`.
      dataset: the examples.
      batch_size: over all processes.
      num_threads: threads that read images.
      by_reference: whether all examples of a batch share one `reference_id`.
      chosen: which batches of the plan of `eval_plan`, a mask or indices; all by
        default.
      on_failure: gets the position of an example that cannot be read or scored, and
        why, in one line; the others are yielded. A batch that fails for want of memory
        or for one of its images is tried again example by example, in a run of one
        process; in one of several, whose devices work together, it raises. Without
        this argument every error raises.
    """
    with eval_batches(
        dataset,
        batch_size=batch_size,
        by_reference=by_reference,
        num_threads=num_threads,
        chosen=chosen,
        tolerant=on_failure is not None,
    ) as batches:
        for batch in batches:
            if on_failure is None:
                yield _rows(score(batch))
                continue
            yield from _tolerant(score, batch, dataset, on_failure)


def _tolerant(
    score: ScoreBatch,
    batch: Batch,
    dataset: Dataset,
    on_failure: Callable[[int, str], None],
    *,
    alone: bool = False,
) -> Iterator[Rows]:
    """Yields what a batch gives or, if it fails, what its examples give one by one."""
    for position, error in batch.pop("failed").items():
        on_failure(position, _why(error, dataset, position))
    several = jax.process_count() > 1  # all of them must run every batch
    if not several and not batch["mask"].any():
        return
    try:
        if "unread" in batch:
            raise batch["unread"]
        found = _rows(score(batch))
    except Exception as error:
        if several or not _is_of_images(error):
            raise
        positions = batch["position"][batch["mask"]].tolist()
        if alone:
            on_failure(positions[0], _why(error, dataset, positions[0]))
            return
        batch.clear()  # so that its images, too, make room for one
    else:
        yield found
        return
    # Here, where the error and with it the arrays of its frames are gone.
    for position in positions:
        copies = [-1 - position] * (jax.local_device_count() - 1)
        plan = Planned(dataset, np.array([[position, *copies]]), tolerant=True)
        yield from _tolerant(score, plan[0], dataset, on_failure, alone=True)


def _rows(result: Mapping[str, Any]) -> Rows:
    mask = np.asarray(result["mask"])
    return np.asarray(result["position"])[mask], np.asarray(result["values"])[mask]


def _is_of_images(error: Exception) -> bool:
    """Whether other images may do: not of a fault that every batch would show."""
    return isinstance(error, UserError) or out_of_memory(error)


def _why(error: Exception, dataset: Dataset, position: int) -> str:
    if not out_of_memory(error):
        return one_line(error)
    height, width = (dataset.index[name][position] for name in ("height", "width"))
    return (
        f"memory is exhausted by its {width}x{height} pixels (width x height): score it"
        " on a device with more, or exclude it"
    )
