"""Distillation: the equations, what they reach, a whole run, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import spips_jax
from spips_jax import backbones, kinds, model_file, parallel, training, weights
from spips_jax.spips import Spips, initialize
from spips_jax.training import distill, setup, state, step
from spips_jax.training.objectives import Objective

TAPS = ("relu1", "relu2", "relu3", "relu4", "relu5")
LEARNING = {"features": 1.0, "differences": 30.0}


def unit(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Features in float64 of length 1 over channels, some of them 0, as rectified."""
    features = np.maximum(np.random.default_rng(seed).normal(size=shape), 0) + 1e-3
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_the_errors_follow_the_equations() -> None:
    student, teacher = unit((2, 3, 5, 4, 6), 0), unit((2, 3, 5, 4, 9), 1)
    # Some pairs without any difference, where the root is steepest.
    student[1, 0], teacher[1, 0] = student[0, 0], teacher[0, 0]
    adapter = np.random.default_rng(2).normal(size=(6, 9))
    found = distill.errors(
        *({"tap": jnp.asarray(x, jnp.float32)} for x in (student, teacher, adapter))
    )

    features, differences = [], []
    for pair in range(3):
        both = [student[k, pair] @ adapter - teacher[k, pair] for k in (0, 1)]
        features.append(np.mean([(x**2).sum(-1).mean() for x in both]))
        roots = [
            np.sqrt(((u[0, pair] - u[1, pair]) ** 2).sum(-1) / 2 + 1e-4)
            for u in (student, teacher)
        ]
        differences.append(((roots[0] - roots[1]) ** 2).mean())
    # float32 against float64.
    np.testing.assert_allclose(found["features/tap"], features, rtol=1e-5)
    np.testing.assert_allclose(found["differences/tap"], differences, rtol=1e-5)
    assert found["differences/tap"][0] == 0


def test_a_teacher_has_nothing_to_learn_of_itself() -> None:
    taps = {tap: jnp.asarray(unit((2, 3, 4, 4, 8), 0), jnp.float32) for tap in TAPS}
    found = distill.errors(taps, taps, dict.fromkeys(TAPS, jnp.eye(8)))
    assert len(found) == 2 * len(TAPS)
    for name, error in found.items():
        np.testing.assert_array_equal(error, np.zeros(3), err_msg=name)


def test_a_step_on_two_devices_follows_gradients_that_reach_every_layer(
    random_params: Callable[..., dict],
) -> None:
    network = step.network_of(
        Spips(backbone=backbones.build("lite")), teacher=backbones.build("alexnet")
    )
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 256, (2, 70, 70, 3), dtype=np.uint8)
        for name in ("reference", "distorted")
    }
    batch = {**images, "level": np.array([1.0, 2.0], np.float32)}
    student = {"relu1": 48, "relu2": 128, "relu3": 160, "relu4": 128, "relu5": 128}
    teacher = {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}
    adapters = {
        tap: rng.normal(size=(count, teacher[tap])).astype(np.float32) / 8
        for tap, count in student.items()
    }
    frozen = state.flatten({distill.TEACHER: random_params("alexnet")})
    trained = state.flatten(
        {"backbone": random_params("lite"), distill.ADAPTER: adapters}
    )

    def losses(trained: state.Params) -> dict[str, jax.Array]:
        tree = state.unflatten(frozen, trained)
        errors = network.distill({"backbone": tree["backbone"]}, images, tree)
        return {
            name: sum(jnp.mean(errors[f"{name}/{tap}"]) for tap in student)
            for name in distill.LOSSES
        }

    found = jax.jit(jax.jacrev(losses))(trained)
    for name, gradients in found.items():
        for path, gradient in gradients.items():
            # Differences are those of the network's own features, before any A.
            reached = name == "features" or not path.startswith(distill.ADAPTER)
            assert bool(jnp.any(gradient != 0)) == reached, path

    # The rest of the network, which only distances need.
    rest = initialize(network.module)
    frozen |= state.flatten(rest)
    tx = optax.sgd(1.0)
    objective = Objective(
        kind=kinds.RANKS, opinion="level", weights=tuple(LEARNING.items())
    )
    mapped = parallel.mapped(
        lambda s, f, b: step.train_step(
            s, f, b, network=network, objective=objective, tx=tx, decay=0.0
        )
    )
    before = state.create(trained, tx, average=False)
    assert jax.local_device_count() > 1
    after, _ = mapped(
        parallel.replicate(before), parallel.replicate(frozen), parallel.split(batch)
    )
    for path, value in after.params.items():
        gradient = sum(weight * found[name][path] for name, weight in LEARNING.items())
        # Float32 sums in another order, relative to the largest.
        difference = np.abs(trained[path] - gradient - value).max()
        assert difference < 1e-4 * max(np.abs(gradient).max(), 1), path


