"""How smoothly a score moves when both images are cropped a little, or halved.

    python benchmarks/smoothness.py PHOTOGRAPHS

Crops of a pair by a few rows show people the same distortion; a metric whose score
jumps between them cannot compare encoders. Halving both images hides part of it, and a
metric should see that: what counts is that it does so by about the same factor
everywhere. For JPEG, blur and noise at level 3 of `spips_jax.data.distortions`, on the
middle 512x384 of every photograph in a folder, it prints:

- crops: the relative change of the score, median and largest over all pairs, without
  1 and 5 rows at the top, and without 5 % of the height and width at each corner;
- halving, by means of 2x2: the median ratio of the scores, half against whole, and the
  middle half of the ratios over photographs, mean over the distortions.

Scores that are higher for better images count as 1 minus the score.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import spips_jax
from spips_jax.cache import cache_compilations
from spips_jax.data.distortions import distort

WIDTH, HEIGHT = 512, 384
KINDS = ("jpeg", "gaussian_blur", "gaussian_noise")
LEVEL = 3
MODELS = (
    "spips-lite", "spips-alexnet", "lpips-alexnet", "ms-ssim", "haarpsi", "fsim",
)  # fmt: skip


def middle(path: Path) -> np.ndarray | None:
    """The middle of a photograph; None if it is too small."""
    with Image.open(path) as file:
        image = np.asarray(file.convert("RGB"))
    top, left = (image.shape[0] - HEIGHT) // 2, (image.shape[1] - WIDTH) // 2
    if top < 0 or left < 0:
        return None
    return image[top : top + HEIGHT, left : left + WIDTH]


def middles(folder: Path, *, every: int = 1) -> list[np.ndarray]:
    """The middles of a folder's photographs that are large enough; says how many."""
    found = [middle(path) for path in sorted(folder.glob("*.png"))[::every]]
    photographs = [image for image in found if image is not None]
    print(f"{len(photographs)} of {len(found)} photographs are large enough\n")
    return photographs


def crops(image: np.ndarray) -> dict[str, list[np.ndarray]]:
    """By name, what is left of an image."""
    rows, columns = round(0.05 * HEIGHT), round(0.05 * WIDTH)
    starts = [(y, x) for y in (0, rows) for x in (0, columns)]
    inside = HEIGHT - rows, WIDTH - columns
    return {
        "1 row": [image[1:]],
        "5 rows": [image[5:]],
        "5 %": [image[y : y + inside[0], x : x + inside[1]] for y, x in starts],
    }


def half(image: np.ndarray) -> np.ndarray:
    return image.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3)) / 255


def report(name: str, photographs: list[np.ndarray]) -> list[str]:
    """A metric's cells of the table."""
    metric = spips_jax.load(name)

    def badness(reference: np.ndarray, distorted: np.ndarray) -> float:
        score = float(metric(reference, distorted))
        return 1 - score if metric.higher_is_better else score

    changes: dict[str, list[float]] = {}
    halves: dict[str, list[float]] = {}
    for number, reference in enumerate(photographs):
        for kind in KINDS:
            distorted = distort(reference, kind, LEVEL, seed=number)
            whole = badness(reference, distorted)
            others = crops(distorted)
            for crop, parts in crops(reference).items():
                for part, other in zip(parts, others[crop], strict=True):
                    change = abs(badness(part, other) / whole - 1)
                    changes.setdefault(crop, []).append(change)
            ratio = badness(half(reference), half(distorted)) / whole
            halves.setdefault(kind, []).append(ratio)
    quarters = np.array([np.percentile(one, [25, 50, 75]) for one in halves.values()])
    low, median, high = quarters.mean(0)
    cells = [
        f"{100 * np.median(one):.2f} %, {100 * max(one):.1f} %"
        for one in changes.values()
    ]
    return [name, *cells, f"{median:.2f}", f"{low:.2f} to {high:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="a folder of PNG files")
    parser.add_argument("--model", nargs="+", default=MODELS)
    args = parser.parse_args()
    cache_compilations()
    photographs = middles(args.photographs)
    print("| metric | 1 row | 5 rows | 5 % | halved: median | middle half |")
    print("|---|---|---|---|---|---|")
    for name in args.model:
        print(f"| {' | '.join(report(name, photographs))} |", flush=True)


if __name__ == "__main__":
    main()
