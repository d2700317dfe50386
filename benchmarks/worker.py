"""Processes that do one side's work on request, and what both sides share.

A worker reads requests from standard input, one JSON object a line, and answers each by
one line: it prepares what is asked for once, runs it as often as asked, and reports the
seconds of each run. So start-up and compilation are in no time, and while one worker
runs the others wait for a line. Imports neither JAX nor PyTorch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Spec = Mapping[str, Any]
"""What to run: "what", and for most "metric" and "size", which is [N, H, W]."""

Job = Callable[[], Any]
"""Runs once, to the end; returns an array, a dict, or `Seconds` if it has a clock."""


class Seconds(float):
    """What a job returns that has timed itself."""


HERE = Path(__file__).parent
THREADS = len(os.sched_getaffinity(0))
BIAS = HEAD = 0.01
"""All biases and weights of heads of random networks, in both sides."""


def pairs(size: Sequence[int]) -> np.ndarray:
    """Coarse noise and noisier copies, `(2, N, H, W, 3)` float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    n, height, width = size
    coarse = rng.random((n, -(-height // 8), -(-width // 8), 3), np.float32)
    reference = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    noise = rng.standard_normal(reference.shape, np.float32)
    return np.stack([reference, (reference + 0.05 * noise).clip(0, 1)])


def large_pair(height: int, width: int) -> list[np.ndarray]:
    """Two uint8 images `(H, W, 3)`, made in little more memory than they take."""
    tiles = np.uint8(255 * pairs((1, 256, 256))[:, 0])
    counts = (-(-height // 256), -(-width // 256), 1)
    return [np.tile(tile, counts)[:height, :width] for tile in tiles]


def kernel(layer: str, shape: Sequence[int]) -> np.ndarray:
    """Random weights HWIO that keep activations' scale, the same in every process."""
    rng = np.random.default_rng(zlib.crc32(layer.encode()))
    scale = np.sqrt(2 / np.prod(shape[:-1]))
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def peak_mib() -> float:
    """Returns the peak memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    # `resource.getrusage` is wrong for a child: it starts from its parent's peak.
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def serve(make: Callable[[Spec], Job], about: Mapping[str, str]) -> None:
    """Answers requests until standard input ends; `about` has versions of packages."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come among the answers
    case, jobs = None, {}  # only of one case: memory
    for line in sys.stdin:
        request = json.loads(line)
        if request["case"] != case:
            case, jobs = request["case"], {}
        try:
            answer = _answer(request, jobs, make) if case else {"about": dict(about)}
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            answer = {"error": f"{type(error).__name__}: {text}"}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(
    request: Any, jobs: dict[str, Job], make: Callable[[Spec], Job]
) -> dict[str, Any]:
    key = json.dumps(request["spec"])
    if key not in jobs:
        jobs[key] = make(request["spec"])
    job, seconds = jobs[key], []
    if request["runs"] > 1:
        job()  # caches and threads are the other side's when a request comes
    for _ in range(request["runs"]):
        start = time.perf_counter()
        result = job()
        end = time.perf_counter()
        seconds.append(result if isinstance(result, Seconds) else end - start)
    if isinstance(result, (Seconds, dict)):
        return {"seconds": seconds, "value": result}
    if result is None:
        return {"seconds": seconds}
    return {"seconds": seconds, "value": float(np.abs(np.asarray(result)).mean())}


class Worker:
    """The other end: a process of `script`, started at the first request."""

    def __init__(self, python: str, script: str) -> None:
        self._command = [python, str(HERE / script), "serve"]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, case: str, spec: Spec, runs: int = 1) -> dict[str, Any]:
        """Runs a job; returns "seconds" and "value", or "error"; "" asks "about"."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
                text=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = {"case": case, "spec": dict(spec), "runs": runs}
        try:
            print(json.dumps(request), file=stdin, flush=True)
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        code, self._process = self._process.wait(), None  # the next starts anew
        command = " ".join(self._command)
        return {"error": f"its process ended ({code}); see {command} <<< REQUEST"}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def environment(**more: str) -> dict[str, str]:
    """The environment of all processes: nothing compiled before is found."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return {**kept, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", **more}
