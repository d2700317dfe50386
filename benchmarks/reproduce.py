"""How far a score moves with precision, batch, devices, canvas, PyTorch and versions.

    python benchmarks/reproduce.py --model spips-lite
    python benchmarks/reproduce.py --only versions --save here.npz     # on one machine
    python benchmarks/reproduce.py --only versions --against here.npz  # on another

Of 16 pairs of 256x256, the package's example turned and mirrored, without and with
noise, it prints the largest relative difference of the score, and the median and the
largest of the gradient in the distorted image, from each pair by itself in float32.

"TF32" and "bf16_3x" are what accelerators do where the precision is not stated, here
imitated in the convolutions: their inputs rounded to 11 bits; a product of two numbers
of 16 bits, each in two bfloat16, without the product of the small parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import spips_jax
from spips_jax import Metric, winograd
from spips_jax.cache import cache_compilations
from spips_jax.weights import PACKAGE

PAIRS = 16
DEVICES = 8
PARTS = ("batches", "devices", "canvas", "precision", "torch", "versions")

Found = tuple[np.ndarray, np.ndarray | None]
"""Scores `(N,)` and gradients `(N, H, W, 3)`."""


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """References and distorted images `(16, 256, 256, 3)`, float32 in [0, 1]."""
    example = PACKAGE / "example"
    both = np.stack(
        [
            spips_jax.read_image(example / name)
            for name in ("reference.png", "distorted.jpg")
        ]
    )
    turned = [np.rot90(both, k, axes=(1, 2)) for k in range(4)]
    turned += [one[:, :, ::-1] for one in turned]
    references, distorted = np.stack(turned, axis=1).astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(0, 0.02, references.shape)
    noisy = np.clip(distorted + noise, 0, 1).astype(np.float32)
    return np.concatenate([references] * 2), np.concatenate([distorted, noisy])


def total(metric: Metric, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores = metric(x, y)
    return scores.sum(), scores


def run(metric: Metric, x: np.ndarray, y: np.ndarray, *, batch: int) -> Found:
    """Scores and gradients, `batch` pairs in a program."""
    step = jax.jit(jax.grad(total, argnums=2, has_aux=True))
    scores, gradients = [], []
    for begin in range(0, len(x), batch):
        part = slice(begin, begin + batch)
        gradient, score = step(metric, x[part], y[part])
        scores.append(np.asarray(score))
        gradients.append(np.asarray(gradient))
    return np.concatenate(scores), np.concatenate(gradients)


def on_devices(metric: Metric, x: np.ndarray, y: np.ndarray, *, count: int) -> Found:
    """All pairs in one program, their batch split over devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("batch",))
    split = jax.sharding.NamedSharding(mesh, jax.P("batch"))
    step = jax.jit(jax.grad(total, argnums=2, has_aux=True))
    everywhere = jax.device_put(metric, jax.sharding.NamedSharding(mesh, jax.P()))
    gradient, score = step(everywhere, *jax.device_put((x, y), split))
    return np.asarray(score), np.asarray(gradient)


def rounded(mode: str) -> Callable[..., jax.Array]:
    """A convolution whose inputs are rounded as an accelerator's are."""

    def bits(x: jax.Array, count: int) -> jax.Array:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=count)

    def convolve(x: jax.Array, kernel: jax.Array, *args: object, **options: object):
        plain = partial(jax.lax.conv_general_dilated, **options)
        if mode == "TF32":
            return plain(bits(x, 10), bits(kernel, 10), *args)
        x_high, kernel_high = bits(x, 7), bits(kernel, 7)
        x_low, kernel_low = bits(x - x_high, 7), bits(kernel - kernel_high, 7)
        large = plain(x_high, kernel_high, *args)
        small = plain(x_high, kernel_low, *args) + plain(x_low, kernel_high, *args)
        return large + small

    return convolve


def of_torch(metric: Metric, x: np.ndarray, y: np.ndarray, *, double: bool) -> Found:
    from weights_convert import stages, torch_spips

    twin = torch_spips.of_network(metric.module, metric.variables["params"])
    found = stages.of_torch(twin.double() if double else twin, x, y)
    return found["score"], found["gradient"]


def row(name: str, found: Found, expected: Found) -> str:
    scores = np.abs(found[0] / expected[0] - 1).max()
    cells = [f"{scores:.1e}" if scores else "0"]
    if found[1] is None or expected[1] is None:
        cells += ["", ""]
    else:
        apart, norms = (
            np.linalg.norm(value.reshape(len(value), -1), axis=1)
            for value in (found[1] - expected[1], expected[1])
        )
        shares = apart / norms
        cells += [
            f"{one:.1e}" if one else "0" for one in (np.median(shares), shares.max())
        ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="spips-lite")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--save", type=Path, help="write scores and gradients")
    parser.add_argument("--against", type=Path, help="compare with such a file")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    cache_compilations()
    metric = spips_jax.load(args.model)
    x, y = pairs()
    alone = run(metric, x, y, batch=1)
    print(f"{args.model}, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    print("\n| | score | gradient, median | gradient, largest |\n|---|---|---|---|")
    show = partial(print, flush=True)
    show(row("again", run(metric, x, y, batch=1), alone))
    if "batches" in args.only:
        for batch in (2, 4, 8, 16):
            show(row(f"batch {batch}", run(metric, x, y, batch=batch), alone))
    if "devices" in args.only:
        for count in (1, 2, 4, 8):
            found = on_devices(metric, x, y, count=count)
            show(row(f"batch 16 over {count} devices", found, alone))
    if "canvas" in args.only:
        scores = spips_jax.AnySize(metric).pairs(list(zip(x, y, strict=True)))
        show(row("on a canvas", (np.asarray(scores), None), alone))
    if "precision" in args.only:
        for mode in ("bf16_3x", "TF32"):
            with mock.patch.object(winograd, "conv_general_dilated", rounded(mode)):
                jax.clear_caches()  # what was traced knows nothing of the mode
                # The gradients of the rounding are no accelerator's.
                found = run(metric, x, y, batch=1)[0], None
                show(row(f"convolutions in {mode}", found, alone))
        jax.clear_caches()
        half = spips_jax.load(args.model, dtype=jnp.bfloat16)
        show(row("backbone in bfloat16", run(half, x, y, batch=1), alone))
    if "torch" in args.only:
        for double in (False, True):
            found = of_torch(metric, x, y, double=double)
            name = f"PyTorch, float{64 if double else 32}"
            show(row(name, found, alone))
    if args.save:
        np.savez(args.save, scores=alone[0], gradients=alone[1])
    if args.against:
        other = np.load(args.against)
        show(row(str(args.against), alone, (other["scores"], other["gradients"])))


if __name__ == "__main__":
    main()
