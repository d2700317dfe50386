"""The loader: exact order, joint augmentation, shards, state, masks, mixtures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spips_jax import data
from spips_jax.data import DataError, Source, eval_batches, train_batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of ranks, and a pair list of images of three sizes."""
    root = tmp_path_factory.mktemp("data")
    data.prepare("synthetic", data_dir=root, scenes=4, size=48, kinds=["jpeg", "webp"])
    lines = ["reference,distorted,mos"]
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(
        [(40, 40)] * 5 + [(36, 50)] * 3 + [(50, 36)]
    ):
        for name in ("r", "d"):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{name}{number}.png")
        lines.append(f"r{number}.png,d{number}.png,{number}")
    (root / "list.csv").write_text("\n".join(lines))
    data.prepare("pair_list", data_dir=root, csv_file=root / "list.csv", config="list")
    return root


@pytest.fixture(scope="module")
def ranks(folder: Path) -> data.Dataset:
    return data.load("synthetic/scenes", data_dir=folder)


@pytest.fixture(scope="module")
def versions(ranks: data.Dataset) -> data.Dataset:
    """The same images, as a set whose opinions compare within a reference."""
    return replace(ranks, name="versions", comparable="reference")


@pytest.fixture(scope="module")
def pairs(folder: Path) -> data.Dataset:
    return data.load("pair_list/list", data_dir=folder)


def assert_same(batch: dict[str, Any], other: dict[str, Any]) -> None:
    assert batch.keys() == other.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def take(batches: data.Batches, count: int) -> list[dict[str, Any]]:
    with batches:
        return [next(batches) for _ in range(count)]


def test_every_epoch_holds_every_example_once(ranks: data.Dataset) -> None:
    batches = take(train_batches([Source(dataset=ranks)], batch_size=8, seed=0), 10)
    epochs = [
        [name for batch in part for name in batch["id"]]
        for part in (batches[:5], batches[5:])
    ]
    for epoch in epochs:
        assert sorted(epoch) == sorted(ranks.index["id"].tolist())
    assert epochs[0] != epochs[1]


def test_a_seed_repeats_and_another_differs(ranks: data.Dataset) -> None:
    source = Source(dataset=ranks, crop=32)
    first, again, other = (
        take(train_batches([source], batch_size=4, seed=seed), 3) for seed in (1, 1, 2)
    )
    for batch, same in zip(first, again, strict=True):
        assert_same(batch, same)
    assert any(
        batch["id"].tolist() != different["id"].tolist()
        for batch, different in zip(first, other, strict=True)
    )


def test_crops_and_flips_are_joint_and_random(ranks: data.Dataset) -> None:
    """Each crop is found in its own images, in one place, mirrored or not."""
    batches = take(
        train_batches([Source(dataset=ranks, crop=32)], batch_size=8, seed=3), 5
    )
    where = {name: position for position, name in enumerate(ranks.index["id"].tolist())}
    seen = Counter()
    for batch in batches:
        for number, name in enumerate(batch["id"]):
            example = ranks[where[name]]
            matches = [
                (top, left, step)
                for top in range(17)
                for left in range(17)
                for step in (1, -1)
                if all(
                    np.array_equal(
                        example[image][top : top + 32, left : left + 32][:, ::step],
                        batch[image][number],
                    )
                    for image in ("reference", "distorted")
                )
            ]
            assert len(matches) == 1
            seen[matches[0]] += 1
    assert len(seen) > 30  # 40 draws from 578 places
    assert {step for _, _, step in seen} == {1, -1}


