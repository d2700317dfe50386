"""The step: what is compared, which losses see what, pooled pairs, gradients."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spips_jax import backbones, parallel
from spips_jax.data.builder import COMPARED
from spips_jax.spips import Spips
from spips_jax.training import state, step


@pytest.fixture(scope="module")
def network() -> step.Network:
    return step.network_of(Spips(backbone=backbones.build("alexnet"), width=4))


@pytest.fixture(scope="module")
def params(network: step.Network, random_params) -> dict:
    """All weights random, so that every part of the network has its say."""
    image = jnp.zeros((1, 64, 64, 3))
    made = jax.jit(network.module.init)(jax.random.key(0), image, image)["params"]
    rng = np.random.default_rng(0)
    made = jax.tree.map(
        lambda w: (np.abs(w) + 0.3 * rng.random(w.shape)).astype(np.float32), made
    )
    return {**made, "backbone": random_params("alexnet")}


def images(*names: str, count: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(names))
    return {
        name: rng.integers(0, 256, (count, 40, 44, 3), dtype=np.uint8) for name in names
    }


def test_a_pooled_pair_is_one_vector_and_back(network: step.Network) -> None:
    """Of AlexNet: three numbers a channel, three classical maps, seven facts."""
    assert network.size == 3 * (64 + 192 + 384 + 256 + 256) + 3 + 7
    vectors = np.random.default_rng(0).random((2, 3, network.size), np.float32)
    pooled = network.unpack(vectors)
    for name in ("relu3", "relu3_texture", "relu3_structure"):
        assert pooled.deep[name].shape == (2, 3, 384)
    assert pooled.facts.shape == (2, 3, 7)
    np.testing.assert_array_equal(network.pack(pooled), vectors)


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ({"streams": ("classical",)}, {"ssim"}),
        ({"streams": ("perceptual", "classical")}, {"ssim", "relu1", "relu1_texture"}),
        ({"streams": ("semantic",)}, {"relu3", "relu3_structure"}),
        (
            {"statistics": ("squares", "texture")},
            {"ssim", "relu1", "relu1_texture", "relu3"},
        ),
        (
            {"monotone": False},
            {"ssim", "relu1", "relu1_texture", "relu3", "relu3_structure"},
        ),
    ],
)
def test_the_head_sees_what_it_is_given(
    network: step.Network, options: dict, counted: set[str]
) -> None:
    """The score is 0 where nothing differs, and moves with what is not left out."""
    module = Spips(backbone=backbones.build("alexnet"), width=4, **options)
    judge = step.network_of(module)
    zero = network.unpack(jnp.zeros(network.size))
    params = jax.jit(partial(module.init, method="judge"))(jax.random.key(0), zero)
    score = jax.jit(partial(module.apply, params, method="judge"))
    assert judge.size == network.size
    assert score(zero) == 0
    for name in ("ssim", "relu1", "relu1_texture", "relu3", "relu3_structure"):
        part = "deep" if name in zero.deep else "classical"
        values = {**getattr(zero, part)}
        values[name] = values[name] + 0.1
        moved = score(dataclasses.replace(zero, **{part: values}))
        assert (moved > 0) == (name in counted), name


@pytest.mark.parametrize("kind", ["pairs", "2afc"])
def test_pooled_pairs_are_judged_as_images_are(
    network: step.Network, params: dict, kind: step.Kind
) -> None:
    names = dict.fromkeys(name for pair in COMPARED[kind] for name in pair)
    batch = images(*names)
    key = jax.random.key(0)

    @jax.jit
    def both(params, batch):
        pooled = {step.POOLED: network.pool(params, batch, kind)}
        return (
            network.distances(params, batch, kind, key=key),
            network.distances(params, pooled, kind, key=key),
        )

    direct, pooled = both(params, batch)
    assert direct.shape == (2, len(COMPARED[kind]))
    np.testing.assert_allclose(pooled, direct, rtol=1e-6)  # the same float32 sums
    # And as the metric that users call says.
    score = jax.jit(lambda p, x, y: network.module.apply({"params": p}, x, y).score)
    for column, (first, second) in enumerate(COMPARED[kind]):
        x, y = (batch[name].astype(np.float32) / 255 for name in (first, second))
        scores = score(params, x, y)
        np.testing.assert_allclose(direct[:, column], scores, rtol=1e-5)  # float32


def objective(**fields: object) -> step.Objective:
    return step.Objective(**{"kind": "pairs", "opinion": "mos", **fields})


def test_losses_follow_the_direction_of_the_opinion() -> None:
    distances = jnp.array([[0.1], [0.2], [0.4], [0.8]])
    falling = {"mos": jnp.array([9.0, 8.0, 6.0, 2.0])}
    rising = {"dmos": 10 - falling["mos"]}
    weights = (("l1", 1.0), ("plcc", 1.0), ("rank", 1.0))
    mos = step.loss_terms(
        distances, falling, objective(weights=weights, opinions=(10.0, 0.0))
    )
    dmos = step.loss_terms(
        distances, rising, objective(opinion="dmos", weights=weights, opinions=(0, 10))
    )
    for name in mos:
        np.testing.assert_allclose(mos[name], dmos[name], rtol=1e-6)
    assert mos["plcc"] == pytest.approx(0, abs=1e-6)  # an exact line
    assert mos["l1"] == pytest.approx(0, abs=1e-6)  # (10 - mos) / 10
    assert mos["rank"] < np.log(2)  # below what equal distances would cost


def test_ranks_are_compared_within_their_groups() -> None:
    distances = jnp.array([[0.1], [0.2], [0.9], [0.0]])
    batch = {"level": jnp.array([1, 2, 1, 2]), "group": jnp.array([7, 7, 8, 8])}
    terms = step.loss_terms(
        distances,
        batch,
        objective(kind="ranks", opinion="level", weights=(("rank", 1.0),), scale=0.1),
    )
    # Pairs (1, 0) and (3, 2): log(1 + exp(-(difference) / scale)).
    expected = np.mean(np.log1p(np.exp([-1.0, 9.0])))
    np.testing.assert_allclose(terms["rank"], expected, rtol=1e-5)  # float32


def test_choices_compare_distances_by_their_scale() -> None:
    distances = jnp.array([[0.3, 0.1], [0.1, 0.3]])
    batch = {"judgement": jnp.array([1.0, 0.25])}
    terms = step.loss_terms(
        distances,
        batch,
        objective(
            kind="2afc", opinion="judgement", weights=(("choice", 1.0),), scale=0.1
        ),
    )
    p = 1 / (1 + np.exp([-2.0, 2.0]))  # of choosing image 1, which is nearer in row 0
    h = np.array([1.0, 0.25])
    expected = -np.mean(h * np.log(p) + (1 - h) * np.log(1 - p))
    np.testing.assert_allclose(terms["choice"], expected, rtol=1e-5)  # float32


def test_a_step_on_two_devices_follows_the_gradient_of_the_whole_batch(
    network: step.Network, params: dict
) -> None:
    """The loss couples rows of both devices, the gradient must not notice."""
    flat = state.flatten(params)
    trained, frozen = state.partition(flat, "semantic,head,gain")
    rng = np.random.default_rng(1)
    batch = {
        step.POOLED: 0.2 * rng.random((4, 1, network.size), np.float32),
        "mos": rng.random(4, np.float32),
    }
    goal = objective(weights=(("plcc", 1.0), ("rank", 0.5)))
    tx = optax.sgd(1.0)
    before = state.create(trained, tx, key=jax.random.key(0), average=True)
    mapped = parallel.mapped(
        lambda s, f, b: step.train_step(
            s, f, b, network=network, objective=goal, tx=tx, decay=0.9
        )
    )
    after, metrics = mapped(
        parallel.replicate(before), parallel.replicate(frozen), parallel.split(batch)
    )

    def loss(trained):
        distances = network.distances(
            state.unflatten(frozen, trained), batch, "pairs", key=jax.random.key(0)
        )
        terms = step.loss_terms(distances, batch, goal)
        return terms["plcc"] + 0.5 * terms["rank"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(trained)
    assert jax.local_device_count() > 1
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient.values()))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    for path, value in after.params.items():
        # Sums in another order, of terms that partly cancel.
        np.testing.assert_allclose(
            value, trained[path] - gradient[path], rtol=1e-4, atol=1e-6, err_msg=path
        )
        # The average's decay is (1 + 0) / (10 + 0) at the first step.
        average = 0.1 * trained[path] + 0.9 * value
        np.testing.assert_allclose(after.average[path], average, rtol=1e-5, atol=1e-7)
    assert after.step == 1
    assert after.judged is after.average


def test_evaluation_gathers_all_rows_in_order(
    network: step.Network, params: dict
) -> None:
    rng = np.random.default_rng(2)
    batch = {
        step.POOLED: rng.random((4, 2, network.size), np.float32),
        "position": np.array([3, 1, 0, 2], np.int32),
        "mask": np.array([True, True, False, True]),
    }
    mapped = parallel.mapped(
        lambda p, f, b: step.eval_step(p, f, b, network=network, kind="2afc")
    )
    trained, frozen = state.partition(state.flatten(params), "head")
    result = mapped(trained, frozen, parallel.split(batch))
    np.testing.assert_array_equal(result["position"], batch["position"])
    np.testing.assert_array_equal(result["mask"], batch["mask"])
    expected = network.distances(params, batch, "2afc", key=jax.random.key(0))
    np.testing.assert_allclose(result["values"], expected, rtol=1e-5)  # float32
