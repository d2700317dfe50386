"""Scores of a metric on a set: computed over all devices, saved as they are computed.

The scores of a metric on a set are a CSV file, in the order of computation, and a card
beside it that says what they depend on. An interrupted run resumes; a killed one loses
only the batch in progress. Batches are planned from the whole set and resumed at a
whole one, so every score is the same as in a run that was never interrupted. Of several
runs that want the same scores one computes them, and the others wait.

An example that cannot be read or scored has no line in the file. The next run tries the
batches of such examples again, and no others.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax import parallel, weights
from spips_jax.any_size import AnySize
from spips_jax.data.dataset import Dataset
from spips_jax.data.loader import Batch, eval_plan
from spips_jax.digests import code_digest
from spips_jax.evaluation.batches import ScoreBatch, run_batches
from spips_jax.evaluation.config import EvaluationError
from spips_jax.files import locked, replacing
from spips_jax.images import Images
from spips_jax.kinds import Kind
from spips_jax.metric import SIZES_KEPT, Metric
from spips_jax.model_file import OPTIONS
from spips_jax.progress import tracked
from spips_jax.spips import Features, Spips

_PACKAGES = ("spips-jax", "jax", "jaxlib", "flax", "dm-pix", "numpy", "scipy")

_CODE = (
    "any_size", "backbones", "baselines", "boxes", "classical", "facts", "head",
    "images", "metric", "packing", "spips", "streams", "winograd", "evaluation/scores",
)  # fmt: skip
"""The code that scores depend on, beside weights, images and packages."""


_ELSEWHERE = "the first process failed; it says why"

Scores = TypeVar("Scores", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A metric under evaluation.

    Attributes:
      label: what the report calls it.
      metric: the metric.
      dtype: of its backbone.
      value_range: the range declared to it for images in [0, 1].
    """

    label: str
    metric: Metric
    dtype: str = "float32"
    value_range: tuple[float, float] = (0.0, 1.0)

    @cached_property  # a digest reads all weights
    def card(self) -> dict[str, Any]:
        """What its scores depend on."""
        return {
            "name": self.metric.name,
            "weights": weights.digest(self.metric.variables.get("params", {})),
            "options": _options(self.metric),
            "dtype": self.dtype,
            "value_range": list(self.value_range),
        }


def _options(metric: Metric) -> dict[str, Any]:
    """What a SPIPS model computes beside its weights, as its classical maps.

    The weights need not tell: a map that is untrained or of no weight adds none.
    """
    if not isinstance(metric.module, Spips):
        return {}
    values = {name: getattr(metric.module, name) for name in OPTIONS}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


class Scored(NamedTuple):
    """The scores of a metric on a set.

    Attributes:
      scores: `(N, n)`, in the set's order; NaN where there is none.
      card: what they depend on.
      failed: why an example has none, by its position.
    """

    scores: np.ndarray
    card: dict[str, Any]
    failed: dict[int, str]