def test_without_flip_or_crop_images_are_whole(ranks: data.Dataset) -> None:
    (batch,) = take(
        train_batches([Source(dataset=ranks, flip=False)], batch_size=4, seed=0), 1
    )
    where = {name: position for position, name in enumerate(ranks.index["id"].tolist())}
    for number, name in enumerate(batch["id"]):
        np.testing.assert_array_equal(
            batch["distorted"][number], ranks[where[name]]["distorted"]
        )
        assert batch["level"][number] == ranks[where[name]]["level"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_restored_loader_goes_on_with_the_very_next_batch(
    ranks: data.Dataset,
    versions: data.Dataset,
    pairs: data.Dataset,
    num_workers: int,
) -> None:
    sources = [
        Source(dataset=ranks, crop=32),
        Source(dataset=versions, crop=32, grouped=True, unit=4),
        Source(dataset=pairs, crop=32, weight=0.5),
    ]

    def loader(workers: int) -> data.Batches:
        return train_batches(sources, batch_size=4, seed=5, num_workers=workers)

    straight = take(loader(0), 9)
    with loader(0) as before:
        for _ in range(6):
            next(before)
        state = json.loads(json.dumps(before.get_state()))  # as a checkpoint keeps it
    restored = loader(num_workers)
    restored.set_state(state)
    for batch, expected in zip(take(restored, 3), straight[6:], strict=True):
        assert_same(batch, expected)
    with loader(0) as back:  # backwards, too, from one that has run
        take_ten = [next(back) for _ in range(8)]
        assert len(take_ten) == 8
        back.set_state(state)
        assert_same(next(back), straight[6])


def test_the_state_of_another_stream_is_refused(
    ranks: data.Dataset, pairs: data.Dataset
) -> None:
    state = train_batches([Source(dataset=ranks)], batch_size=4, seed=0).get_state()
    for other in (
        train_batches([Source(dataset=ranks)], batch_size=4, seed=1),
        train_batches([Source(dataset=ranks)], batch_size=8, seed=0),
        train_batches([Source(dataset=ranks, crop=32)], batch_size=4, seed=0),
        train_batches([Source(dataset=pairs, crop=32)], batch_size=4, seed=0),
        train_batches([Source(dataset=ranks.fold("1/2")[0])], batch_size=4, seed=0),
        train_batches(
            [Source(dataset=replace(ranks, comparable="reference"))],
            batch_size=4,
            seed=0,
        ),
        train_batches([Source(dataset=ranks, unit=4)], batch_size=4, seed=0),
    ):
        with pytest.raises(DataError, match="state is of a loader with"):
            other.set_state(state)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_part_the_global_batches(
    versions: data.Dataset, count: int, grouped: bool
) -> None:
    """Each global batch is the same whatever the number of processes."""
    source = [Source(dataset=versions, crop=32, grouped=grouped, unit=2)]
    whole = take(train_batches(source, batch_size=8, seed=0), 5)
    parts = [
        take(
            train_batches(
                source, batch_size=8, seed=0, process_index=index, process_count=count
            ),
            5,
        )
        for index in range(count)
    ]
    for step, batch in enumerate(whole):
        ids = np.concatenate([part[step]["id"] for part in parts])
        images = np.concatenate([part[step]["distorted"] for part in parts])
        mine, theirs = np.argsort(batch["id"]), np.argsort(ids)
        assert batch["id"][mine].tolist() == ids[theirs].tolist()
        np.testing.assert_array_equal(batch["distorted"][mine], images[theirs])
        groups = np.concatenate([part[step]["group"] for part in parts])
        assert batch["group"][mine].tolist() == groups[theirs].tolist()


@settings(max_examples=12, deadline=None)
@given(per_process=st.integers(1, 4), count=st.integers(1, 3))
def test_evaluation_counts_every_example_once(
    pairs: data.Dataset, per_process: int, count: int
) -> None:
    seen: list[str] = []
    lengths = set()
    for index in range(count):
        batches = eval_batches(
            pairs,
            batch_size=per_process * count,
            process_index=index,
            process_count=count,
        )
        lengths.add(len(batches))
        for batch in batches:
            assert batch["reference"].shape == batch["distorted"].shape
            assert len(batch["mask"]) == per_process
            seen += batch["id"][batch["mask"]].tolist()
    assert sorted(seen) == sorted(pairs.index["id"].tolist())
    assert len(lengths) == 1  # or a collective would wait for ever


def test_evaluation_images_are_whole_and_restorable(pairs: data.Dataset) -> None:
    batches = eval_batches(pairs, batch_size=2)
    straight = list(batches)
    assert len(straight) == len(batches) == 6  # of 5, 3 and 1 images of a size
    where = {name: position for position, name in enumerate(pairs.index["id"].tolist())}
    for batch in straight:
        for number, name in enumerate(batch["id"]):
            example = pairs[where[name]]
            np.testing.assert_array_equal(
                batch["distorted"][number], example["distorted"]
            )
            assert batch["mos"][number] == example["mos"]
    restored = eval_batches(pairs, batch_size=2)
    next(restored)
    state = restored.get_state()
    again = eval_batches(pairs, batch_size=2)
    again.set_state(state)
    for batch, expected in zip(again, straight[1:], strict=True):
        assert_same(batch, expected)


def test_groups_stay_whole_under_one_crop(ranks: data.Dataset) -> None:
    source = Source(dataset=ranks, crop=32, grouped=True)
    for batch in take(train_batches([source], batch_size=10, seed=0), 4):
        for group in np.unique(batch["group"]):
            members = batch["group"] == group
            assert batch["level"][members].tolist() == [1, 2, 3, 4, 5]
            assert len(set(batch["reference_id"][members])) == 1
            assert len(set(batch["distortion"][members])) == 1
            crops = batch["reference"][members]
            np.testing.assert_array_equal(crops, np.broadcast_to(crops[0], crops.shape))


@pytest.mark.parametrize("unit", [2, 3, 10])
def test_groups_of_a_reference_are_dealt_anew(
    versions: data.Dataset, unit: int
) -> None:
    """Four references of ten examples: in three groups of 3, one is in none."""
    source = Source(dataset=versions, crop=32, grouped=True, unit=unit)
    count = 4 * (10 // unit)  # of groups in an epoch
    batches = take(train_batches([source], batch_size=unit, seed=0), 3 * count)
    epochs = [batches[first : first + count] for first in range(0, 3 * count, count)]
    seen = []
    for epoch in epochs:
        ids = Counter(name for batch in epoch for name in batch["id"])
        assert len(ids) == count * unit
        assert set(ids.values()) == {1}
        of_references = Counter(batch["reference_id"][0] for batch in epoch)
        assert of_references == dict.fromkeys(versions.references, 10 // unit)
        for batch in epoch:
            assert len(set(batch["reference_id"])) == len(set(batch["group"])) == 1
            crops = batch["reference"]
            np.testing.assert_array_equal(crops, np.broadcast_to(crops[0], crops.shape))
        seen.append({frozenset(batch["id"]) for batch in epoch})
    if unit < 10:
        # Of 45 pairs or 120 triples of each reference, some return by chance.
        assert len(set.union(*seen)) > 2 * count
    if unit == 3:
        left_out = [
            set(versions.index["id"]) - set.union(*map(set, groups)) for groups in seen
        ]
        assert len(set.union(*left_out)) > 4


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("comparable", "shared"),
    [
        ("reference", ["reference_id"]),
        ("group", ["reference_id", "distortion"]),
        ("set", None),
    ],
)
def test_batches_say_what_can_be_compared(
    ranks: data.Dataset, comparable: str, shared: list[str] | None, grouped: bool
) -> None:
    """By the place of the group among all that the set has, sorted."""
    dataset = replace(ranks, comparable=comparable)
    source = Source(dataset=dataset, crop=32, grouped=grouped, unit=5)
    for batch in take(train_batches([source], batch_size=10, seed=0), 4):
        if shared is None:
            assert "group" not in batch
            continue
        every = sorted(set(zip(*(dataset.index[name] for name in shared), strict=True)))
        keys = zip(*(batch[name] for name in shared), strict=True)
        assert batch["group"].tolist() == [every.index(key) for key in keys]
        assert batch["group"].dtype == np.int32


def test_a_stream_has_no_length(ranks: data.Dataset, pairs: data.Dataset) -> None:
    sources = [Source(dataset=one, crop=32) for one in (ranks, pairs)]
    for some in (sources[:1], sources):
        with pytest.raises(TypeError, match="no length"):
            len(train_batches(some, batch_size=2, seed=0))


def test_mixtures_keep_weights_and_each_its_own_score(
    ranks: data.Dataset, pairs: data.Dataset
) -> None:
    sources = [
        Source(dataset=ranks, crop=32, weight=3),
        Source(dataset=pairs, crop=32, weight=1),
    ]
    batches = take(train_batches(sources, batch_size=2, seed=0), 40)
    assert Counter(batch["dataset"] for batch in batches) == {
        "synthetic/scenes": 30,
        "pair_list/list": 10,
    }
    for batch in batches:
        assert ("mos" in batch) == (batch["dataset"] == "pair_list/list")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "process_count": 2, "process_index": 0}, "of 3 .* 2 proc"),
        ({"batch_size": 0}, "batch of 0"),
        ({"process_count": 2, "process_index": 2}, "process 2 of 2: they are 0 to 1"),
        ({"crop": 64}, "crop 64 is larger than the smallest side of its images, 48"),
        ({"crop": 16}, "crop 16 is below the 32"),
        ({"weight": 0.0}, "weight 0: it must be above 0"),
        ({"grouped": True, "batch_size": 4}, "of 4 does not hold whole groups of 5"),
    ],
)
def test_impossible_training_is_refused(
    ranks: data.Dataset, options: dict[str, Any], message: str
) -> None:
    of_source = {
        k: options.pop(k) for k in ("crop", "weight", "grouped") if k in options
    }
    with pytest.raises(DataError, match=message):
        train_batches(
            [Source(dataset=ranks, **of_source)],
            **{"batch_size": 2, "seed": 0, **options},
        )


