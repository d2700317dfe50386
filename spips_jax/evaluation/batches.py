"""One pass over a set on all devices, for scoring in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_batches
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
            for position, error in batch.pop("failed").items():
                on_failure(position, _why(error, dataset, position))
            yield from _tolerant(score, batch, dataset, on_failure)


def _tolerant(
    score: ScoreBatch,
    batch: Batch,
    dataset: Dataset,
    on_failure: Callable[[int, str], None],
) -> Iterator[Rows]:
    several = jax.process_count() > 1  # all of them must run every batch
    if not several and not batch["mask"].any():
        return
    try:
        found = _rows(score(batch))
    except Exception as error:
        if several or not _is_of_images(error):
            raise
    else:
        yield found
        return
    # Here, where the error and with it the arrays of its frames are gone.
    for place in np.flatnonzero(batch["mask"]).tolist():
        try:
            found = _rows(score(_alone(batch, place)))
        except Exception as error:
            if not _is_of_images(error):
                raise
            position = int(batch["position"][place])
            on_failure(position, _why(error, dataset, position))
        else:
            yield found


def _rows(result: Mapping[str, Any]) -> Rows:
    mask = np.asarray(result["mask"])
    return np.asarray(result["position"])[mask], np.asarray(result["values"])[mask]


def _alone(batch: Batch, place: int) -> Batch:
    """A batch of one example, with a copy for each further device."""
    places = [place] * jax.local_device_count()
    alone = {
        name: value[places] if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }
    return {**alone, "mask": np.arange(len(places)) == 0}


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
