"""Speed and memory compared with peers; `README.md` says how to read the table.

    python benchmarks/speed.py [--size 256] [--rounds 15] [--only NAME ...]

Times are ratios of medians over interleaved rounds (ours, peer, ours, peer, ...), so
that load or throttling of the machine affects both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spips_jax import Metric, backbones, classical, winograd
from spips_jax.classical import structural
from spips_jax.images import imagenet_normalize
from spips_jax.spips import Spips

# PyTorch is imported only where it is used, so that our own processes run without it.

Row = tuple[str, str, str, str]
"""What was measured, its median, the middle half of the rounds, the fastest rounds."""

ROWS = "{:<52} {:>7}  {:<14}  {:>7}"


def time_row(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int,
    *,
    above: bool = False,
) -> Row:
    """Times both in alternation; `above` reports how much longer ours takes, in %."""
    for function in (ours, theirs, ours, theirs):
        function()
    times = np.empty((rounds, 2))
    for round_times in times:
        for i, function in enumerate((ours, theirs)):
            start = time.perf_counter()
            function()
            round_times[i] = time.perf_counter() - start
    median = np.divide(*np.median(times, axis=0))
    low, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.75])
    fastest = np.divide(*times.min(axis=0))

    def text(ratio: float) -> str:
        return f"{100 * (ratio - 1):.0f} %" if above else f"{ratio:.2f}"

    return name, text(median), f"{text(low)} to {text(high)}", text(fastest)


# ---- what is measured --------------------------------------------------------------


def image_pair(height: int, width: int) -> np.ndarray:
    """Coarse noise and a noisier copy, `(2, H, W, 3)` float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    coarse = rng.random((-(-height // 8), -(-width // 8), 3))
    reference = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    distorted = reference + rng.normal(0, 0.05, reference.shape)
    return np.clip(np.stack([reference, distorted]), 0, 1).astype(np.float32)


def random_metric(backbone: str) -> Metric:
    """SPIPS with random weights, scaled so that activations keep their magnitude."""
    rng = np.random.default_rng(0)
    module = Spips(backbone=backbones.build(backbone))
    image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim < 4:
            return jnp.full(leaf.shape, 0.01, leaf.dtype)
        scale = np.sqrt(2 / np.prod(leaf.shape[:3]))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    variables = jax.eval_shape(module.init, jax.random.key(0), image, image)
    variables = jax.tree.map(fill, variables)
    return Metric(variables=variables, module=module, name=f"spips-{backbone}")


def run_backbone(metric: Metric, images: jax.Array) -> list[jax.Array]:
    """The backbone's taps of normalised images `(N, H, W, 3)`, shallow to deep."""
    module, params = metric.module.backbone, metric.variables["params"]["backbone"]
    taps = module.apply({"params": params}, images)
    return [taps[name] for name in module.taps]


def to_torch(images: ArrayLike) -> Any:
    """NHWC to NCHW in the same memory order: PyTorch's channels_last."""
    import torch

    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


# ---- benchmarks --------------------------------------------------------------------


def vgg16(options: argparse.Namespace) -> Iterator[Row]:
    """All taps of a pair up to relu5_3, and the gradient with respect to one image."""
    import peer
    import torch

    metric = random_metric("vgg16")
    network = peer.build("vgg16", metric.variables["params"]["backbone"])
    images = imagenet_normalize(jnp.asarray(image_pair(options.size, options.size)))
    images_torch = to_torch(images)
    forward = jax.jit(run_backbone)
    for ours, theirs in zip(
        forward(metric, images), network(images_torch), strict=True
    ):
        tolerance = 1e-5 * float(theirs.max())
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=tolerance)

    def forward_torch() -> None:
        with torch.inference_mode():
            network(images_torch)

    yield time_row(
        "VGG16 taps of a pair / PyTorch",
        lambda: jax.block_until_ready(forward(metric, images)),
        forward_torch,
        options.rounds,
    )

    @jax.jit
    @partial(jax.grad, argnums=1)
    def gradient(metric: Metric, images: jax.Array) -> jax.Array:
        taps = run_backbone(metric, images)
        return jnp.sum(jnp.stack([jnp.square(tap).mean() for tap in taps]))

    def gradient_torch() -> None:
        leaf = images_torch[:1].clone().requires_grad_()
        torch.stack([tap.square().mean() for tap in network(leaf)]).sum().backward()

    yield time_row(
        "VGG16 gradient in one image / PyTorch",
        lambda: gradient(metric, images[:1]).block_until_ready(),
        gradient_torch,
        options.rounds,
    )


def winograd_gain(options: argparse.Namespace) -> Iterator[Row]:
    """The time with `spips_jax.winograd` against XLA's convolutions."""
    metric = random_metric("vgg16")
    images = imagenet_normalize(jnp.asarray(image_pair(options.size, options.size)))

    def compiled() -> Callable[[Metric, jax.Array], list[jax.Array]]:
        fresh = jax.jit(lambda metric, images: run_backbone(metric, images))
        return fresh.lower(metric, images).compile()

    by_winograd, threshold = compiled(), winograd.MIN_CHANNELS
    winograd.MIN_CHANNELS = sys.maxsize
    by_xla = compiled()
    winograd.MIN_CHANNELS = threshold
    yield time_row(
        "VGG16 taps by Winograd / by XLA's convolutions",
        lambda: jax.block_until_ready(by_winograd(metric, images)),
        lambda: jax.block_until_ready(by_xla(metric, images)),
        options.rounds,
    )


def ssim(options: argparse.Namespace) -> Iterator[Row]:
    import torch
    from pytorch_msssim.ssim import (  # type: ignore[import-untyped]
        _fspecial_gauss_1d,
        _ssim,
    )

    images = image_pair(options.size, options.size)
    reference, distorted = jnp.asarray(images)
    x, y = to_torch(images).contiguous().split(1)  # faster for it than NHWC
    window = _fspecial_gauss_1d(11, 1.5).repeat([3, 1, 1, 1])
    ssim_map = jax.jit(structural.ssim_quality_map)

    def theirs() -> None:
        with torch.inference_mode():  # computes a map; its means cost next to nothing
            _ssim(x, y, data_range=1.0, win=window, size_average=False)

    yield time_row(
        "SSIM map / pytorch-msssim",
        lambda: ssim_map(reference, distorted).block_until_ready(),
        theirs,
        options.rounds,
    )


def ms_ssim(options: argparse.Namespace) -> Iterator[Row]:
    import pytorch_msssim  # type: ignore[import-untyped]
    import torch

    images = image_pair(options.size, options.size)
    reference, distorted = jnp.asarray(images)
    x, y = to_torch(images).contiguous().split(1)
    ours = jax.jit(classical.ms_ssim)

    def theirs() -> None:
        with torch.inference_mode():
            pytorch_msssim.ms_ssim(x, y, data_range=1.0)

    yield time_row(
        "MS-SSIM / pytorch-msssim",
        lambda: ours(reference, distorted).block_until_ready(),
        theirs,
        options.rounds,
    )


def overhead(options: argparse.Namespace) -> Iterator[Row]:
    """The cost of streams, classical maps, fusion, head and checks."""
    metric = random_metric("vgg16")
    reference, distorted = images = jnp.asarray(image_pair(options.size, options.size))
    forward = jax.jit(lambda metric, x: run_backbone(metric, imagenet_normalize(x)))
    yield time_row(
        "spips-vgg16 beyond its backbone",
        lambda: metric(reference, distorted).block_until_ready(),
        lambda: jax.block_until_ready(forward(metric, images)),
        options.rounds,
        above=True,
    )


def reuse(options: argparse.Namespace) -> Iterator[Row]:
    metric = random_metric("vgg16")
    reference, distorted = jnp.asarray(image_pair(options.size, options.size))
    features = metric.features(reference)
    yield time_row(
        "spips-vgg16 with the reference's features / without",
        lambda: metric(features, distorted).block_until_ready(),
        lambda: metric(reference, distorted).block_until_ready(),
        options.rounds,
    )


def cold_start(options: argparse.Namespace) -> Iterator[Row]:
    """The time from the start of a process to its first score, imports included."""
    for backbone in ("vgg16", "alexnet"):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "warm"):
                start = time.perf_counter()
                fresh_process(
                    "speed.py",
                    *("--first-score", backbone, str(options.size), str(options.size)),
                    JAX_COMPILATION_CACHE_DIR=cache,
                    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                )
                seconds = time.perf_counter() - start
                name = f"first score of spips-{backbone}, {state} compilation cache"
                yield name, f"{seconds:.1f} s", "", ""


def memory(_: argparse.Namespace) -> Iterator[Row]:
    """The peak memory of a fresh process that scores one pair of 512x768."""
    for backbone in ("vgg16", "alexnet"):
        ours = fresh_process("speed.py", "--first-score", backbone, "512", "768")
        theirs = fresh_process("peer.py", backbone, "512", "768")
        name = f"peak memory of spips-{backbone}, 512x768 / PyTorch"
        yield name, f"{ours / theirs:.2f}", f"{ours:.0f} / {theirs:.0f} MiB", ""


BENCHMARKS = {
    "vgg16": vgg16,
    "winograd": winograd_gain,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "overhead": overhead,
    "reuse": reuse,
    "cold_start": cold_start,
    "memory": memory,
}


# ---- fresh processes ---------------------------------------------------------------


def fresh_process(*command: str, **environment: str) -> float:
    """Runs a script in this folder; returns its peak memory in MiB (Linux only)."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(command[0])), *command[1:]],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # `resource.getrusage` is wrong for a child: it starts from its parent's peak.
    return int(process.stdout.split("VmHWM:")[1].split()[0]) / 1024


def first_score(backbone: str, height: str, width: str) -> None:
    metric, images = random_metric(backbone), image_pair(int(height), int(width))
    metric(*images).block_until_ready()
    print(Path("/proc/self/status").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each side")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--first-score", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_score:
        return first_score(*options.first_score)

    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as JAX uses
    print(ROWS.format("", "median", "middle half", "fastest"))
    for name in options.only:
        for row in BENCHMARKS[name](options):
            print(ROWS.format(*row), flush=True)


if __name__ == "__main__":
    main()