def test_impossible_data_is_refused(ranks: data.Dataset, pairs: data.Dataset) -> None:
    empty = ranks.select([])
    with pytest.raises(DataError, match="images from 36x50 to 50x36 make no batch"):
        train_batches([Source(dataset=pairs)], batch_size=2, seed=0)
    with pytest.raises(DataError, match="no examples to train on"):
        train_batches([Source(dataset=empty)], batch_size=2, seed=0)
    with pytest.raises(DataError, match="no examples to evaluate on"):
        eval_batches(empty, batch_size=2)
    with pytest.raises(DataError, match="no set to train on"):
        train_batches([], batch_size=2, seed=0)
    uneven = Source(dataset=ranks.select(np.arange(3, 20)), grouped=True)
    with pytest.raises(DataError, match=r"its groups, .* have 2 to 5 examples"):
        train_batches([uneven], batch_size=10, seed=0)


@pytest.mark.parametrize(
    ("unit", "batch_size", "message"),
    [
        (1, 4, "groups of 1: there is nothing to compare in less than 2"),
        (8, 8, r"reference \S+ has 7 examples, a group takes 8: make unit 7 or less"),
        (3, 8, "of 8 does not hold whole groups of 3; .* a multiple of 3"),
    ],
)
def test_impossible_groups_of_a_reference_are_refused(
    versions: data.Dataset, unit: int, batch_size: int, message: str
) -> None:
    source = Source(dataset=versions.select(np.arange(3, 40)), grouped=True, unit=unit)
    with pytest.raises(DataError, match=message):
        train_batches([source], batch_size=batch_size, seed=0)


def test_two_jax_processes_read_disjoint_halves(
    two_processes: Callable[..., list[str]], folder: Path
) -> None:
    """Real JAX processes over loopback, by JAX's own process numbers."""
    program = """
import sys
import jax
folder, port, index = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
from spips_jax import data
dataset = data.load("synthetic/scenes", data_dir=folder)
batches = data.eval_batches(dataset, batch_size=6)
for batch in batches:
    print("eval", *batch["id"][batch["mask"]])
training = data.train_batches([data.Source(dataset=dataset)], batch_size=8, seed=0)
for _ in range(5):
    print("train", *next(training)["id"])
"""
    outputs = two_processes(program, folder)
    dataset = data.load("synthetic/scenes", data_dir=folder)
    for what in ("eval", "train"):
        halves = [
            [
                name
                for line in output.splitlines()
                if line.startswith(what)
                for name in line.split()[1:]
            ]
            for output in outputs
        ]
        assert set(halves[0]).isdisjoint(halves[1])
        assert sorted(halves[0] + halves[1]) == sorted(dataset.index["id"].tolist())
