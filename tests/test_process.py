"""Forks of a process that has used JAX: refused, where they would hang."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import spips_jax
from spips_jax import weights
from spips_jax.process import ForkError, free_memory

IMAGE = np.full((8, 8, 3), 0.5, np.float32)


@pytest.fixture
def forked(monkeypatch):
    """A metric that was loaded and called in what is now the parent process."""
    metric = spips_jax.load("psnr")
    metric(IMAGE, IMAGE)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    return metric


@pytest.mark.parametrize(
    "use",
    [
        lambda metric: metric(IMAGE, IMAGE),
        lambda metric: metric.explain(IMAGE, IMAGE),
        lambda metric: metric.features(IMAGE),
        lambda _: spips_jax.load("spips-lite"),
        lambda _: spips_jax.load("spips-lite", trained=False),
        lambda _: spips_jax.Metric.load(weights.PACKAGE / "spips-lite.safetensors"),
    ],
    ids=["call", "explain", "features", "load", "load untrained", "load a file"],
)
def test_every_use_in_a_fork_says_how_to_start_workers(forked, use):
    message = r"process 1 is a fork of \d+, .* with the method spawn"
    with pytest.raises(ForkError, match=message) as caught:
        use(forked)
    assert "\n" not in str(caught.value)


def test_real_forks():
    """What was only loaded, and has no weights, has not started JAX."""
    program = """
import os, warnings
import numpy as np
import spips_jax

warnings.simplefilter("ignore")  # JAX's own, of os.fork
metric = spips_jax.load("psnr")
image = np.full((8, 8, 3), 0.5, np.float32)

def in_a_fork():
    child = os.fork()
    if not child:
        try:
            print(float(metric(image, image)), flush=True)
        except spips_jax.process.ForkError:
            print("refused", flush=True)
        os._exit(0)
    os.waitpid(child, 0)

in_a_fork()
metric(image, image)
in_a_fork()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["100.0", "refused"], done.stderr


def test_free_memory_is_less_than_there_is():
    free = free_memory()
    if free is None:
        pytest.skip("the system does not tell")
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= whole
