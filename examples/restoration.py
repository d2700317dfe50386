"""Super-resolution of one photograph: a deep prior that descends SPIPS.

All that is known is a photograph at half its size. Bicubic interpolation is its blurred
double; a small convolutional network with random weights makes, from fixed noise, what
is to be added to it (a deep image prior: Ulyanov et al., arXiv 1711.10925). Its weights
are trained until the sum, halved, is what is known: by the squared error, or by SPIPS
beside it. The network itself prefers natural images to noise; no other photograph is
needed. The photograph at full size only judges.

    python examples/restoration.py --output out/restoration
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import photographs

import spips_jax
from spips_jax import Metric, perceptual_loss


@dataclass(frozen=True)
class Size:
    side: int
    width: int
    steps: int
    every: int


SIZES = {
    "tiny": Size(64, 8, 4, 2),
    "small": Size(128, 24, 400, 100),
    "large": Size(384, 128, 4000, 100),
}


class Prior(nn.Module):
    """An hourglass with skips, from noise `(1, H, W, C)` to what an image lacks."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        skips = []
        for number in range(3):
            skips.append(nn.Conv(4, (1, 1), name=f"skip{number}")(x))
            x = nn.Conv(self.width, (3, 3), strides=2, name=f"down{number}")(x)
            x = nn.leaky_relu(nn.GroupNorm(8, name=f"norm{number}")(x), 0.2)
        for number, skip in reversed(list(enumerate(skips))):
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "linear")
            x = jnp.concatenate([x, skip], axis=-1)
            x = nn.Conv(self.width, (3, 3), name=f"up{number}")(x)
            x = nn.leaky_relu(nn.GroupNorm(8, name=f"up_norm{number}")(x), 0.2)
        zeros = nn.initializers.zeros
        return nn.Conv(3, (1, 1), kernel_init=zeros, name="to_rgb")(x)


def halved(images: jax.Array) -> jax.Array:
    """What the camera did: means of 2x2 pixels."""
    rows = images[..., ::2, :, :] + images[..., 1::2, :, :]
    return (rows[..., ::2, :] + rows[..., 1::2, :]) / 4


def squared_error(metric: Metric, known: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.square(known - image).mean()


def with_spips(metric: Metric, known: jax.Array, image: jax.Array) -> jax.Array:
    squares = squared_error(metric, known, image)
    return squares + 0.01 * perceptual_loss(metric, known, image)


def restore(
    metric: Metric,
    known: np.ndarray,
    start: np.ndarray,
    size: Size,
    loss: Callable[..., jax.Array],
) -> np.ndarray:
    """The image whose half is what is known."""
    model = Prior(size.width)
    noise = jax.random.uniform(jax.random.key(0), (1, size.side, size.side, 16))
    params = jax.jit(model.init)(jax.random.key(1), noise)
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, size.steps))

    # Not a `lax.scan`: XLA's convolutions on CPUs are several times slower in a loop.
    @jax.jit
    def step(params: Any, state: Any, metric: Metric) -> tuple[Any, Any, jax.Array]:
        def of(params: Any) -> jax.Array:
            image = start[None] + model.apply(params, noise)
            return loss(metric, known[None], halved(image))

        value, slopes = jax.value_and_grad(of)(params)
        updates, state = optimiser.update(slopes, state)
        return optax.apply_updates(params, updates), state, value

    state = optimiser.init(params)
    for number in range(1, size.steps + 1):
        params, state, value = step(params, state, metric)
        if number % size.every == 0:
            print(f"  {loss.__name__} step {number}: {float(value):.5f}")
    return (start + np.asarray(jax.jit(model.apply)(params, noise)[0])).clip(0, 1)


def main(words: list[str]) -> None:
    args = photographs.arguments(__doc__, tuple(SIZES)).parse_args(words)
    size = SIZES[args.size]
    output = photographs.new_folder(args.output)
    image = photographs.read(args.photographs, least=size.side)[0]
    top, left = (int(0.2 * (length - size.side)) for length in image.shape[:2])
    left = (image.shape[1] - size.side) // 2
    image = image[top : top + size.side, left : left + size.side]
    known = np.asarray(halved(image))
    metric = spips_jax.load(args.model)

    start = np.asarray(jax.image.resize(known, image.shape, "cubic").clip(0, 1))
    found = {"bicubic": start}
    for name, loss in (("squared error", squared_error), (args.model, with_spips)):
        found[name] = restore(metric, known, start, size, loss)
    judges = {name: spips_jax.load(name) for name in ("psnr", "vsi", "mdsi")}
    judges[args.model] = metric
    measured = {
        name: {label: float(judge(image, one)) for label, judge in judges.items()}
        for name, one in found.items()
    }
    print(f"\nagainst the photograph at full size\n{photographs.table(measured)}")
    shown = {"photograph": image, **found}
    part = np.s_[size.side // 4 : -size.side // 4, size.side // 4 : -size.side // 4]
    photographs.sheet(
        output / "restoration.png",
        {"": list(shown.values()), "part": [one[part] for one in shown.values()]},
        scale=2,
        titles=list(shown),
    )
    print(f"\nwritten: {output / 'restoration.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
