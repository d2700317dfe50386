"""The classical metrics compared with piq's, in processes of their own by turns.

    python -m venv /tmp/piq && /tmp/piq/bin/pip install piq==0.8.0 torchvision
    python benchmarks/metrics.py --piq /tmp/piq/bin/python

piq has an environment of its own because it imports torchvision, which must fit
PyTorch. Both use as many threads as there are cores. A row has the medians of both and
the ratio of medians, for a score and for its gradient in the distorted image.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NAMES = ("psnr", "ssim", "ms-ssim", "vif", "fsim", "fsimc", "vsi", "gmsd", "mdsi",
         "haarpsi")  # fmt: skip
SIZES = ((256, 256), (384, 512))

Job = Callable[[], Any]


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a noisy copy, float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x[..., None] / 9 + y[..., None] / 14 + rng.uniform(0, 6, 3))
    reference = 0.5 + 0.3 * waves + 0.1 * rng.random((height, width, 3))
    distorted = reference + 0.05 * rng.normal(size=reference.shape)
    return np.float32(reference), np.float32(distorted.clip(0, 1))


def ours(name: str, reference: np.ndarray, distorted: np.ndarray) -> tuple[Job, Job]:
    """A score and a gradient in JAX, compiled."""
    import jax

    from spips_jax import classical

    measure = getattr(classical, name.replace("-", "_"))
    pair = jax.device_put(reference), jax.device_put(distorted)
    score, gradient = jax.jit(measure), jax.jit(jax.grad(measure, argnums=1))
    return (
        lambda: score(*pair).block_until_ready(),
        lambda: gradient(*pair).block_until_ready(),
    )


def peer(name: str, reference: np.ndarray, distorted: np.ndarray) -> tuple[Job, Job]:
    """The same in piq."""
    import piq  # type: ignore[import-not-found]
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    measure = {
        "ssim": lambda x, y: piq.ssim(x, y, downsample=False),
        "ms-ssim": piq.multi_scale_ssim,
        "vif": piq.vif_p,
        "fsim": lambda x, y: piq.fsim(x, y, chromatic=False),
        "fsimc": piq.fsim,
    }.get(name) or getattr(piq, name)
    x, y = (
        torch.from_numpy(image).permute(2, 0, 1)[None]
        for image in (distorted, reference)
    )

    def score() -> float:
        with torch.inference_mode():
            return float(measure(x, y))

    leaf = x.clone().requires_grad_()

    def gradient() -> Any:
        return torch.autograd.grad(measure(leaf, y), leaf)

    return score, gradient


def serve(which: str) -> None:
    """Times what is asked for on standard input, once a line."""
    jobs: dict[str, tuple[Job, Job]] = {}
    for line in sys.stdin:
        name, height, width, kind = line.split()
        key = f"{name} {height} {width}"
        if key not in jobs:
            make = ours if which == "ours" else peer
            jobs[key] = make(name, *images(int(height), int(width)))
        job = jobs[key][kind == "gradient"]
        start = time.perf_counter()
        job()
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--piq", help="Python of an environment that has piq")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    if not args.piq:
        parser.error("name the Python of an environment that has piq: --piq PYTHON")
    workers = [
        subprocess.Popen(
            [python, __file__, "--serve", which],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for python, which in ((sys.executable, "ours"), (args.piq, "piq"))
    ]

    def ask(worker: subprocess.Popen[str], question: str) -> float:
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(question, file=worker.stdin, flush=True)
        answer = worker.stdout.readline()
        if not answer:
            sys.exit(f"a process ended at {question!r}: run it with --serve to see why")
        return float(answer)

    print("| metric | size | score, ms | piq | ratio | gradient, ms | piq | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.only:
        for height, width in SIZES:
            cells = []
            for kind in ("score", "gradient"):
                question = f"{name} {height} {width} {kind}"
                for worker in workers:  # compilation, first allocation
                    ask(worker, question)
                    ask(worker, question)
                times = [
                    [ask(worker, question) for worker in workers]
                    for _ in range(args.rounds)
                ]
                mine, theirs = 1e3 * np.median(times, axis=0)
                cells += [f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}"]
            print(f"| {name} | {height}x{width} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
