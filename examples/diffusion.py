"""A small flow-matching model of patches, with and without SPIPS.

Flow matching (Lipman et al., arXiv 2210.02747) learns the velocity x1 - x0 along the
straight way x_t = (1 - t) x0 + t x1 from noise x0 to a photograph x1. At any time the
velocity gives an estimate of the photograph, x_t + (1 - t) v, and SPIPS compares this
estimate with it. Near the noise the estimate can be but a blur, which no metric should
punish: its weight is t^2, so that early times hardly count.

Two models of the same size see the same patches, times and noise; one has SPIPS beside
the squared error. The curves are of a photograph that neither was trained on, the
samples start from the same noise. A model that trains for a minute or two draws
textures, not objects.

    python examples/diffusion.py --output out/diffusion
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import photographs

import spips_jax
from spips_jax import Metric, perceptual_loss

WEIGHT = 0.3
"""Of SPIPS beside the squared error of velocities, which is about 0.2."""


@dataclass(frozen=True)
class Size:
    side: int
    batch: int
    width: int
    steps: int
    every: int
    samples: int


SIZES = {
    "tiny": Size(32, 4, 8, 4, 2, 2),
    "small": Size(32, 16, 24, 300, 25, 8),
    "large": Size(64, 128, 128, 50_000, 1000, 12),
}


class Block(nnx.Module):
    """A residual block that knows the time."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(width, num_groups=8, rngs=rngs)
        self.first = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.time = nnx.Linear(width, width, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.second = nnx.Conv(width, width, (3, 3), kernel_init=zeros, rngs=rngs)

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        y = self.first(nnx.silu(self.norm(x)))
        y = y + self.time(time)[:, None, None]
        return x + self.second(nnx.silu(y))


class Velocity(nnx.Module):
    """A U-Net of two halvings: from x_t `(N, H, W, 3)` and t `(N,)` to a velocity."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.width = width
        self.enter = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(6)])
        self.down = nnx.List(
            [nnx.Conv(width, width, (3, 3), strides=2, rngs=rngs) for _ in range(2)]
        )
        self.up = nnx.List(
            [nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(2)]
        )
        self.leave = nnx.Conv(width, 3, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        waves = 2 ** jnp.arange(self.width // 2) * (100 / 2 ** (self.width // 2))
        angles = time[:, None] * waves[None]
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        fine = self.blocks[0](self.enter(x), time)
        middle = self.blocks[1](self.down[0](fine), time)
        coarse = self.blocks[3](self.blocks[2](self.down[1](middle), time), time)
        middle = self.blocks[4](middle + self.up[0](_twice(coarse)), time)
        fine = self.blocks[5](fine + self.up[1](_twice(middle)), time)
        return self.leave(nnx.silu(fine))


def _twice(x: jax.Array) -> jax.Array:
    n, height, width, channels = x.shape
    return jax.image.resize(x, (n, 2 * height, 2 * width, channels), "nearest")


def losses(
    model: Velocity, metric: Metric, clean: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The squared error of velocities, and SPIPS of estimates; images in (-1, 1)."""
    times, noises = jax.random.split(key)
    time = jax.random.uniform(times, clean.shape[:1])
    noise = jax.random.normal(noises, clean.shape)
    share = time[:, None, None, None]
    moving = (1 - share) * noise + share * clean
    velocity = model(moving, time)
    estimate = moving + (1 - share) * velocity
    squares = jnp.square(velocity - (clean - noise)).mean()
    perceived = perceptual_loss(
        metric, clean, estimate, value_range=(-1, 1), weights=jnp.square(time)
    )
    return squares, perceived


@partial(nnx.jit, static_argnames="weight")
def train_step(
    model: Velocity,
    optimiser: nnx.Optimizer,
    metric: Metric,
    clean: jax.Array,
    key: jax.Array,
    *,
    weight: float,
) -> None:
    def loss(model: Velocity) -> jax.Array:
        squares, perceived = losses(model, metric, clean, key)
        return squares + weight * perceived if weight else squares

    optimiser.update(model, nnx.grad(loss)(model))


@partial(nnx.jit, static_argnames=("side", "count", "steps"))
def sample(
    model: Velocity, key: jax.Array, *, side: int, count: int, steps: int = 40
) -> jax.Array:
    """Euler steps from noise to images `(N, H, W, 3)` in [0, 1]."""

    def step(x: jax.Array, time: jax.Array) -> tuple[jax.Array, None]:
        return x + model(x, jnp.full((count,), time)) / steps, None

    noise = jax.random.normal(key, (count, side, side, 3))
    images, _ = jax.lax.scan(step, noise, jnp.arange(steps) / steps)
    return (images.clip(-1, 1) + 1) / 2


def main(words: list[str]) -> None:
    args = photographs.arguments(__doc__, tuple(SIZES)).parse_args(words)
    size = SIZES[args.size]
    output = photographs.new_folder(args.output)
    *seen, unseen = photographs.read(args.photographs, least=size.side)
    metric = spips_jax.load(args.model)
    held = 2 * next(photographs.patches([unseen], size.side, 32, seed=2)) - 1
    judge = nnx.jit(losses)

    points: dict[str, dict[str, list[tuple[int, float]]]] = {
        "squared error, another photograph": {},
        f"{args.model} of estimates": {},
    }
    samples: dict[str, list[np.ndarray]] = {}
    for name, weight in (("squared error", 0.0), (f"and {args.model}", WEIGHT)):
        model = Velocity(size.width, rngs=nnx.Rngs(0))
        tx = optax.adam(optax.cosine_decay_schedule(2e-3, size.steps))
        optimiser = nnx.Optimizer(model, tx, wrt=nnx.Param)
        batches = photographs.patches(seen, size.side, size.batch, seed=0)
        key = jax.random.key(0)
        for lines in points.values():
            lines[name] = []
        for number in range(size.steps):
            clean = 2 * next(batches) - 1
            key, one = jax.random.split(key)
            train_step(model, optimiser, metric, clean, one, weight=weight)
            if (number + 1) % size.every == 0:
                found = judge(model, metric, held, jax.random.key(1))
                for lines, value in zip(points.values(), found, strict=True):
                    lines[name].append((number + 1, float(value)))
                values = ", ".join(f"{float(value):.4f}" for value in found)
                print(f"  {name} step {number + 1}: {values}")
        drawn = sample(model, jax.random.key(3), side=size.side, count=size.samples)
        samples[name] = list(np.asarray(drawn))
    samples = {"photographs": list((held[: size.samples] + 1) / 2), **samples}
    photographs.curves(output / "curves.png", points)
    photographs.sheet(output / "samples.png", samples, scale=3)
    print(f"\nwritten: {output / 'curves.png'}, {output / 'samples.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