@pytest.fixture
def config(
    tiny_config: Callable[..., ConfigDict],
    random_weights: Callable[[str], Path],
    home: Path,
) -> ConfigDict:
    """Of a run in which Lite learns from a random AlexNet, crops of 32 of scenes."""
    (home / "alexnet.safetensors").write_bytes(random_weights("alexnet").read_bytes())
    config = tiny_config(
        {
            "model.name": "spips-lite",
            "model.teacher": "alexnet",
            "model.trainable": "backbone",
            "optim.learning_rate": 1e-3,
            "optim.multipliers.backbone": 1.0,
            "optim.multipliers.adapter": 3.0,
            "num_steps": 15,
            "validate.every": 15,
            "checkpoint.every": 15,
            "log.every": 5,
        }
    )
    source = config.data.train.scenes
    source.update({"crop": 32, "flip": True})
    source.losses = ConfigDict(LEARNING)
    return config


def test_a_run_learns_and_leaves_a_backbone_to_train_a_head_on(
    config: ConfigDict, tmp_path: Path
) -> None:
    training.train(config, tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    first, *_, last = [line for line in lines if line["split"] == "train"]
    for name, weight in LEARNING.items():
        terms = [last[f"scenes/{name}/{tap}"] for tap in TAPS]
        # Float32 sums.
        assert last[f"scenes/{name}"] == pytest.approx(sum(terms), rel=1e-5)
        assert last[f"scenes/{name}"] < 0.9 * first[f"scenes/{name}"], weight
    total = sum(weight * last[f"scenes/{name}"] for name, weight in LEARNING.items())
    assert last["loss"] == pytest.approx(total, rel=1e-5)

    file = tmp_path / "lite.safetensors"
    training.export(tmp_path / "run", file)
    assert file.stat().st_size < 4_000_000
    parts = set(spips_jax.load(file).variables["params"])
    assert parts.isdisjoint(step.BESIDE)
    assert "backbone" in parts

    # Its head on the frozen backbone, by ranks; the file then has both.
    head = config.copy_and_resolve_references()
    head.model.update({"weights": str(file), "teacher": "", "trainable": "head"})
    head.data.train.scenes = training.source("synthetic/scenes", {"rank": 1.0})
    head.num_steps = 2
    training.train(head, tmp_path / "head")
    training.export(tmp_path / "head", tmp_path / "model.safetensors")
    before, after = (
        weights.read_weights(path, network="lite")
        for path in (file, tmp_path / "model.safetensors")
    )
    jax.tree.map(np.testing.assert_array_equal, before, after)
    digests = {
        model_file.read_card(path)["backbone_sha256"]
        for path in (file, tmp_path / "model.safetensors")
    }
    assert digests == {weights.digest(before)}
    assert digests.pop() in (tmp_path / "model.md").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.teacher": ""}, "losses has differences, and model.teacher is empty"),
        ({"model.teacher": "vgg16"}, "teacher is vgg16, whose taps are not those of l"),
        ({"model.teacher": "resnet"}, "model.teacher is 'resnet', which is not one of"),
        ({"model.trainable": "head"}, "model.trainable 'head' has no part of the back"),
        ({"data.train.scenes.losses": {"l1": 1.0}}, "is alexnet, and no set is traine"),
    ],
)
def test_what_cannot_be_learned_is_one_line(
    config: ConfigDict, tmp_path: Path, fields: dict, message: str
) -> None:
    for name, value in fields.items():
        parent, _, leaf = name.rpartition(".")
        node = config
        for part in parent.split("."):
            node = node[part]
        node[leaf] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(training.TrainingError, match=message) as error:
        training.train(config, tmp_path)
    assert "\n" not in str(error.value)


def test_the_adapters_fit_what_they_stand_between(config: ConfigDict) -> None:
    model = setup.build_model(config)
    shapes = {
        path.removeprefix("adapter/"): value.shape
        for path, value in model.trained.items()
        if path.startswith("adapter/")
    }
    assert shapes["relu3"] == (160, 384)
    assert tuple(shapes) == TAPS
    assert not any(path.startswith("teacher/") for path in model.trained)
