"""The log of a training run: progress, metrics and curves."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from etils import epath
from rich.console import Console

from spips_jax.files import replacing
from spips_jax.progress import Bar

_METRICS = "metrics.jsonl"
_CURVES = "curves.png"
_LOSS = "loss"


class Log:
    """The log of one run: a progress bar, `metrics.jsonl`, TensorBoard and curves.

        with Log(workdir, num_steps=2000) as log:
            log.train(100, {"loss": 0.31, "learning_rate": 1e-3}, examples=3200)
            log.validation(100, {"tid2013": {"srcc": 0.91, "plcc": 0.90}})
            log.curves()

    Each line of `metrics.jsonl` is an object with `step`, `split` ("train" or
    "validation") and `seconds`, the time spent so far without the pauses between runs.
    A training line also has its metrics, `steps_per_second` and `examples_per_second`;
    a validation line has its metrics by set under `sets`. NaN and infinity, which JSON
    lacks, are null. TensorBoard has the same numbers as `train/loss`,
    `validation/tid2013/srcc` and so on.

    If stderr is not a terminal, each call of `train` prints a plain line instead of the
    bar.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        num_steps: int,
        first_step: int = 0,
        writer: bool = True,
        console: Console | None = None,
    ) -> None:
        """Opens the log of a new run, or of one that resumes.

        Args:
          folder: where the files go; made if missing. An object store, such as
            `gs://bucket/run`, cannot append: its files are kept in a temporary folder
            until `sync` copies them.
          num_steps: steps of the whole run.
          first_step: steps already done. 0 starts new files; otherwise the log keeps
            its lines up to this step and drops the later ones, whose steps are
            repeated.
          writer: False, for all processes but one, makes every method do nothing.
          console: where progress is shown; stderr by default.

        Raises:
          OSError: the folder cannot be made or written.
        """
        self._writer = writer
        self._resources = contextlib.ExitStack()
        if not writer:
            return
        self._num_steps = num_steps
        self._folder = epath.Path(folder)
        self._remote = "://" in os.fspath(self._folder)
        with contextlib.ExitStack() as stack:  # closed if opening fails half-way
            if self._remote:
                self._local = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                self._local = Path(os.fspath(self._folder))
            self._folder.mkdir(parents=True, exist_ok=True)
            kept: list[dict[str, Any]] = []
            if first_step and (self._folder / _METRICS).exists():
                lines = _decoded((self._folder / _METRICS).read_bytes())
                kept = [line for line in lines if line["step"] <= first_step]
            with replacing(self._local / _METRICS) as partial:
                Path(partial).write_text("".join(map(_encoded, kept)), "utf-8")
            self._lines = stack.enter_context(
                open(self._local / _METRICS, "a", encoding="utf-8")
            )
            # TensorBoard reads the files of a run in the order of their names.
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
            self._events = _Events(
                stack.enter_context(open(self._local / name, "xb")),
                # The first step that is void in earlier files.
                purge_step=first_step + 1 if first_step else 0,
            )
            stack.callback(self.sync)

            self._bar = stack.enter_context(
                Bar(
                    "training",
                    total=num_steps,
                    done=first_step,
                    transient=False,
                    console=console,
                )
            )
            self._resources = stack.pop_all()

        now = time.perf_counter()
        self._start = now - (kept[-1]["seconds"] if kept else 0)
        self._last_train = first_step
        self._window = (first_step, now)  # where the next rate is counted from

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def advance(self, step: int) -> None:
        """Moves the bar to `step`; cheap enough for every step."""
        if self._writer:
            self._bar.move(step)

    def train(self, step: int, metrics: Mapping[str, float], *, examples: int) -> None:
        """Logs the state of training.

        Args:
          step: how many steps are done.
          metrics: values by name; `loss` is shown, and drawn like `learning_rate`.
          examples: seen over all devices since the last call.
        """
        if not self._writer:
            return
        first, since = self._window
        now = time.perf_counter()
        rate = (step - first) / max(now - since, 1e-9)
        each = examples / max(step - self._last_train, 1)
        self._last_train = step
        self._window = (step, now)
        metrics = {
            **metrics,
            "steps_per_second": rate,
            "examples_per_second": rate * each,
        }
        self._write(step, "train", metrics)
        self._events.write(step, {f"train/{name}": metrics[name] for name in metrics})

        state = f"{rate:.1f} steps/s" if rate >= 1 else f"{rate:.2g} steps/s"
        if "loss" in metrics:
            state = f"loss {metrics['loss']:.4g}  {state}"
        self._bar.move(step, state=state)
        if not self._bar.shown:
            left = (self._num_steps - step) / rate if rate > 0 else math.inf
            self.message(f"step {step}/{self._num_steps}  {state}  eta {_time(left)}")

    def validation(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Logs validation results and shows them in a line.

        The time since the last step does not count in the rates of `train`.

        Args:
          step: how many steps are done.
          metrics: values by set and name.
        """
        if not self._writer:
            return
        self._window = (step, time.perf_counter())
        self._write(step, "validation", {"sets": metrics})
        self._events.write(
            step,
            {
                f"validation/{dataset}/{name}": value
                for dataset, values in metrics.items()
                for name, value in values.items()
            },
        )
        parts = [
            " ".join([dataset, *(f"{name} {values[name]:.4f}" for name in values)])
            for dataset, values in metrics.items()
        ]
        self.message(f"step {step}/{self._num_steps}  validation  {', '.join(parts)}")

    def message(self, text: str) -> None:
        """Shows a line, above the bar where there is one."""
        if self._writer:
            self._bar.message(text)

    def curves(self) -> None:
        """Draws `curves.png` of the whole run; nothing if no line was logged yet."""
        if not self._writer:
            return
        lines = _decoded((self._local / _METRICS).read_bytes())
        if lines:
            write_curves(self._local / _CURVES, lines)

    def sync(self) -> None:
        """Copies the files to the object store; nothing to do in a local folder.

        Raises:
          OSError: the copy failed.
        """
        if self._writer and self._remote:
            for file in sorted(self._local.iterdir()):
                (self._folder / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        """Stops the bar, copies remaining files and closes them."""
        self._resources.close()

    def _write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        seconds = time.perf_counter() - self._start
        line = {"step": step, "split": split, "seconds": round(seconds, 3), **values}
        self._lines.write(_encoded(line))
        self._lines.flush()  # so that a killed run keeps its log


def write_curves(
    path: str | os.PathLike[str], lines: Sequence[Mapping[str, Any]]
) -> None:
    """Draws the lines of a `metrics.jsonl`: loss, learning rate and validation.

    Args:
      path: the PNG to write, whole or not at all.
      lines: at least one, in the order of their steps.
    """
    # Imported here, because only one process draws, and only at its end.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = _panels(lines)
    labels = dict.fromkeys(label for curves in panels.values() for label in curves)
    colours = {label: f"C{number}" for number, label in enumerate(labels)}
    columns = 2
    rows = max(-(-len(panels) // columns), 1)
    figure = Figure(figsize=(5.5 * columns, 3.4 * rows), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # no window system, whatever the user's backend
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for label, points in curves.items():
            # A null is NaN here, which leaves a gap in the curve.
            steps, values = np.array(points, dtype=np.float64).T
            style = {"color": colours[label], "markersize": 3}
            reach = len(values) // 40 if title == _LOSS else 0
            if reach:
                axis.plot(steps, values, linewidth=0.6, alpha=0.4, **style)
                values = _smoothed(values, reach=reach)
                label = f"{label}, mean of {2 * reach + 1} points"
            marker = "o" if len(values) < 40 else ""
            axis.plot(steps, values, marker=marker, label=label, **style)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.legend(fontsize=9)

    with replacing(path) as partial:
        canvas.print_png(partial)


class _Events:
    """Scalars for TensorBoard; voids earlier files' events from `purge_step` on."""

    def __init__(self, file: BinaryIO, *, purge_step: int) -> None:
        # Only the record writer: the package's own event writer imports TensorFlow if
        # installed. Imported here, because only one process needs it.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        self._summary = summary_pb2.Summary
        self._records = RecordWriter(file)
        self._add(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=purge_step, session_log=start)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [
            self._summary.Value(tag=tag, simple_value=float(value))
            for tag, value in scalars.items()
        ]
        self._add(step=step, summary=self._summary(value=values))

    def _add(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()


def _encoded(line: Mapping[str, Any]) -> str:
    return json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, str | int | None):
        return value
    return float(value) if math.isfinite(value) else None  # JSON has no NaN


def _decoded(text: bytes) -> list[dict[str, Any]]:
    """The readable lines: a kill in the middle of a write truncates the last."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _panels(
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[tuple[int, float | None]]]]:
    """Steps with their values, by panel title and curve label."""
    panels: dict[str, dict[str, list[tuple[int, float | None]]]] = {}

    def add(title: str, label: str, step: int, value: float | None) -> None:
        panels.setdefault(title, {}).setdefault(label, []).append((step, value))

    for name, title in (("loss", _LOSS), ("learning_rate", "learning rate")):
        for line in lines:
            if line["split"] == "train" and name in line:
                add(title, "training", line["step"], line[name])
    for line in lines:
        if line["split"] == "validation":
            for dataset, values in line["sets"].items():
                for name, value in values.items():
                    add(f"validation {name.upper()}", dataset, line["step"], value)
    return panels


def _smoothed(values: np.ndarray, *, reach: int) -> np.ndarray:
    """Means `(N,)` of the finite values at most `reach` places away; NaN if none."""
    window = np.ones(2 * reach + 1)
    finite = np.isfinite(values)
    totals = np.convolve(np.where(finite, values, 0), window, "same")
    counts = np.convolve(finite, window, "same").round()
    empty = np.full(len(values), np.nan)
    return np.divide(totals, counts, out=empty, where=counts > 0)


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    return str(datetime.timedelta(seconds=round(seconds)))
