"""Training steps: speed, memory, cost of many devices, time to the first step.

    python benchmarks/training.py                  # eight minutes on two cores
    python benchmarks/training.py --only alexnet/pooled --seconds 20

Every case runs in its own process, which is started with `--case NAME --devices N` and
prints one line of JSON. Batches are random pixels already in memory, so only the step
is timed; benchmarks/loading.py times the loader. Weights are random, which does not
change the cost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any

BATCH, SIDE = 32, 64
TRAINABLE = {
    "pooled": "perceptual,semantic,head,gain",
    "frozen": "perceptual,semantic,head,gain",
    "full": ".*",
}
"""What is trained: on pooled pairs, on images with a frozen backbone, everything."""

CASES = [f"{network}/{what}" for network in ("alexnet", "vgg16") for what in TRAINABLE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seconds", type=float, default=10, help="of steps per case")
    parser.add_argument("--rounds", type=int, default=3, help="of 8 devices against 1")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.devices, args.seconds)))
        return
    print("| case | steps/s | peak memory | first step, cold | warm |")
    print("|---|---|---|---|---|")
    for case in args.only:
        with tempfile.TemporaryDirectory() as home:
            cold = run(case, devices=1, seconds=args.seconds, home=home)
            warm = run(case, devices=1, seconds=0, home=home)
        print(
            f"| {case} | {cold['steps_per_second']:.3g} | {cold['peak_mib']:.0f} MiB |"
            f" {cold['first_step']:.1f} s | {warm['first_step']:.1f} s |",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as home:
        for case in ("alexnet/pooled", "alexnet/full"):
            if case not in args.only:
                continue
            ratios = []
            for _ in range(args.rounds):
                one, eight = (
                    run(case, devices=n, seconds=args.seconds, home=home)
                    for n in (1, 8)
                )
                ratios.append(one["steps_per_second"] / eight["steps_per_second"])
            ratios.sort()
            print(
                f"{case}: a step on 8 virtual devices / on 1, median"
                f" {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


def run(case: str, *, devices: int, seconds: float, home: str) -> dict[str, float]:
    """Measures in a fresh process that caches compiled programs in `home`."""
    words = ["--case", case, "--devices", str(devices), "--seconds", str(seconds)]
    result = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "SPIPS_HOME": home},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def measure(case: str, devices: int, seconds: float) -> dict[str, float]:
    begin = time.perf_counter()
    import jax
    import numpy as np

    from spips_jax import cache, kinds, parallel, training
    from spips_jax.training import setup, step
    from spips_jax.training.objectives import Objective

    jax.config.update("jax_num_cpu_devices", devices)
    cache.cache_compilations()
    network, _, what = case.partition("/")
    config = training.default()
    config.model.name = f"spips-{network}"
    config.model.weights = "random"
    config.model.trainable = TRAINABLE[what]
    model = setup.build_model(config)
    tx = setup.build_optimizer(config)
    state = parallel.replicate(setup.build_state(config, model, tx))
    frozen = parallel.replicate(model.frozen)
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {"mos": rng.random(BATCH, np.float32)}
    if what == "pooled":
        shape = (BATCH, 1, model.network.size)
        batch[step.POOLED] = 0.1 * rng.random(shape, np.float32)
    else:
        for name in ("reference", "distorted"):
            batch[name] = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    objective = Objective(
        kind=kinds.PAIRS, opinion="mos", weights=(("plcc", 1.0), ("rank", 1.0))
    )
    train_step = parallel.mapped(
        partial(
            step.train_step,
            network=model.network,
            objective=objective,
            tx=tx,
            decay=0.99,
        ),
        donate=True,
    )

    def go(state: Any) -> Any:
        state, metrics = train_step(state, frozen, parallel.split(batch))
        float(metrics["loss"])  # as the training loop also does
        return state

    state = go(state)
    first_step = time.perf_counter() - begin
    # Some programs are recompiled when their input state comes from a step.
    for _ in range(3):
        state = go(state)
    count, begin = 0, time.perf_counter()
    while seconds and (time.perf_counter() - begin < seconds or count < 3):
        state = go(state)
        count += 1
    return {
        "first_step": first_step,
        "steps_per_second": count / (time.perf_counter() - begin),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
