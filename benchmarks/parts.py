"""Where a model's time goes: each part compiled by itself, its score and its gradient.

    python benchmarks/parts.py [--model NAME] [--size HEIGHT WIDTH]

Milliseconds are medians of 9 runs, seconds those of tracing and compiling once, without
a cache on disk. The gradient is with respect to the distorted image. The parts add up
to more than the whole, which shares some of their work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spips_jax
from spips_jax.classical import errors
from spips_jax.classical.filters import mean
from spips_jax.facts import facts
from spips_jax.metric import Metric

Part = Callable[[jax.Array, jax.Array], Any]


def parts(metric: Metric, x: jax.Array, y: jax.Array) -> Iterator[tuple[str, Part]]:
    """Each part as a function of a reference and a distorted image."""
    module, variables = metric.module, metric.variables

    def run(method: Any, *values: Any) -> Any:
        return module.apply(variables, *values, method=method)

    x_taps, pooled = run("extract", x).taps, None
    pooled = jax.jit(lambda x, y: run("pool", run("extract", x), run("extract", y)))(
        x, y
    )
    yield "whole", lambda x, y: metric(x, y)
    yield "backbone, distorted", lambda x, y: run("extract", y).taps

    def statistics_of_taps(x: jax.Array, y: jax.Array) -> Any:
        # The image only scales the taps, so that they have a gradient.
        scale = y.mean()
        first = spips_jax.Features(image=x, taps=x_taps)
        second = first.replace(taps={k: v * scale for k, v in x_taps.items()})
        return run("pool", first, second).deep

    yield "statistics of taps", statistics_of_taps
    for names in ("ssim",), ("ms_ssim",), ("ssim", "ms_ssim"):
        if set(names) <= set(module.classical):
            yield " and ".join(names), _mean_errors(names)
    for name in module.classical:
        if name not in ("ssim", "ms_ssim"):
            yield name, _mean_errors((name,))
    yield "facts", facts

    def head(x: jax.Array, y: jax.Array) -> Any:
        scale = y.mean()
        return run("score_pooled", jax.tree.map(lambda v: v * scale, pooled))

    yield "head", head


def _mean_errors(names: tuple[str, ...]) -> Part:
    return lambda x, y: jax.tree.map(mean, errors(x, y, names=names))


def measure(part: Part, x: jax.Array, y: jax.Array) -> tuple[float, float]:
    """Milliseconds to run, seconds to compile."""
    start = time.perf_counter()
    program = jax.jit(part).lower(x, y).compile()
    compiled = time.perf_counter() - start
    times = []
    for _ in range(9):
        start = time.perf_counter()
        jax.block_until_ready(program(x, y))
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), compiled


def gradient(part: Part) -> Part:
    """The gradient of the sum of all that a part returns."""

    def total(x: jax.Array, y: jax.Array) -> jax.Array:
        return sum(leaf.sum() for leaf in jax.tree.leaves(part(x, y)))

    return jax.grad(total, argnums=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="spips-lite")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256))
    args = parser.parse_args()
    random = np.random.default_rng(0)
    x = random.uniform(size=(*args.size, 3)).astype(np.float32)
    y = np.clip(x + random.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)
    x, y = jnp.asarray(x), jnp.asarray(y)
    metric = spips_jax.load(args.model)
    print(
        f"{args.model}, {args.size[0]}x{args.size[1]}, {jax.devices()[0].device_kind}"
    )
    print(f"{'':24}{'score':>16}{'gradient':>22}")
    print(f"{'':24}{'ms':>8}{'compile s':>11}{'ms':>11}{'compile s':>11}")
    for name, part in parts(metric, x, y):
        score, slope = measure(part, x, y), measure(gradient(part), x, y)
        print(
            f"{name:24}{score[0]:8.1f}{score[1]:11.2f}{slope[0]:11.1f}{slope[1]:11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
