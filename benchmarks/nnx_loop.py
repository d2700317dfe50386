"""What a loss adds to a small NNX training loop at 256x256, batch 8.

    python benchmarks/nnx_loop.py squares lpips-alexnet spips-lite

For each loss a process of its own: seconds to compile the step, the median of nine
steps, and the peak memory of the process. "squares" is the loop without a metric. LPIPS
has random weights, which does not change the time.
"""

from __future__ import annotations

import subprocess
import sys
import time

import worker


def measure(name: str) -> None:
    import flax.nnx as nnx
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    import ours

    from spips_jax import perceptual_loss

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Conv(3, 32, (3, 3), rngs=rngs)
            self.second = nnx.Conv(32, 3, (3, 3), rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.second(nnx.relu(self.first(x)))

    metric = None if name == "squares" else ours.load(name)
    clean, noisy = jax.device_put(worker.pairs((8, 256, 256)))
    model = Model(nnx.Rngs(0))
    optimiser = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimiser, metric, clean, noisy):
        def loss(model):
            output = model(noisy)
            squares = jnp.square(output - clean).mean()
            if metric is None:
                return squares
            return squares + 0.1 * perceptual_loss(metric, clean, output)

        value, slopes = nnx.value_and_grad(loss)(model)
        optimiser.update(model, slopes)
        return value

    start = time.perf_counter()
    step(model, optimiser, metric, clean, noisy).block_until_ready()
    first = time.perf_counter() - start
    steps = []
    for _ in range(9):
        start = time.perf_counter()
        step(model, optimiser, metric, clean, noisy).block_until_ready()
        steps.append(time.perf_counter() - start)
    median = float(np.median(steps))
    print(
        f"| {name} | {first - median:.1f} s | {median:.2f} s | {worker.peak_mib():.0f}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measure(sys.argv[2])
    else:
        print("| loss | compile | a step | MiB |\n|---|---|---|---|")
        for name in sys.argv[1:]:
            words = [sys.executable, __file__, "--one", name]
            done = subprocess.run(
                words, capture_output=True, text=True, env=worker.environment()
            )
            if done.returncode:
                sys.exit(done.stderr)
            print(f"{done.stdout.strip()} |", flush=True)
