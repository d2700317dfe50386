"""How fast the loader delivers batches, and whether a training step waits for them.

    python benchmarks/loading.py [--rounds 5] [--batches 24] [--vgg16]

Builds two synthetic sets in a temporary folder: 64x64 triplets stored as PNG, like
BAPPS, and 512x384 pairs stored as BMP, like TID2013 and LIVE. Each round measures every
setting of threads and worker processes once; the median over rounds is printed.

With --vgg16 it instead prints what share of its time a forward pass of spips-vgg16 with
random weights, a lower bound for a training step, waits for its batch (of 50 triplets,
of 4 pairs).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from spips_jax import data
from spips_jax.data.builder import Card, IqaBuilder, Row
from spips_jax.data.scenes import scene
from spips_jax.kinds import CHOICES, PAIRS, Kind

SETTINGS = ((0, 1), (0, 2), (0, 4), (0, 8), (1, 1), (2, 1), (2, 2), (4, 1))
"""(worker processes, threads in each)."""


def _card(kind: Kind, opinion: str) -> Card:
    return Card(
        title=kind.name,
        kind=kind,
        opinion=opinion,
        scale=(0, 1),
        layout="",
        url="",
        licence="",
        citation="",
    )


class LoadingTriplets(IqaBuilder):
    """64x64 triplets, PNG."""

    CARD: ClassVar[Card] = _card(CHOICES, "judgement")
    MARKER = "."

    def read_rows(self, root: Path) -> dict[str, Sequence[Row]]:
        return {"full": _rows(root, ("reference", "p0", "p1"), "judgement", 512)}


class LoadingPairs(IqaBuilder):
    """512x384 pairs, BMP."""

    CARD: ClassVar[Card] = _card(PAIRS, "mos")
    MARKER = "."

    def read_rows(self, root: Path) -> dict[str, Sequence[Row]]:
        return {"full": _rows(root, ("reference", "distorted"), "mos", 192)}


def _rows(root: Path, names: Sequence[str], opinion: str, count: int) -> list[Row]:
    files = sorted(root.iterdir())
    rows = []
    for number in range(count):
        values = {
            "id": str(number),
            "reference_id": "",
            "distortion": "",
            "level": 0,
            opinion: 0.5,
        }
        images = {
            name: files[(number + 7 * place) % len(files)]
            for place, name in enumerate(names)
        }
        rows.append(Row(images, values, str(number)))
    return rows


def _make(
    builder: type[IqaBuilder], folder: Path, height: int, width: int
) -> data.Dataset:
    import tensorflow_datasets as tfds

    images = folder / f"{width}x{height}"
    images.mkdir()
    ending = "png" if width == 64 else "bmp"
    for number in range(24):
        pixels = scene(number, height=height, width=width)
        noise = np.random.default_rng(number).normal(0, 4, pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03d}.{ending}")
    built = builder(partial=True, data_dir=folder / "sets")
    built.download_and_prepare(
        download_dir=folder / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=images),
    )
    return data.open_folder(built.data_dir, name=builder.name)


def _rate(
    dataset: data.Dataset, batch_size: int, batches: int, workers: int, threads: int
) -> float:
    """Examples per second in steady state."""
    loader = data.train_batches(
        [data.Source(dataset=dataset)],
        batch_size=batch_size,
        seed=0,
        num_workers=workers,
        num_threads=threads,
    )
    with loader:
        # Skip some, so that few timed batches were read ahead before the clock starts.
        for _ in range(2 + 4 * workers):
            next(loader)
        start = time.perf_counter()
        for _ in range(batches):
            next(loader)
        return batches * batch_size / (time.perf_counter() - start)


def _vgg16_step(triplets: data.Dataset, pairs: data.Dataset, steps: int) -> None:
    """Prints what share of a training step's time is spent waiting for its batch."""
    import jax

    import spips_jax
    from spips_jax import weights

    rng = np.random.default_rng(0)
    params: dict = {}
    for name, shape in weights.expected_shapes("vgg16").items():
        *path, leaf = name.split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        scale = np.sqrt(2 / np.prod(shape[:-1])) if leaf == "kernel" else 0.1
        node[leaf] = (scale * rng.normal(size=shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vgg16.safetensors"
        weights.write_weights(file, params, network="vgg16")
        metric = spips_jax.load("spips-vgg16", weights=file)

    # A training step takes at least its forward pass, so it waits for its batch at most
    # as long as this does.
    score = jax.jit(lambda metric, reference, distorted: metric(reference, distorted))

    for dataset, size in ((triplets, 50), (pairs, 4)):
        loader = data.train_batches(
            [data.Source(dataset=dataset)], batch_size=size, seed=0
        )
        waits, totals = [], []
        with loader:
            for number in range(steps + 2):
                start = time.perf_counter()
                batch = next(loader)
                waited = time.perf_counter() - start
                for name in dataset.images[1:]:
                    jax.block_until_ready(
                        score(metric, batch["reference"], batch[name])
                    )
                if number >= 2:  # the first compiles
                    waits.append(waited)
                    totals.append(time.perf_counter() - start)
        print(
            f"{dataset.name}, batch of {size}: waits"
            f" {sum(waits) / sum(totals):.2%} of {statistics.median(totals):.2f} s"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--vgg16", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        triplets = _make(LoadingTriplets, folder, 64, 64)
        pairs = _make(LoadingPairs, folder, 384, 512)
        print(f"{os.cpu_count()} cores")
        if args.vgg16:
            _vgg16_step(triplets, pairs, args.batches)
            return
        rates: dict = {}
        for _ in range(args.rounds):
            for setting in SETTINGS:
                for dataset, size in ((triplets, 64), (pairs, 16)):
                    rate = _rate(dataset, size, args.batches, *setting)
                    rates.setdefault((dataset.name, setting), []).append(rate)
        for (what, (workers, threads)), values in sorted(rates.items()):
            print(
                f"{what:17} {workers} workers {threads} threads:"
                f" {statistics.median(values):6.0f} examples/s"
                f" ({min(values):.0f} to {max(values):.0f})"
            )


if __name__ == "__main__":
    main()
