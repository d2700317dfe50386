"""Shared by tests of evaluation: a tiny set of every kind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from spips_jax import data, evaluation
from spips_jax.evaluation import figures


@pytest.fixture(autouse=True)
def _spips_home(spips_home: None) -> None:
    """Every test here keeps what it caches in `home`."""


def _image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + phase)
    return (255 * (0.5 + 0.4 * waves)).clip(0, 255).astype(np.uint8)


def _noisy(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    return (image + rng.normal(0, sigma, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets: pairs of two image sizes, ranks, forced choices, JND.

    Pairs are there twice: of `points`, scores compare within one reference only.
    """
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    pairs = root / "pairs"
    pairs.mkdir()
    rows = []
    for number, (height, width) in enumerate([(40, 40), (40, 40), (36, 44)]):
        reference = _image(rng, height, width)
        Image.fromarray(reference).save(pairs / f"r{number}.png")
        for level in range(1, 8):
            noisy = _noisy(rng, reference, 4.0 * level)
            name = f"r{number}-{level}.png"
            Image.fromarray(noisy).save(pairs / name)
            mos = 8 - level + 0.8 * float(rng.normal())
            kind = ("even", "odd")[level % 2]
            rows.append([f"r{number}.png", name, mos, 0.5, kind, level])
    with (pairs / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["reference", "distorted", "mos", "std", "distortion", "level"])
        writer.writerows(rows)
    listed = {"data_dir": root, "csv_file": pairs / "list.csv"}
    data.prepare("pair_list", config="tiny", **listed)
    data.prepare("pair_list", config="points", comparable="reference", **listed)
    kinds = ["jpeg", "gaussian_blur"]
    data.prepare("synthetic", data_dir=root, scenes=3, size=40, kinds=kinds)
    for task, split, subsets in (
        ("2afc", "val", ("cnn", "color")), ("jnd", "val", ("cnn", "traditional")),
    ):  # fmt: skip
        for subset in subsets:
            folder = root / "manual" / task / split / subset
            names = ("ref", "p0", "p1") if task == "2afc" else ("p0", "p1")
            answer = "judge" if task == "2afc" else "same"
            for name in (*names, answer):
                (folder / name).mkdir(parents=True)
            for number in range(6):
                reference = _image(rng, 40, 40)
                images = {"ref": reference, "p0": reference}
                if task == "2afc":
                    images["p0"] = _noisy(rng, reference, 4 + 3 * number)
                images["p1"] = _noisy(rng, reference, 10 if number % 3 else 20)
                for name in names:
                    file = folder / name / f"{number:06}.png"
                    Image.fromarray(images[name]).save(file)
                share = np.array([(0.2, 0.6, 1.0)[number % 3]], np.float32)
                np.save(folder / answer / f"{number:06}.npy", share)
    for name in ("bapps", "bapps_jnd"):
        data.prepare(name, data_dir=root, manual_dir=root / "manual", partial=True)
    return root


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scatter plots and bars, which other tests draw, are not drawn."""
    for name in ("write_scatter", "write_bars"):
        monkeypatch.setattr(figures, name, lambda *_, **__: None)


@pytest.fixture
def config(sets: Path) -> Callable[..., ConfigDict]:
    """Makes configs of metrics on the tiny sets, by their names."""

    def make(
        models: tuple[str, ...] = ("ssim", "psnr"),
        sets_named: tuple[str, ...] = ("pair_list/tiny",),
        **fields: Any,
    ) -> ConfigDict:
        made = evaluation.default()
        made.data_dir = str(sets)
        made.samples = 50
        made.worst = 0
        made.update(fields)
        for name in models:
            made.models[name] = evaluation.model(name)
        for name in sets_named:
            made.data[name] = evaluation.dataset(name)
        return made

    return make
