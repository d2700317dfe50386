"""What the gradient of a metric is like, and where descending it leads.

    python benchmarks/descent.py PHOTOGRAPHS --model spips-lite
    python benchmarks/descent.py PHOTOGRAPHS --only descent --dtype bfloat16
    python benchmarks/descent.py PHOTOGRAPHS --pictures docs/images

On middle squares of photographs, three tables:

- norms: the largest norm of the gradient on straight ways from noise, grey and black to
  a photograph, for constants of texture and structure from 1e-6 to 1e-2;
- descent: 2,000 steps of Adam on the pixels, by `perceptual_loss` and nothing else,
  from noise, grey, black and the photograph itself; how near start and end are to the
  photograph by PSNR, SSIM and LPIPS-AlexNet. For the first photograph also by the score
  alone, which `perceptual_loss` is not by default;
- steps: how often a small step against the gradient lowers the score. Pairs are a
  photograph and its copy by each of twenty kinds of distortion; a step is as long as a
  share of the way that the pixels are apart.

LPIPS needs its weights (`spips models lpips-alexnet`), else its columns are empty.
Needs the extras [cli] and [train], for the distortions and for Optax.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import spips_jax
from spips_jax import Metric, perceptual_loss
from spips_jax.cache import cache_compilations
from spips_jax.data.distortions import DISTORTIONS, distort
from spips_jax.weights import WeightsError

SIDE = 128
CONSTANTS = (1e-6, 1e-4, 1e-3, 1e-2)
STEPS, RATE = 2000, 0.02
BLOCK = 100
"""Steps in one compiled call."""

SHARE = 0.01
"""Of the distance of a pair, the length of a small step."""


def square(path: Path) -> np.ndarray:
    """The middle of a photograph, `(SIDE, SIDE, 3)` float32 in [0, 1]."""
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"), np.float32) / 255
    top, left = ((length - SIDE) // 2 for length in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


def starts(reference: np.ndarray) -> dict[str, np.ndarray]:
    """By name, what is far from a photograph."""
    noise = np.random.default_rng(0).random(reference.shape, np.float32)
    return {
        "noise": noise,
        "grey": np.full_like(reference, 0.5),
        "black": np.zeros_like(reference),
    }


def with_constant(metric: Metric, constant: float) -> Metric:
    module = metric.module.clone(moment_epsilon=constant)
    return metric.replace(module=module)


def norms(metric: Metric, photographs: list[np.ndarray]) -> Iterator[str]:
    shares = np.linspace(0, 0.98, 50, dtype=np.float32)
    yield "| constant | " + " | ".join(starts(photographs[0])) + " | largest |"
    yield "|---" * 5 + "|"
    for constant in CONSTANTS:
        loss = partial(perceptual_loss, with_constant(metric, constant))
        slope = jax.jit(jax.grad(loss, 1))
        largest = dict.fromkeys(starts(photographs[0]), 0.0)
        for reference in photographs:
            for name, start in starts(reference).items():
                for share in shares:
                    image = start + share * (reference - start)
                    norm = float(np.linalg.norm(slope(reference, image)))
                    largest[name] = max(largest[name], norm)
        cells = [f"{one:.2f}" for one in (*largest.values(), max(largest.values()))]
        yield f"| {constant:g} | {' | '.join(cells)} |"


def descend(
    loss: Callable[..., jax.Array],
    metric: Metric,
    reference: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """`STEPS` steps of Adam on the pixels, which stay in [0, 1]."""
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    @jax.jit
    def block(image, state):
        def step(carry, _):
            image, state = carry
            value, slope = jax.value_and_grad(loss, 2)(metric, reference, image)
            updates, state = optimiser.update(slope, state)
            return (jnp.clip(image + updates, 0, 1), state), value

        return jax.lax.scan(step, (image, state), length=BLOCK)

    image, state = jnp.asarray(start), optimiser.init(jnp.asarray(start))
    for _ in range(STEPS // BLOCK):
        (image, state), values = block(image, state)
        if not (np.isfinite(values).all() and np.isfinite(image).all()):
            raise SystemExit("a value or a pixel is not finite")
    return np.asarray(image)


def judges() -> dict[str, Metric]:
    found = {"PSNR": spips_jax.load("psnr"), "SSIM": spips_jax.load("ssim")}
    try:
        found["LPIPS"] = spips_jax.load("lpips-alexnet")
    except WeightsError as error:
        print(f"without LPIPS: {error}\n")
    return found


def descents(
    metric: Metric, photographs: list[np.ndarray], pictures: Path | None
) -> Iterator[str]:
    known = judges()
    yield f"| from | {' | '.join(known)} |"
    yield "|---" * (1 + len(known)) + "|"
    panels: list[list[np.ndarray]] = []
    ways = [("loss", perceptual_loss, one) for one in photographs]
    score = partial(perceptual_loss, uniform=0.0, facts=True)
    for way, loss, reference in (*ways, ("score alone", score, photographs[0])):
        ends = []
        for name, start in (*starts(reference).items(), ("photograph", reference)):
            end = descend(loss, metric, reference, start)
            cells = []
            for judge in known.values():
                values = (float(judge(reference, image)) for image in (start, end))
                cells.append(" to ".join(f"{value:.3f}" for value in values))
            yield f"| {way}, {name} | {' | '.join(cells)} |"
            ends.append(end)
        panels.append([reference, *ends[:3]])
    if pictures:
        titles = ["target", "from noise", "from grey", "from black"]
        rows = {"the loss": panels[0], "the score alone": panels[-1]}
        write(rows, pictures / "descent.png", titles)


def small_steps(metric: Metric, photographs: list[np.ndarray]) -> Iterator[str]:
    step = jax.jit(jax.value_and_grad(perceptual_loss, 2))
    lower, count, worst = 0, 0, []
    for reference in photographs:
        for kind in DISTORTIONS:
            image = distort(np.uint8(np.rint(255 * reference)), kind, level=3, seed=0)
            distorted = np.float32(image) / 255
            value, slope = step(metric, reference, distorted)
            apart = np.linalg.norm(distorted - reference)
            way = SHARE * apart * np.asarray(slope) / np.linalg.norm(slope)
            falls = float(step(metric, reference, distorted - way)[0]) < float(value)
            lower, count = lower + falls, count + 1
            if not falls:
                worst.append(kind)
    yield f"{lower} of {count} steps lower the score ({100 * lower / count:.1f} %)"
    if worst:
        yield f"not: {', '.join(worst)}"


def write(rows: dict[str, list[np.ndarray]], path: Path, titles: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), len(titles), figsize=(2 * len(titles), 2.1 * len(rows)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for (name, images), places in zip(rows.items(), axes, strict=True):
        for title, image, place in zip(titles, images, places, strict=True):
            place.imshow(np.clip(image, 0, 1))
            place.set(xticks=[], yticks=[], frame_on=False)
            if places[0] is axes[0, 0]:
                place.set_title(title, fontsize=10)
        places[0].set_ylabel(name, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def gradient_picture(metric: Metric, photographs: list[np.ndarray], path: Path) -> None:
    """Where the score would fall fastest, beside the distorted image."""
    slope = jax.jit(jax.grad(perceptual_loss, 2))
    rows = {}
    for reference, kind in zip(photographs, ("jpeg", "gaussian_blur"), strict=False):
        image = distort(np.uint8(np.rint(255 * reference)), kind, level=4, seed=0)
        distorted = np.float32(image) / 255
        downhill = -np.asarray(slope(metric, reference, distorted))
        error = reference - distorted
        shown = [
            0.5 + 0.5 * x / np.quantile(np.abs(x), 0.995) for x in (downhill, error)
        ]
        rows[kind.replace("_", " ")] = [reference, distorted, *shown]
    titles = ["reference", "distorted", "downhill for the loss", "and for PSNR"]
    write(rows, path, titles)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=" ".join(__doc__.partition("\n\n")[0].split())
    )
    parser.add_argument("photographs", type=Path, help="a folder of PNGs")
    parser.add_argument("--model", default="spips-lite", help="default: %(default)s")
    parser.add_argument("--every", type=int, default=6, help="take every so manieth")
    parser.add_argument("--dtype", default="float32", help="of the backbone")
    parser.add_argument("--pictures", type=Path, help="a folder to draw into")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("norms", "descent", "steps"),
        default=("norms", "descent", "steps"),
    )
    args = parser.parse_args()
    cache_compilations()
    files = sorted(args.photographs.glob("*.png"))[:: args.every]
    photographs = [square(path) for path in files]
    metric = spips_jax.load(args.model, dtype=args.dtype)
    print(f"{args.model}, {args.dtype}, {len(photographs)} photographs")
    if args.pictures:
        gradient_picture(metric, photographs, args.pictures / "gradient.png")
    parts = {
        "norms": partial(norms, metric, photographs),
        "descent": partial(descents, metric, photographs, args.pictures),
        "steps": partial(small_steps, metric, photographs),
    }
    for name in args.only:
        print(f"\n{name}\n")
        for line in parts[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
