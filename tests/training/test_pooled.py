"""Pooled sets: computed once, found again, never half there, and read as sets are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spips_jax import data, training
from spips_jax.training import loop, pooled, setup
from spips_jax.training.pooled import Pair, pooled_dataset


@pytest.fixture
def ranks(tiny_data: Path) -> data.Dataset:
    return data.load("synthetic/scenes", data_dir=tiny_data)


class Compute:
    """Gives each example a vector of its position, in batches of seven, reversed."""

    def __init__(self, count: int, *, fails: bool = False) -> None:
        self.count, self.fails, self.calls = count, fails, 0

    def __call__(self) -> Iterator[Pair]:
        self.calls += 1
        for positions in np.array_split(np.arange(self.count)[::-1], 7):
            yield positions, np.stack([np.full((1, 3), p) for p in positions])
            if self.fails:
                raise KeyboardInterrupt


def test_a_pooled_set_is_the_set_with_vectors(
    ranks: data.Dataset, tmp_path: Path
) -> None:
    compute = Compute(len(ranks))
    made = pooled_dataset(ranks, folder=tmp_path, network="a", compute=compute)
    assert len(made) == len(ranks) == 50
    for position, example in enumerate(made):
        np.testing.assert_array_equal(example["pooled"], np.full((1, 3), position))
        assert example["pooled"].dtype == np.float32
        assert example["id"] == ranks.index["id"][position]
    _, held_out = made.fold("2/5")
    _, expected = ranks.fold("2/5")
    assert held_out.index["id"].tolist() == expected.index["id"].tolist()
    where = {name: position for position, name in enumerate(ranks.index["id"])}
    for example in held_out:
        assert (example["pooled"] == where[example["id"]]).all()


def test_models_with_other_maps_do_not_share_pairs(
    monkeypatch: pytest.MonkeyPatch, ranks: data.Dataset
) -> None:
    """A pair's vector has a number for each classical map of the model."""
    named = []
    monkeypatch.setattr(
        loop.pooled, "pooled_dataset", lambda *_, network, **__: named.append(network)
    )
    for maps in ("psnr,ssim,ms_ssim", "psnr,ssim,gmsd", "psnr,ssim,gmsd"):
        config = training.default()
        config.model.weights = "random"
        config.model.classical = maps
        model = setup.build_model(config)
        loop.open_pooled(config, model, model.frozen, lambda _: ranks, {})
    first, second, third = named
    assert first != second == third


def test_it_is_computed_again_only_if_something_changed(
    ranks: data.Dataset, tmp_path: Path
) -> None:
    compute = Compute(len(ranks))

    def make(dataset: data.Dataset, network: str) -> int:
        pooled_dataset(dataset, folder=tmp_path, network=network, compute=compute)
        return compute.calls

    assert make(ranks, "a") == 1
    assert make(ranks, "a") == 1
    assert make(ranks, "b") == 2
    assert make(replace(ranks, fingerprint="rebuilt"), "a") == 3
    assert make(ranks, "a") == 3


def test_a_build_that_is_interrupted_leaves_nothing(
    ranks: data.Dataset, tmp_path: Path
) -> None:
    broken = Compute(len(ranks), fails=True)
    with pytest.raises(KeyboardInterrupt):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=broken)
    assert not list(tmp_path.iterdir())
    short = Compute(len(ranks) - 1)
    with pytest.raises(RuntimeError, match="49 of 50 examples were computed"):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=short)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_replaced_for_the_run(
    ranks: data.Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder, compute = tmp_path / "file" / "pooled", Compute(len(ranks))
    with pytest.warns(UserWarning, match=r"pooled: cannot be written .* this run only"):
        made = pooled_dataset(
            ranks, folder=folder, network="a", compute=compute, spare=True
        )
    np.testing.assert_array_equal(made[3]["pooled"], np.full((1, 3), 3))
    with pytest.raises(OSError, match="file"):
        pooled_dataset(ranks, folder=folder, network="a", compute=compute)
    assert compute.calls == 1, "known before anything is computed"


def test_a_folder_that_cannot_be_written_can_be_read(
    ranks: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = Compute(len(ranks))
    for _ in range(2):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=compute, spare=True)
        monkeypatch.setattr(pooled, "unwritable", lambda _: "it cannot be written")
    assert compute.calls == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_batches_it(
    ranks: data.Dataset, tmp_path: Path, num_workers: int
) -> None:
    made = pooled_dataset(
        ranks, folder=tmp_path, network="a", compute=Compute(len(ranks))
    )
    where = {name: position for position, name in enumerate(ranks.index["id"])}
    source = data.Source(dataset=made, flip=False, grouped=True)
    with data.train_batches(
        [source], batch_size=10, seed=0, num_workers=num_workers
    ) as batches:
        batch = next(batches)
    assert batch["pooled"].shape == (10, 1, 3)
    for name, vector in zip(batch["id"], batch["pooled"], strict=True):
        assert (vector == where[name]).all()
    with pytest.raises(data.DataError, match="holds no images to crop or flip"):
        data.train_batches([data.Source(dataset=made)], batch_size=10, seed=0)
    seen = [
        batch["position"][batch["mask"]]
        for batch in data.eval_batches(made, batch_size=8)
    ]
    assert sorted(np.concatenate(seen)) == list(range(50))
