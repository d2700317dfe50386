"""How far a score depends on which of two images is called the reference.

    python benchmarks/symmetry.py PHOTOGRAPHS --every 4

For every kind of `spips_jax.data.distortions` at level 3, on the middle 512x384 of
every photograph in a folder, or of each N-th, it compares the score of a pair with that
of the images exchanged. It prints the relative change: the median, the 95th percentile
and the largest over all pairs, and the kinds with the largest median.

Scores that are higher for better images count as 1 minus the score.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from smoothness import middles

import spips_jax
from spips_jax.cache import cache_compilations
from spips_jax.data.distortions import DISTORTIONS, distort

LEVEL = 3
MODELS = ("spips-lite", "spips-alexnet", "spips-squeezenet", "mdsi")


def report(name: str, photographs: list[np.ndarray]) -> list[str]:
    """A metric's cells of the table."""
    metric = spips_jax.load(name)
    changes: dict[str, list[float]] = {kind: [] for kind in DISTORTIONS}
    for number, reference in enumerate(photographs):
        for kind, found in changes.items():
            distorted = distort(reference, kind, LEVEL, seed=number)
            forth, back = (
                float(metric(*pair))
                for pair in ((reference, distorted), (distorted, reference))
            )
            if metric.higher_is_better:
                forth, back = 1 - forth, 1 - back
            found.append(back / forth - 1)
    sizes = np.abs(np.concatenate(list(changes.values())))
    medians = {kind: float(np.median(found)) for kind, found in changes.items()}
    most = sorted(medians, key=lambda kind: -abs(medians[kind]))[:3]
    return [
        name,
        *(f"{100 * value:.1f} %" for value in np.percentile(sizes, [50, 95, 100])),
        ", ".join(f"{kind} {100 * medians[kind]:+.1f} %" for kind in most),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="a folder of PNG files")
    parser.add_argument("--every", type=int, default=1, help="take each N-th of them")
    parser.add_argument("--model", nargs="+", default=MODELS)
    args = parser.parse_args()
    cache_compilations()
    photographs = middles(args.photographs, every=args.every)
    print("| metric | median | 95 % below | largest | kinds with the largest median |")
    print("|---|---|---|---|---|")
    for name in args.model:
        print(f"| {' | '.join(report(name, photographs))} |", flush=True)


if __name__ == "__main__":
    main()