def packages() -> dict[str, str]:
    """Versions of the packages that compute scores."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _one_run_at_a_time(compute: Scores) -> Scores:
    """Lets one run at a time write a file of scores; the next one finds it complete."""

    @wraps(compute)
    def locking(*args: Any, file: Path, **options: Any) -> Any:
        with contextlib.ExitStack() as stack:
            problem: OSError | None = None
            if parallel.is_writer():
                try:
                    stack.enter_context(locked(file))
                except OSError as error:
                    problem = error
            if not parallel.everywhere(problem is None):  # so that no process waits
                raise problem or EvaluationError(_ELSEWHERE)
            return compute(*args, file=file, **options)

    return locking  # type: ignore[return-value]


@_one_run_at_a_time
def scores_of(
    candidate: Candidate,
    dataset: Dataset,
    *,
    file: Path,
    batch_size: int,
    num_threads: int,
) -> Scored:
    """Returns the scores of all examples that can be scored.

    Args:
      candidate: the metric.
      dataset: the examples; n is how many pairs of each are compared.
      file: the CSV file of the scores, which may already have some.
      batch_size: over all devices; rounded up to a multiple of their number.
      num_threads: threads that read images.

    Raises:
      EvaluationError: the file holds the scores of something else.
    """
    card = _card(candidate, dataset)
    shape = (len(dataset), len(dataset.kind.compared))
    scores, done = np.full(shape, np.nan, np.float32), np.zeros(len(dataset), bool)
    problem: Exception | None = None
    if parallel.is_writer():
        try:
            card = _open(file, card)
            _read(file, dataset, scores, done)
        except (EvaluationError, OSError) as error:
            problem = error
    if not parallel.everywhere(problem is None):  # so that no process waits for it
        raise problem or EvaluationError(_ELSEWHERE)
    done = parallel.of_the_writer(done)
    failed: dict[int, str] = {}
    if done.all():
        return Scored(scores, card, failed)

    batch_size += -batch_size % jax.device_count()
    canvases = _on_canvases(candidate.metric, dataset)
    grouped = not canvases and _saves_work(dataset, batch_size)
    plan = eval_plan(dataset, batch_size=batch_size, by_reference=grouped)
    unfinished = ((plan >= 0) & ~done[np.maximum(plan, 0)]).any(axis=1)
    found = run_batches(
        _score_batch(candidate, dataset, by_reference=grouped),
        dataset,
        batch_size=batch_size,
        by_reference=grouped,
        chosen=unfinished,
        on_failure=failed.__setitem__,
        num_threads=num_threads,
    )
    if not parallel.is_writer():
        for _ in found:
            pass
        return Scored(scores, card, failed)
    what = f"{candidate.label} on {dataset.name}, {len(dataset):,} examples"
    if done.any():
        what += f", {done.sum():,} of them done before"
    found = tracked(found, total=len(dataset), what=what, done=int(done.sum()))
    with file.open("a", newline="", encoding="utf-8") as out:
        for positions, values in found:
            fresh = ~done[positions]
            scores[positions[fresh]] = values[fresh]
            done[positions] = True
            _append(out, dataset, positions[fresh], values[fresh])
    for position in np.flatnonzero(~done).tolist():
        failed.setdefault(position, "another process could not read it, and says why")
    # Those of a batch that was scored before are tried with it, and keep their score.
    failed = {position: failed[position] for position in np.flatnonzero(~done).tolist()}
    return Scored(scores, card, failed)


def _saves_work(dataset: Dataset, batch_size: int) -> bool:
    """Whether batching by reference makes the network run on fewer images."""
    if len(dataset.kind.compared) > 1 or not dataset.kind.has_reference:
        return False
    grouped = eval_plan(dataset, batch_size=batch_size, by_reference=True)
    mixed = eval_plan(dataset, batch_size=batch_size)
    return len(dataset.references) + grouped.size < 2 * mixed.size


def _score_batch(
    candidate: Candidate, dataset: Dataset, *, by_reference: bool
) -> ScoreBatch:
    """Returns a scorer of batches; a reference shared by a whole batch runs once."""
    if _on_canvases(candidate.metric, dataset):
        return _canvas_batch(candidate, dataset)
    step = _mapped(dataset.kind, candidate.value_range)
    metric = parallel.replicate(candidate.metric)
    features = _last(partial(_features, metric, value_range=candidate.value_range))

    def run(batch: Batch) -> Mapping[str, Any]:
        reference = None
        if by_reference:
            # The set says they share one; only equal pixels prove it.
            alike = bool((batch["reference"] == batch["reference"][0]).all())
            if parallel.everywhere(alike):
                reference = features(batch["reference"][0])
        images = _images(batch, dataset, leave_out=reference is not None)
        return step(metric, reference, parallel.split(images))

    return run


def _on_canvases(metric: Metric, dataset: Dataset) -> bool:
    """Whether images are put on canvases: they have too many sizes to compile each."""
    sizes = set(
        zip(*(dataset.index[side] for side in ("height", "width")), strict=True)
    )
    one_device = jax.device_count() == jax.process_count() == 1
    return one_device and len(sizes) > SIZES_KEPT and AnySize.supports(metric)


def _canvas_batch(candidate: Candidate, dataset: Dataset) -> ScoreBatch:
    """Returns a scorer of batches on canvases."""
    any_size = AnySize(candidate.metric)

    def run(batch: Batch) -> Mapping[str, Any]:
        there = np.flatnonzero(batch["mask"])
        values = np.full((len(batch["mask"]), len(dataset.kind.compared)), np.nan)
        for column, names in enumerate(dataset.kind.compared):
            pairs = [[batch[name][row] for name in names] for row in there]
            if candidate.value_range != (0.0, 1.0):
                # As `declared` has it, whatever range the metric is told.
                pairs = [[np.float32(image) / 255 for image in pair] for pair in pairs]
            values[there, column] = any_size.pairs(
                ((x, y) for x, y in pairs), value_range=candidate.value_range
            )
        return {
            "position": batch["position"],
            "mask": batch["mask"],
            "values": values.astype(np.float32),
        }

    return run


@lru_cache  # so that like metrics and sets compile once
def _mapped(kind: Kind, value_range: tuple[float, float]) -> Callable[..., Any]:
    return parallel.mapped(partial(score_step, kind=kind, value_range=value_range))


def score_step(
    metric: Metric,
    reference: Features | None,
    batch: Mapping[str, jax.Array],
    *,
    kind: Kind,
    value_range: tuple[float, float],
) -> dict[str, jax.Array]:
    """Scores a batch.

    Args:
      metric: the metric.
      reference: features of the reference that all examples share, if they do.
      batch: this device's part: images uint8 `(b, H, W, 3)`, `position` and `mask`.
      kind: of the batch's set.
      value_range: the range declared to the metric.

    Returns:
      Over all devices: `position` and `mask` `(B,)`, and `values` `(B, n)`, scores of
      the pairs that the kind compares.
    """
    first: Any = reference
    if first is None:
        ((name, _), *_) = kind.compared
        first = _features(metric, batch[name], value_range=value_range)
    values = [
        metric(first, declared(batch[name], value_range), value_range=value_range)
        for _, name in kind.compared
    ]
    return parallel.gather(
        {
            "position": batch["position"],
            "mask": batch["mask"],
            "values": jnp.stack(values, axis=-1),
        }
    )


def _features(
    metric: Metric, images: Images, *, value_range: tuple[float, float]
) -> Features:
    return metric.features(declared(images, value_range), value_range=value_range)


def declared(images: Images, value_range: tuple[float, float]) -> Images:
    """uint8 images unchanged or, if another range is declared, in [0, 1]."""
    if value_range == (0.0, 1.0):
        return images
    return jnp.asarray(images, jnp.float32) / 255


def _last(
    extract: Callable[[np.ndarray], Features],
) -> Callable[[np.ndarray], Features]:
    """Keeps the features of the last image, on all of this process's devices."""
    kept: list[tuple[np.ndarray, Features]] = []

    def features(image: np.ndarray) -> Features:
        if not kept or not np.array_equal(kept[0][0], image):
            kept.clear()  # first, so that memory has to hold those of one image only
            kept[:] = [(image, parallel.replicate(extract(image)))]
        return kept[0][1]

    return features


