"""An autoencoder fine-tuned with SPIPS, against one fine-tuned with squared errors.

An autoencoder squeezes patches of photographs through a small latent. It is trained
with squared errors first. Then two copies go on for the same number of steps: one with
squared errors, one with SPIPS beside them. Both have the same size and see the
same patches. Patches of a photograph that was in no training are decoded by both, and
judged by metrics that neither was trained on: VSI and MDSI (SPIPS has no map of them),
and LPIPS where its weights are at hand. PSNR is the squared error's own.

    python examples/autoencoder.py --output out/autoencoder
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import photographs
from flax.training.train_state import TrainState

import spips_jax
from spips_jax import Metric, perceptual_loss
from spips_jax.weights import WeightsError

SQUARES = 1.0
"""How much of the squared error is kept beside SPIPS; it is a hundredth of SPIPS."""


@dataclass(frozen=True)
class Size:
    side: int
    batch: int
    width: int
    latent: int
    steps: int
    tuning: int
    shown: int


SIZES = {
    "tiny": Size(32, 4, 8, 4, 4, 4, 2),
    "small": Size(48, 8, 32, 6, 600, 250, 6),
    "large": Size(128, 64, 128, 8, 20_000, 10_000, 8),
}


class Autoencoder(nn.Module):
    """Two halvings to a latent of a few channels, and back."""

    width: int
    latent: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number in range(2):
            features = self.width * (1 + number)
            x = nn.gelu(nn.Conv(features, (3, 3), strides=2, name=f"down{number}")(x))
        x = nn.Conv(self.latent, (1, 1), name="to_latent")(x)
        x = nn.Conv(2 * self.width, (3, 3), name="from_latent")(x)
        for number in range(2):
            n, height, width, channels = x.shape
            x = jax.image.resize(x, (n, 2 * height, 2 * width, channels), "nearest")
            features = self.width * (2 - number)
            x = nn.gelu(nn.Conv(features, (3, 3), name=f"up{number}")(x))
        # From grey: the first steps need not find it.
        return 0.5 + nn.Conv(3, (3, 3), name="to_rgb")(x)


def squared_error(metric: Metric, clean: jax.Array, output: jax.Array) -> jax.Array:
    return jnp.square(clean - output).mean()


def with_spips(metric: Metric, clean: jax.Array, output: jax.Array) -> jax.Array:
    squares = squared_error(metric, clean, output)
    return perceptual_loss(metric, clean, output) + SQUARES * squares


@partial(jax.jit, static_argnames="loss", donate_argnums=0)
def train_step(
    state: TrainState, metric: Metric, clean: jax.Array, *, loss: Callable[..., Any]
) -> tuple[TrainState, jax.Array]:
    def of(params: Any) -> jax.Array:
        return loss(metric, clean, state.apply_fn({"params": params}, clean))

    value, slopes = jax.value_and_grad(of)(state.params)
    return state.apply_gradients(grads=slopes), value


def train(
    state: TrainState,
    metric: Metric,
    batches: Iterator[np.ndarray],
    steps: int,
    loss: Callable[..., Any],
) -> TrainState:
    # A schedule and moments of its own: nothing is left of an earlier training's.
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = state.replace(tx=tx, opt_state=tx.init(state.params))
    state = jax.tree.map(jnp.copy, state)  # a step overwrites its own
    for number in range(steps):
        state, value = train_step(state, metric, next(batches), loss=loss)
        if number == 0 or (number + 1) % 100 == 0:
            print(f"  {loss.__name__} step {number + 1}: {float(value):.4f}")
    return state


def judges() -> dict[str, Metric]:
    """Metrics that nothing was trained on, but PSNR."""
    found = {name: spips_jax.load(name) for name in ("psnr", "vsi", "mdsi")}
    try:
        found["lpips-alexnet"] = spips_jax.load("lpips-alexnet")
    except WeightsError:
        print("without LPIPS, whose weights are not here: spips models lpips-alexnet")
    return found


def main(words: list[str]) -> None:
    args = photographs.arguments(__doc__, tuple(SIZES)).parse_args(words)
    size = SIZES[args.size]
    output = photographs.new_folder(args.output)
    *seen, unseen = photographs.read(args.photographs, least=size.side)
    metric = spips_jax.load(args.model)

    model = Autoencoder(size.width, size.latent)
    image = jnp.zeros((1, size.side, size.side, 3))
    state = TrainState.create(
        apply_fn=jax.jit(model.apply),
        params=model.init(jax.random.key(0), image)["params"],
        tx=optax.identity(),
    )
    draw = partial(photographs.patches, seen, size.side, size.batch)
    state = train(state, metric, draw(seed=0), size.steps, squared_error)
    tuned = {
        "squared error": train(state, metric, draw(seed=1), size.tuning, squared_error),
        args.model: train(state, metric, draw(seed=1), size.tuning, with_spips),
    }

    clean = next(photographs.patches([unseen], size.side, 32, seed=2))
    rows = {"photograph": list(clean[: size.shown])}
    measured: dict[str, dict[str, float]] = {}
    known = {**judges(), args.model: metric}
    for name, one in tuned.items():
        decoded = one.apply_fn({"params": one.params}, clean).clip(0, 1)
        rows[name] = list(np.asarray(decoded)[: size.shown])
        measured[name] = {
            label: float(np.mean(judge(clean, decoded)))
            for label, judge in known.items()
        }
    print("\n32 patches of another photograph, fine-tuned with")
    print(photographs.table(measured))
    photographs.sheet(output / "autoencoder.png", rows, scale=3)
    print(f"\nwritten: {output / 'autoencoder.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
