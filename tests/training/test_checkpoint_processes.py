"""Checkpoints of processes that are killed, and of several that work together."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from checkpoint_cases import assert_same, names

from spips_jax.training.checkpoint import Checkpoints

SAVER = """
import os, sys
import numpy as np
from spips_jax.training.checkpoint import Checkpoints

def state(step):
    rng = np.random.default_rng(step)
    return {f"array{i}": rng.normal(size=(20, 1000)) for i in range(20)}

def run(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        found = checkpoints.latest(state(0))
        step = 0 if found is None else found.step
        while True:
            step += 1
            metric = np.sin(step)
            checkpoints.save(step, state(step), record={"at": step}, metric=metric)

if __name__ == "__main__":
    for line in sys.stdin:  # a child for each line, so that imports are paid for once
        child = os.fork()
        if not child:
            run(sys.argv[1])
        print(child, flush=True)
        os.waitpid(child, 0)
"""


def saver_state(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {f"array{i}": rng.normal(size=(20, 1000)) for i in range(20)}


def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    program = tmp_path / "saver.py"
    program.write_text(SAVER)
    waits = random.Random(0)
    reached = kills = 0
    with subprocess.Popen(
        [sys.executable, "-W", "error", program, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        assert saver.stderr is not None
        while kills < 6 or not reached:
            saver.stdin.write("\n")
            saver.stdin.flush()
            child = int(saver.stdout.readline())
            time.sleep(waits.uniform(0.1, 1))
            os.kill(child, signal.SIGKILL)
            kills += 1
            with Checkpoints(folder, read_only=True) as checkpoints:
                found = checkpoints.latest(saver_state(0))
            if found is None:
                assert not reached
                continue
            assert found.step >= reached
            reached = found.step
            assert found.record == {"at": reached}
            assert_same(found.state, saver_state(reached))
        saver.stdin.close()
        assert not saver.stderr.read()
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(reached + 1, saver_state(reached + 1), record={})
    # Nothing half written or half deleted is left: two, and the best.
    assert names(folder) >= {str(reached), str(reached + 1)}
    assert len(names(folder)) <= 3
    with Checkpoints(folder, read_only=True) as checkpoints:
        best = checkpoints.best(saver_state(0))
    assert best is not None
    assert_same(best.state, saver_state(best.step))


PROCESSES = """
import pathlib, sys, warnings
import jax
import numpy as np
folder, port, index = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
from jax.experimental import multihost_utils
from spips_jax.training.checkpoint import CheckpointError, Checkpoints

def state(step):
    rng = np.random.default_rng(step)
    return {
        "normal": rng.normal(size=100).astype(np.float32),
        "zeros": -np.zeros(3, np.float32),
        "empty": np.zeros((0, 2), np.float32),
        "count": np.uint32(step),
    }

def show(what, found):
    same = found and all(
        np.asarray(value).tobytes() == found.state[name].tobytes()
        for name, value in state(found.step).items()
    )
    print(what, found and (found.step, found.record, found.metric, same))

with Checkpoints(folder, keep=2) as checkpoints:
    show("nothing", checkpoints.latest(state(0)))
    for step in range(1, 6):
        metric = 1 / step
        checkpoints.save(step, state(step), record={"at": step}, metric=metric)
    show("latest", checkpoints.latest(state(0)))
    show("best", checkpoints.best(state(0)))
    checkpoints.save(5, state(9), record={})
    if index == "1":
        for path in pathlib.Path(folder, "5", "state").glob("d/*"):
            path.unlink()
    multihost_utils.sync_global_devices("damaged")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        show("damaged", checkpoints.latest(state(0)))
    print("warnings", len(caught), *caught)
    checkpoints.save(5, state(5), record={"again": 5})
    show("again", checkpoints.latest(state(0)))
    try:
        checkpoints.latest({**state(0), "count": np.int32(0)})
    except CheckpointError as error:
        print("error", error)
with Checkpoints(folder, read_only=True) as checkpoints:
    show("resumed", checkpoints.latest(jax.eval_shape(lambda: state(0))))
"""


def test_two_processes_save_once_and_resume_from_one_step(
    two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Real JAX processes over loopback, on one folder."""
    folder = tmp_path / "checkpoints"
    outputs = two_processes(PROCESSES, folder)
    first, second = (
        [line for line in output.splitlines() if not line.startswith("[Gloo]")]
        for output in outputs
    )
    assert first[:4] == [
        "nothing None",
        "latest (5, {'at': 5}, 0.2, True)",
        "best (1, {'at': 1}, 1.0, True)",
        "damaged (4, {'at': 4}, 0.25, True)",
    ]
    assert first[4].startswith("warnings 1 ")
    assert first[5] == "again (5, {'again': 5}, None, True)"
    assert "['count'] is uint32 () in it and int32 () here" in first[6]
    assert first[7:] == ["resumed (5, {'again': 5}, None, True)"]
    assert second[4] == "warnings 0"  # one log
    assert second[:4] + second[5:] == first[:4] + first[5:]
    assert names(folder) == {"1", "4", "5", "5.damaged"}