def _images(batch: Batch, dataset: Dataset, *, leave_out: bool) -> dict[str, Any]:
    names = [n for n in dataset.images if not (leave_out and n == "reference")]
    return {name: batch[name] for name in (*names, "position", "mask")}


# Files


def _card(candidate: Candidate, dataset: Dataset) -> dict[str, Any]:
    """What is scored, and what computes the scores."""
    return {
        "code": code_digest(*_CODE),
        "model": candidate.card,
        "set": {
            "name": dataset.name,
            "examples": len(dataset),
            "ids": dataset.digest,
            "files": dataset.fingerprint,
        },
        "device": jax.devices()[0].device_kind,
        "packages": packages(),
    }


def _open(file: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Writes the file's card, or checks an existing one; returns it."""
    place = file.with_suffix(".json")
    if not file.exists():
        with replacing(place) as partial_card:
            Path(partial_card).write_text(json.dumps(card, indent=2) + "\n")
        with replacing(file):
            pass
        return card
    try:
        kept = json.loads(place.read_text())
        flat_kept, flat = _flat(kept), _flat(card)
    except (OSError, ValueError, AttributeError):
        raise EvaluationError(
            f"{place}: cannot be read, so it is unknown what the scores in {file.name}"
            " are of: delete both, or give another --output"
        ) from None
    for name, value in flat.items():
        # Scores of other versions differ by rounding; the card keeps the first version.
        if not name.startswith("packages.") and flat_kept.get(name) != value:
            raise EvaluationError(
                f"{file}: has scores of {name} {flat_kept.get(name)}, not of {value}:"
                " delete the file to compute them again, or give another --output"
            )
    return kept


def _flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in card.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read(file: Path, dataset: Dataset, scores: np.ndarray, done: np.ndarray) -> None:
    """Fills in the file's scores, and cuts the file after its last whole line."""
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    names = ("id", *dataset.kind.score_names)
    if not whole:
        with replacing(file) as fresh, open(fresh, "w", newline="") as out:
            csv.writer(out, lineterminator="\n").writerow(names)
        return
    if whole != text:  # a kill in the middle of a write truncates the last line
        with replacing(file) as repaired:
            Path(repaired).write_bytes(whole)
    positions = {name: p for p, name in enumerate(dataset.index["id"].tolist())}
    header, *rows = csv.reader(whole.decode("utf-8").splitlines())
    if tuple(header) != names:
        raise EvaluationError(
            f"{file}: line 1 is {','.join(header)!r}, not {','.join(names)!r}: delete"
            " the file to compute the scores again"
        )
    for number, row in enumerate(rows, 2):
        try:
            if len(row) != len(names):
                raise ValueError
            position = positions[row[0]]
            scores[position] = [np.float32(value) for value in row[1:]]
        except (KeyError, ValueError):
            raise EvaluationError(
                f"{file}: line {number} is {','.join(row)!r}, not an example's"
                f" {', '.join(names)}: delete the file to compute the scores again"
            ) from None
        done[position] = True


def _append(
    out: TextIO, dataset: Dataset, positions: np.ndarray, values: np.ndarray
) -> None:
    """Writes the rows of a batch and flushes them, so that a kill keeps them."""
    ids = dataset.index["id"]
    csv.writer(out, lineterminator="\n").writerows(
        # The shortest digits that give this float32.
        [ids[position], *map(str, row)]
        for position, row in zip(positions, values, strict=True)
    )
    out.flush()
