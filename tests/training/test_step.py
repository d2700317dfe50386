"""The step: what is compared, which losses see what, pooled pairs, gradients."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spips_jax import backbones, kinds, losses, parallel
from spips_jax.kinds import Kind
from spips_jax.spips import Spips
from spips_jax.training import objectives, state, step
from spips_jax.training.objectives import Loss, Objective, Seen, loss_terms


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
    """Of AlexNet: three numbers a channel, three classical maps, three facts."""
    assert network.size == 3 * (64 + 192 + 384 + 256 + 256) + 3 + 3
    vectors = np.random.default_rng(0).random((2, 3, network.size), np.float32)
    pooled = network.unpack(vectors)
    for name in ("relu3", "relu3_texture", "relu3_structure"):
        assert pooled.deep[name].shape == (2, 3, 384)
    assert pooled.facts.shape == (2, 3, 3)
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
            {"classical": ("psnr", "ms_ssim")},
            {"relu1", "relu1_texture", "relu3", "relu3_structure"},
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
    made = step.network_of(module)
    zero = made.unpack(jnp.zeros(made.size))
    params = jax.jit(partial(module.init, method="score_pooled"))(
        jax.random.key(0), zero
    )
    score = jax.jit(partial(module.apply, params, method="score_pooled"))
    assert (made.size == network.size) == ("classical" not in options)
    assert score(zero) == 0
    for name in ("ssim", "relu1", "relu1_texture", "relu3", "relu3_structure"):
        part = "deep" if name in zero.deep else "classical"
        if name not in getattr(zero, part):
            assert name not in counted
            continue
        values = {**getattr(zero, part)}
        values[name] = values[name] + 0.1
        moved = score(dataclasses.replace(zero, **{part: values}))
        assert (moved > 0) == (name in counted), name


@pytest.mark.parametrize("kind", [kinds.PAIRS, kinds.CHOICES], ids=lambda k: k.name)
def test_pooled_pairs_score_as_images_do(
    network: step.Network, params: dict, kind: Kind
) -> None:
    names = dict.fromkeys(name for pair in kind.compared for name in pair)
    batch = images(*names)

    @jax.jit
    def both(params, batch):
        pooled = {step.POOLED: network.pool(params, batch, kind)}
        return (
            network.distances(params, batch, kind),
            network.distances(params, pooled, kind),
        )

    direct, pooled = both(params, batch)
    assert direct.shape == (2, len(kind.compared))
    np.testing.assert_allclose(pooled, direct, rtol=1e-6)  # the same float32 sums
    # And as the metric that users call says.
    score = jax.jit(lambda p, x, y: network.module.apply({"params": p}, x, y).score)
    for column, (first, second) in enumerate(kind.compared):
        x, y = (batch[name].astype(np.float32) / 255 for name in (first, second))
        scores = score(params, x, y)
        np.testing.assert_allclose(direct[:, column], scores, rtol=1e-5)  # float32


def objective(**fields: object) -> Objective:
    return Objective(**{"kind": kinds.PAIRS, "opinion": "mos", **fields})


def test_losses_follow_the_direction_of_the_opinion() -> None:
    distances = jnp.array([[0.1], [0.2], [0.4], [0.8]])
    falling = {"mos": jnp.array([9.0, 8.0, 6.0, 2.0])}
    rising = {"dmos": 10 - falling["mos"]}
    weights = (("l1", 1.0), ("plcc", 1.0), ("rank", 1.0))
    mos = loss_terms(
        Seen(distances=distances, opinions=falling["mos"]),
        objective(weights=weights, opinions=(10.0, 0.0)),
    )
    dmos = loss_terms(
        Seen(distances=distances, opinions=rising["dmos"]),
        objective(opinion="dmos", weights=weights, opinions=(0, 10)),
    )
    for name in mos:
        np.testing.assert_allclose(mos[name], dmos[name], rtol=1e-6)
    assert mos["plcc"] == pytest.approx(0, abs=1e-6)  # an exact line
    assert mos["l1"] == pytest.approx(0, abs=1e-6)  # (10 - mos) / 10
    assert mos["rank"] < np.log(2)  # below what equal distances would cost


@pytest.mark.parametrize("comparable", ["reference", "group"])
def test_opinions_are_compared_within_their_groups(comparable: str) -> None:
    seen = Seen(
        distances=jnp.array([[0.1], [0.2], [0.9], [0.0]]),
        opinions=jnp.array([1, 2, 1, 3]),
        groups=jnp.array([7, 7, 8, 8]),
    )
    goal = objective(
        opinion="dmos",
        comparable=comparable,
        weights=(("l1", 1.0), ("plcc", 1.0), ("rank", 1.0)),
        scale=0.1,
        opinions=(1.0, 3.0),
    )
    terms = loss_terms(seen, goal)
    # Pairs (1, 0) and (3, 2): log(1 + exp(-(difference) / scale)).
    expected = np.mean(np.log1p(np.exp([-1.0, 9.0])))
    np.testing.assert_allclose(terms["rank"], expected, rtol=1e-5)  # float32
    # From the means of the groups.
    x, y = np.array([-0.05, 0.05, 0.45, -0.45]), np.array([-0.5, 0.5, -1, 1])
    expected = 1 - np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    np.testing.assert_allclose(terms["plcc"], expected, rtol=1e-5)
    expected = np.mean(np.abs(x - y / 2))
    np.testing.assert_allclose(terms["l1"], expected, rtol=1e-5)

    # What is added to a group is not compared; where a set is comparable, it is.
    added = jnp.array([0, 0, 5, 5])
    shifted = dataclasses.replace(seen, opinions=seen.opinions + added)
    whole = dataclasses.replace(goal, comparable="set")
    for name, value in loss_terms(shifted, goal).items():
        np.testing.assert_allclose(value, terms[name], rtol=1e-5, err_msg=name)
        over_the_set = loss_terms(shifted, whole)[name]
        assert abs(over_the_set - loss_terms(seen, whole)[name]) > 0.01


@pytest.mark.parametrize("name", ["plcc", "rank", "l1"])
def test_a_batch_without_groups_is_refused_where_they_matter(name: str) -> None:
    seen = Seen(distances=jnp.zeros((2, 1)), opinions=jnp.arange(2.0))
    goal = objective(comparable="reference", weights=((name, 1.0),))
    with pytest.raises(
        ValueError, match=r"only within a reference, .* no column group"
    ):
        loss_terms(seen, goal)


def test_choices_compare_distances_by_their_scale() -> None:
    distances = jnp.array([[0.3, 0.1], [0.1, 0.3]])
    terms = loss_terms(
        Seen(distances=distances, opinions=jnp.array([1.0, 0.25])),
        objective(
            kind=kinds.CHOICES,
            opinion="judgement",
            weights=(("choice", 1.0),),
            scale=0.1,
        ),
    )
    p = 1 / (1 + np.exp([-2.0, 2.0]))  # of choosing image 1, which is nearer in row 0
    h = np.array([1.0, 0.25])
    expected = -np.mean(h * np.log(p) + (1 - h) * np.log(1 - p))
    np.testing.assert_allclose(terms["choice"], expected, rtol=1e-5)  # float32


def test_every_loss_is_the_one_of_its_name() -> None:
    """Each entry of the table against the function of `spips_jax.losses`."""
    rng = np.random.default_rng(3)
    distances = jnp.asarray(rng.random((6, 2)), jnp.float32)
    opinions = jnp.asarray(rng.random(6), jnp.float32)
    first, second = distances.T
    network = losses.Ranker()
    ranker = network.init(jax.random.key(0), first, second)["params"]
    errors = {
        f"{name}/{tap}": jnp.asarray(rng.random(6), jnp.float32)
        for name in ("features", "differences")
        for tap in ("relu1", "relu2")
    }
    seen = Seen(distances=distances, opinions=opinions, ranker=ranker, errors=errors)
    goal = objective(opinion="dmos", weights=(), scale=0.2, opinions=(0.0, 2.0))
    logits = network.apply({"params": ranker}, first, second)
    expected = {
        "plcc": 1 - np.corrcoef(first, opinions)[0, 1],
        "rank": losses.rank_loss(first, opinions, scale=0.2),
        "l1": np.mean(np.abs(first - opinions / 2)),
        "ranker": losses.choice_cross_entropy(logits, opinions),
        "choice": losses.choice_cross_entropy((first - second) / 0.2, opinions),
        **{
            name: sum(np.mean(errors[f"{name}/{tap}"]) for tap in ("relu1", "relu2"))
            for name in ("features", "differences")
        },
    }
    assert expected.keys() == objectives.LOSSES.keys()
    for name, value in expected.items():
        actual = objectives.LOSSES[name].value(seen, goal)
        np.testing.assert_allclose(actual, value, rtol=1e-5, err_msg=name)  # float32


def test_a_loss_is_added_by_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Loss(
        value=lambda seen, goal: jnp.mean(seen.distances**2), learns_from="opinions"
    )
    monkeypatch.setitem(objectives.LOSSES, "toy", toy)
    objectives.check_losses({"toy": 1.0}, kinds.PAIRS, "mine")
    seen = Seen(distances=jnp.array([[1.0], [3.0]]), opinions=jnp.zeros(2))
    assert loss_terms(seen, objective(weights=(("toy", 1.0),))) == {"toy": 5.0}


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (kinds.PAIRS, "rnak", "loss 'rnak' is not one of plcc, .*did you mean rank?"),
        (kinds.CHOICES, "rank", "kind 2afc are learned with ranker, choice"),
        (
            kinds.JND,
            "rank",
            "'rank' does not suit mine: sets of kind jnd only evaluate",
        ),
    ],
)
def test_losses_that_do_not_suit_are_refused(
    kind: Kind, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        objectives.check_losses({name: 1.0}, kind, "mine")


@pytest.mark.parametrize("comparable", ["set", "reference"])
def test_a_step_on_two_devices_follows_the_gradient_of_the_whole_batch(
    network: step.Network, params: dict, comparable: str
) -> None:
    """The loss couples rows of both devices, the gradient must not notice."""
    flat = state.flatten(params)
    trained, frozen = state.partition(flat, "semantic,head,gain")
    rng = np.random.default_rng(1)
    batch = {
        step.POOLED: 0.2 * rng.random((4, 1, network.size), np.float32),
        "mos": rng.random(4, np.float32),
        "group": np.array([3, 8, 3, 8], np.int32),  # each on both devices
    }
    goal = objective(
        comparable=comparable, weights=(("l1", 0.2), ("plcc", 1.0), ("rank", 0.5))
    )
    tx = optax.sgd(1.0)
    before = state.create(trained, tx, average=True)
    mapped = parallel.mapped(
        lambda s, f, b: step.train_step(
            s, f, b, network=network, objective=goal, tx=tx, decay=0.9
        )
    )
    after, metrics = mapped(
        parallel.replicate(before), parallel.replicate(frozen), parallel.split(batch)
    )

    def loss(trained):
        tree = state.unflatten(frozen, trained)
        distances = network.distances(tree, batch, kinds.PAIRS)
        terms = loss_terms(
            Seen(distances=distances, opinions=batch["mos"], groups=batch["group"]),
            goal,
        )
        return 0.2 * terms["l1"] + terms["plcc"] + 0.5 * terms["rank"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(trained)
    assert jax.local_device_count() > 1
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient.values()))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    for path, value in after.params.items():
        # Sums in another order, of terms that partly cancel: relative to the largest.
        largest = np.abs(gradient[path]).max()
        np.testing.assert_allclose(
            value, trained[path] - gradient[path], rtol=1e-4, atol=1e-5 * largest
        )
        # The average's decay is (1 + 0) / (10 + 0) at the first step.
        average = 0.1 * trained[path] + 0.9 * value
        np.testing.assert_allclose(after.average[path], average, rtol=1e-5, atol=1e-7)
    assert after.step == 1
    assert after.evaluation_params is after.average


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
        lambda p, f, b: step.eval_step(p, f, b, network=network, kind=kinds.CHOICES)
    )
    trained, frozen = state.partition(state.flatten(params), "head")
    result = mapped(trained, frozen, parallel.split(batch))
    np.testing.assert_array_equal(result["position"], batch["position"])
    np.testing.assert_array_equal(result["mask"], batch["mask"])
    expected = network.distances(params, batch, kinds.CHOICES)
    np.testing.assert_allclose(result["values"], expected, rtol=1e-5)  # float32
