"""Pooled sets: computed once, found again, never half there, and read as sets are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spips_jax import data, files, training
from spips_jax.training import loop, pooled, setup
from spips_jax.training.pooled import Pair, pooled_dataset


@pytest.fixture
def ranks(tiny_data: Path) -> data.Dataset:
    return data.load("synthetic/scenes", data_dir=tiny_data)


class Compute:
    """Gives each example a vector of its position, in batches of seven, reversed.

    Batches that are done are left out, as `run_batches` does.
    """

    def __init__(self, count: int, *, fails_after: int = 99) -> None:
        self.count, self.fails_after, self.calls = count, fails_after, 0
        self.asked: list[int] = []

    def __call__(self, done: np.ndarray) -> Iterator[Pair]:
        self.calls += 1
        batches = np.array_split(np.arange(self.count)[::-1], 7)
        left = [positions for positions in batches if not done[positions].all()]
        for number, positions in enumerate(left):
            if number == self.fails_after:
                raise KeyboardInterrupt
            self.asked += positions.tolist()
            yield positions, vectors(positions)


def vectors(positions: np.ndarray) -> np.ndarray:
    return np.stack([np.full((1, 3), position) for position in positions])


def assert_whole(made: data.Dataset) -> None:
    for position, example in enumerate(made):
        np.testing.assert_array_equal(example["pooled"], np.full((1, 3), position))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk for each batch."""
    monkeypatch.setattr(pooled, "_LEAST", 1)


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


@pytest.mark.parametrize("chunks", ["a batch each", "cut short by the interruption"])
def test_what_was_computed_before_an_interruption_is_kept(
    ranks: data.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunks: str,
) -> None:
    if chunks == "a batch each":
        monkeypatch.setattr(pooled, "_LEAST", 1)
    first = Compute(len(ranks), fails_after=3)
    with pytest.raises(KeyboardInterrupt):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=first)
    (parts,) = tmp_path.iterdir()
    assert parts.suffix == ".parts"
    assert len(list(parts.iterdir())) == (3 if chunks == "a batch each" else 1)
    second = Compute(len(ranks))
    made = pooled_dataset(ranks, folder=tmp_path, network="a", compute=second)
    assert sorted(first.asked + second.asked) == list(range(50))
    assert_whole(made)
    assert [path.suffix for path in tmp_path.iterdir()] == [""]


def test_a_run_with_other_batches_goes_on(
    ranks: data.Dataset, tmp_path: Path, small_chunks: None
) -> None:
    """A batch that is partly done is computed again, and kept once."""
    first = Compute(len(ranks), fails_after=3)
    with pytest.raises(KeyboardInterrupt):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=first)

    def in_tens(done: np.ndarray) -> Iterator[Pair]:
        for positions in np.arange(50).reshape(5, 10):
            if not done[positions].all():
                yield positions, vectors(positions)

    assert_whole(pooled_dataset(ranks, folder=tmp_path, network="a", compute=in_tens))


def test_a_kill_loses_a_chunk_at_most(
    ranks: data.Dataset, tmp_path: Path, small_chunks: None
) -> None:
    """A process that is killed runs no handler: what is on disk then is all."""
    seen: list[int] = []

    def compute(done: np.ndarray) -> Iterator[Pair]:
        for positions, vector in Compute(50)(done):
            (parts,) = tmp_path.glob("*.parts") if seen else [tmp_path]
            assert len(list(parts.glob("*.npz"))) == len(seen)
            seen.append(1)
            yield positions, vector

    pooled_dataset(ranks, folder=tmp_path, network="a", compute=compute)
    assert len(seen) == 7


def test_chunks_are_few(ranks: data.Dataset) -> None:
    """And none is less than a batch or half a minute of a CPU: see `_LEAST`."""
    folder = Path("nowhere")
    written: list[int] = []
    count = 30_000

    def batches() -> Iterator[Pair]:
        for positions in np.arange(count).reshape(-1, 8):
            yield positions, np.zeros((8, 1, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pooled,
            "_write_chunk",
            lambda _, pairs: written.append(sum(len(one) for one, _ in pairs)),
        )
        pooled._compute(folder, batches(), np.zeros(count, bool))
    assert sum(written) == count
    assert len(written) <= 257


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "a wrong byte": lambda content: (
        content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]
    ),
    "empty": lambda content: b"",
    "another file": lambda content: b"<html>",
}


@pytest.mark.parametrize("damage", [*DAMAGES, "of another set", "misshapen"])
def test_a_damaged_chunk_is_computed_again(
    ranks: data.Dataset,
    tmp_path: Path,
    small_chunks: None,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    first = Compute(len(ranks), fails_after=3)
    with pytest.raises(KeyboardInterrupt):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=first)
    chunk = min(tmp_path.glob("*.parts/*.npz"))
    with np.load(chunk) as arrays:
        lost = arrays["positions"]
        if damage == "of another set":
            np.savez(chunk, positions=lost + 50, pooled=arrays["pooled"])
        elif damage == "misshapen":
            np.savez(chunk, positions=lost, pooled=arrays["pooled"][1:])
        else:
            chunk.write_bytes(DAMAGES[damage](chunk.read_bytes()))
    second = Compute(len(ranks))
    made = pooled_dataset(ranks, folder=tmp_path, network="a", compute=second)
    assert set(lost.tolist()) < set(second.asked)
    assert len(second.asked) == 50 - len(first.asked) + len(lost)
    assert_whole(made)
    said = capsys.readouterr().err
    assert said == f"{chunk}: damaged, its examples are computed again\n"


def test_computed_and_not_yet_joined(
    ranks: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the end costs nothing that was computed."""

    def fails(*_: object) -> None:
        raise OSError("no space")

    compute = Compute(len(ranks))
    with monkeypatch.context() as patch:
        patch.setattr(pooled, "_write", fails)
        with pytest.raises(OSError, match="no space"):
            pooled_dataset(ranks, folder=tmp_path, network="a", compute=compute)
    (parts,) = tmp_path.iterdir()
    assert [path.suffix for path in parts.iterdir()] == [".npz"]
    assert_whole(pooled_dataset(ranks, folder=tmp_path, network="a", compute=compute))
    assert compute.calls == 1


def test_examples_that_are_missing_are_an_error(
    ranks: data.Dataset, tmp_path: Path
) -> None:
    short = Compute(len(ranks) - 1)
    with pytest.raises(RuntimeError, match="49 of 50 examples were computed"):
        pooled_dataset(ranks, folder=tmp_path, network="a", compute=short)
    assert [path.suffix for path in tmp_path.iterdir()] == [".parts"]


@pytest.mark.parametrize("locks", [True, False])
def test_several_runs_at_once(
    ranks: data.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    locks: bool,
    small_chunks: None,
) -> None:
    """With locks one computes, and the others wait; without them all do."""
    if not locks:
        monkeypatch.setattr(files, "fcntl", None)
    begun = threading.Barrier(1 if locks else 3)

    class Slow(Compute):
        def __call__(self, done: np.ndarray) -> Iterator[Pair]:
            for pair in super().__call__(done):
                begun.wait(10)  # without locks they go in step
                yield pair

    computes = [Slow(len(ranks)) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        made = list(
            pool.map(
                lambda compute: pooled_dataset(
                    ranks, folder=tmp_path, network="a", compute=compute
                ),
                computes,
            )
        )
    assert sum(compute.calls for compute in computes) == (1 if locks else 3)
    for one in made:
        assert_whole(one)
    assert [path.suffix for path in tmp_path.iterdir()] == [""]


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
