"""`perceptual_loss`: its options, the loops it stands in, and what it refuses."""

from __future__ import annotations

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_metric import small_metric

import spips_jax
from spips_jax import ImageError, parallel, perceptual_loss, spips

SMALL = small_metric()
REFERENCE, DISTORTED = (
    np.random.default_rng(seed).random((4, 6, 7, 3), np.float32) for seed in (0, 1)
)
SCORES = np.square(REFERENCE.astype(np.float64) - DISTORTED).mean((1, 2)).sum(-1)
"""What `SMALL` gives, in float64."""

SAME = {"rtol": 1e-5}  # float32 sums of a hundred numbers, in another order


@pytest.fixture(scope="module")
def lite() -> spips_jax.Metric:
    """spips-lite with one classical map, which compiles sooner, and a random head."""
    whole = spips_jax.load()
    module = whole.module.clone(classical=("psnr",))
    rng = np.random.default_rng(0)
    params = {
        name: jax.tree.map(lambda x: rng.uniform(0, 0.5, x.shape).astype("f"), part)
        if name in ("head", "gain")
        else part
        for name, part in spips.initialize(module).items()
    }
    params["backbone"] = whole.variables["params"]["backbone"]
    return spips_jax.Metric(variables={"params": params}, module=module, name="lite")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SCORES.mean()),
        ({"per_example": True}, SCORES),
        ({"weights": [0, 1, 2, 0.5]}, (SCORES * [0, 1, 2, 0.5]).mean()),
        ({"weights": 0.5, "per_example": True}, SCORES / 2),
        ({"value_range": (-1, 1)}, SCORES.mean() / 4),
        ({"chunk": 2, "per_example": True}, SCORES),
        ({"chunk": 1, "weights": [0, 1, 2, 0.5]}, (SCORES * [0, 1, 2, 0.5]).mean()),
        ({"chunk": 4}, SCORES.mean()),
    ],
    ids=str,
)
@pytest.mark.parametrize("featured", [False, True])
def test_options_do_what_they_say(options, expected, featured):
    reference = REFERENCE
    if featured:
        value_range = options.get("value_range", (0, 1))
        reference = SMALL.features(REFERENCE, value_range=value_range)
    loss = perceptual_loss(SMALL, reference, DISTORTED, **options)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, **SAME)


def test_leading_dimensions_broadcast():
    distorted = DISTORTED.reshape(2, 2, *DISTORTED.shape[1:])
    one = SMALL.features(REFERENCE[0])
    expected = SMALL(REFERENCE[0], DISTORTED).reshape(2, 2)
    for options in ({}, {"chunk": 2}):
        for reference in (REFERENCE[0], one):
            found = perceptual_loss(
                SMALL, reference, distorted, per_example=True, **options
            )
            np.testing.assert_allclose(found, expected, **SAME)
    alone = perceptual_loss(SMALL, REFERENCE[0], DISTORTED[0], chunk=1)
    np.testing.assert_allclose(alone, SCORES[0], **SAME)


def test_crops_are_squares_of_both_images_anywhere():
    side = 4
    possible = {}
    for row in range(3):
        for column in range(4):
            cut = np.s_[:, row : row + side, column : column + side]
            squares = np.square(REFERENCE[cut].astype(np.float64) - DISTORTED[cut])
            possible[row, column] = squares.mean((1, 2)).sum(-1)
    table = np.stack(list(possible.values()))
    crop = jax.jit(
        lambda key: perceptual_loss(
            SMALL, REFERENCE, DISTORTED, crop=side, key=key, per_example=True
        )
    )
    places = []
    for seed in range(40):
        scores = np.asarray(crop(jax.random.key(seed)))
        near = np.isclose(table, scores, rtol=1e-5)
        assert near.any(0).all(), "a square of the pair"
        places.append(near.argmax(0))
    assert set(np.concatenate(places)) == set(range(len(possible))), "all of them"
    assert any(len(set(one)) > 1 for one in places), "each example has its own"


def test_of_spips_it_is_a_share_of_the_untrained_score(lite, pair):
    """And of the trained one without its facts."""
    reference, distorted = pair(40, 48)
    distorted = 0.5 + 0.8 * (distorted - 0.5)  # less contrast, which is a fact
    loss = jax.jit(
        partial(perceptual_loss, lite, reference, distorted), static_argnames="facts"
    )
    params = lite.variables["params"]
    no_gain = jax.tree.map(jnp.zeros_like, params["gain"])
    plain = lite.replace(variables={"params": {**params, "gain": no_gain}})
    untrained = spips.initialize(lite.module)
    # The weights of channels are trained ones in both.
    kept = {**params, "head": untrained["head"], "gain": no_gain}
    linear = lite.replace(variables={"params": kept})
    trained, mean, score = (
        float(metric(reference, distorted)) for metric in (plain, linear, lite)
    )
    assert abs(trained - score) > 0.01
    for share in (0.0, 0.5, 1.0):
        expected = (1 - share) * trained + share * mean
        np.testing.assert_allclose(loss(uniform=share), expected, **SAME)
    np.testing.assert_allclose(loss(), (trained + mean) / 2, **SAME)
    np.testing.assert_allclose(loss(uniform=0.0, facts=True), score, **SAME)


def test_weights_of_streams(lite, pair):
    reference, distorted = pair(40, 48)
    loss = jax.jit(
        lambda weights: perceptual_loss(
            lite,
            reference,
            distorted,
            stream_weights=weights,
            uniform=0.0,
            facts=True,
        )
    )
    whole = loss({"semantic": 1.0})
    np.testing.assert_allclose(whole, lite(reference, distorted), **SAME)
    parts = lite.explain(reference, distorted).streams
    for stream in parts:
        alone = loss(dict.fromkeys(set(parts) - {stream}, 0.0))
        np.testing.assert_allclose(alone, parts[stream], **SAME)
    more, less = (loss({"perceptual": weight}) for weight in (2.0, 0.5))
    assert more > whole > less


def test_no_gradient_goes_into_the_reference():
    for options in ({}, {"chunk": 2}):
        gradients = jax.grad(partial(perceptual_loss, SMALL, **options), (0, 1))(
            REFERENCE, DISTORTED
        )
        assert not gradients[0].any()
        assert gradients[1].any()
        np.testing.assert_allclose(
            gradients[1], (DISTORTED - REFERENCE) / 84, rtol=1e-4, atol=1e-8
        )


# The loops that people have. A model is a number that multiplies its input.


def model_loss(scale, reference, distorted, **options):
    return perceptual_loss(SMALL, reference, scale * distorted, **options)


GRADIENT = 2 * np.mean(np.mean((DISTORTED - REFERENCE) * DISTORTED, (1, 2)).sum(-1))


def by_jit():
    def with_aux(scale):
        scores = model_loss(scale, REFERENCE, DISTORTED, per_example=True)
        return scores.mean(), scores

    (_, scores), slope = jax.jit(jax.value_and_grad(with_aux, has_aux=True))(1.0)
    np.testing.assert_allclose(scores, SCORES, **SAME)
    return slope


def by_vmap():
    slopes = jax.vmap(jax.grad(model_loss), (None, 0, 0))(1.0, REFERENCE, DISTORTED)
    return slopes.mean()


def by_scan():
    micro = REFERENCE.reshape(2, 2, 6, 7, 3), DISTORTED.reshape(2, 2, 6, 7, 3)

    def add(total, batch):
        return total + jax.grad(model_loss)(1.0, *batch) / 2, None

    return jax.jit(lambda micro: jax.lax.scan(add, 0.0, micro)[0])(micro)


def by_checkpoint():
    return jax.jit(jax.grad(jax.checkpoint(model_loss)))(1.0, REFERENCE, DISTORTED)


def by_forward_mode():
    return jax.jacfwd(model_loss)(1.0, REFERENCE, DISTORTED)


def by_pmap():
    def step(scale, metric, batch):
        def loss(scale):
            output = scale * batch["distorted"]
            return perceptual_loss(metric, batch["reference"], output)

        return parallel.mean(jax.grad(loss)(scale))

    batch = parallel.split({"reference": REFERENCE, "distorted": DISTORTED})
    return parallel.mapped(step)(np.float32(1), SMALL, batch)


def by_mesh(**options):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put((REFERENCE, DISTORTED), split)
    return jax.jit(jax.grad(partial(model_loss, **options)))(1.0, *batch)


def by_train_state():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, ())

    model = Model()
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), DISTORTED)["params"],
        tx=optax.sgd(1.0),
    )

    @jax.jit
    def step(state, metric, clean, noisy):
        def loss(params):
            output = state.apply_fn({"params": params}, noisy)
            return perceptual_loss(metric, clean, output)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    return 1.0 - step(state, SMALL, REFERENCE, DISTORTED).params["scale"]


@pytest.mark.parametrize(
    "loop",
    [
        by_jit, by_vmap, by_scan, by_checkpoint, by_forward_mode, by_pmap, by_mesh,
        partial(by_mesh, chunk=2), by_train_state,
    ],
    ids=lambda loop: getattr(loop, "__name__", "by_mesh_in_chunks"),
)  # fmt: skip
def test_it_works_in_the_loops_people_have(loop):
    np.testing.assert_allclose(loop(), GRADIENT, rtol=1e-4)  # float32 sums


@pytest.mark.parametrize("options", [{}, {"chunk": 2}], ids=["whole", "chunks"])
def test_a_mesh_gathers_no_images(lite, options):
    """Examples stay on their device: only numbers and gradients are summed."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32, sharding=split)
    metric = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), lite
    )

    def loss(metric, scale, reference, distorted):
        return perceptual_loss(metric, reference, scale * distorted, **options)

    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    program = jax.jit(jax.value_and_grad(loss, 1)).lower(metric, scale, images, images)
    text = program.compile().as_text()
    moved = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute)", text)
    assert not [one for one in moved if "[]" not in one[0]], moved
    sums = "".join(re.findall(r"= (.*) all-reduce\(", text))
    summed = re.findall(r"\w+\[[\d,]*\]", sums)
    assert summed, "the loss and its slope are summed over the devices"
    assert all(int(np.prod(_dimensions(one))) <= 4 for one in summed), summed


def _dimensions(shape: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", shape.partition("[")[2])]


# Gradients.

STEP = 1e-3
"""A smaller one drowns in float32's rounding of the score, a larger one in curvature:
each then takes up to a percent."""

OPTIONS = {
    "weights": {
        "weights": [0.3, 2.0],
        "stream_weights": {"semantic": 0.2, "classical": 3.0},
        "value_range": (-1.0, 1.0),
        "uniform": 0.1,
    },
    "the score": {"uniform": 0.0, "facts": True},
    "parts": {"crop": 40, "key": jax.random.key(3), "chunk": 1},
}


def check_slope(loss, reference, distorted):
    """The slope on the way to the reference, against a central difference."""
    step = jax.jit(jax.value_and_grad(loss))
    way = reference - distorted
    ends = [step(distorted + sign * STEP * way)[0] for sign in (1, -1)]
    slope = np.vdot(step(distorted)[1], way)
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * STEP), slope, rtol=0.02)


def smooth_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two of waves, each with its blurred and darker copy, float32."""
    y, x = np.mgrid[:height, :width] / 10
    phases = np.random.default_rng(0).uniform(0, 6, (2, 1, 1, 3))
    waves = np.sin(x[..., None] + phases) * np.cos(y[..., None] * 1.7 - phases)
    reference = 0.5 + 0.3 * waves
    distorted = 0.47 + 0.2 * waves + 0.03 * np.cos(3 * x + y)[..., None]
    return reference.astype(np.float32), distorted.astype(np.float32)


@pytest.mark.parametrize("name", OPTIONS)  # without any: of every model, below
def test_gradients_are_slopes_with_every_option(lite, name):
    reference, distorted = smooth_pair(48, 56)
    loss = partial(perceptual_loss, lite, reference, **OPTIONS[name])
    check_slope(loss, reference, distorted)


def test_gradients_are_slopes_of_every_model(embedded):
    reference, distorted = smooth_pair(48, 56)
    check_slope(partial(perceptual_loss, embedded, reference), reference, distorted)


def test_forward_mode_passes_through_the_whole_score(pair):
    reference, distorted = pair(33, 40)
    loss = partial(perceptual_loss, spips_jax.load(), reference)
    way = (distorted - reference).astype(np.float32)
    value, slope = jax.jit(lambda x: jax.jvp(loss, (x,), (way,)))(distorted)
    gradient = jax.jit(jax.grad(loss))
    expected = np.vdot(gradient(distorted), way)
    np.testing.assert_allclose(slope, expected, rtol=1e-3)  # sums in another order
    np.testing.assert_allclose(value, loss(distorted), **SAME)


def test_second_derivatives_commute(lite, pair):
    reference, distorted = pair(33, 40)
    gradient = jax.grad(partial(perceptual_loss, lite, reference))
    way = distorted - reference
    other = np.flip(way, 1)
    along = jax.jit(lambda x, way: jax.jvp(gradient, (x,), (way,))[1])
    products = [
        np.vdot(along(distorted, a), b) for a, b in ((way, other), (other, way))
    ]
    assert products[0] != 0
    # Differences of float32 gradients.
    np.testing.assert_allclose(*products, rtol=1e-2)


def test_chunks_bound_memory(as_users_do):
    whole = spips_jax.load()

    def memory(batch: int, **options) -> int:
        images = jax.ShapeDtypeStruct((batch, 128, 128, 3), jnp.float32)
        loss = partial(perceptual_loss, **options)
        program = jax.jit(jax.grad(loss, 2)).lower(whole, images, images)
        compiled = program.compile(as_users_do)
        return compiled.memory_analysis().temp_size_in_bytes

    # 1.27 was measured at 256x256; copies of the images are a larger part here.
    assert memory(16, chunk=4) < 1.5 * memory(4)


# What is refused, in one line.


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"distorted": (255 * DISTORTED).astype(np.uint8)},
         "distorted has dtype uint8: a loss needs the model's output as floats"),
        ({"distorted": DISTORTED[:, :5]}, "reference is 7x6 .* distorted is 7x5"),
        ({"distorted": DISTORTED[:3]}, r"\(4,\) of reference and \(3,\) of distorted"),
        ({"distorted": 255 * DISTORTED}, r"far outside its value_range \(0, 1\)"),
        ({"reference": 2 * REFERENCE - 3}, r"far outside its value_range \(0, 1\)"),
        ({"weights": np.ones(3)}, r"weights have shape \(3,\), the batch has \(4,\)"),
        ({"weights": [1, 2, 3, -4]}, "weights has -4: give finite numbers from 0 on"),
        ({"weights": np.nan}, "weights has nan: give finite numbers"),
        ({"stream_weights": {"semantic": 1}}, "weighted has no streams: leave them"),
        ({"crop": 4}, "crop is given and key is None: give both or neither"),
        ({"key": jax.random.key(0)}, "key is given and crop is None"),
        ({"crop": 7, "key": jax.random.key(0)}, "crop is 7 and a side .* is 6"),
        ({"crop": 0, "key": jax.random.key(0)}, "crop is 0: weighted needs .* least 1"),
        ({"crop": 4, "key": jax.random.key(0), "reference": "features"},
         "crop is 4 and reference is features, which are of whole images"),
        ({"chunk": 3}, "chunk is 3 and the batch has 4 examples: .* divides it"),
        ({"chunk": 0}, "chunk is 0 and the batch has 4 examples"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(spoil, message):
    given = {"reference": REFERENCE, "distorted": DISTORTED, **spoil}
    if isinstance(given["reference"], str):
        given["reference"] = SMALL.features(REFERENCE)
    with pytest.raises(ValueError, match=message) as error:
        perceptual_loss(SMALL, **given)
    assert "\n" not in str(error.value)


def test_integers_under_grad_are_refused():
    integers = (255 * DISTORTED).astype(np.uint8)
    for loss in (partial(perceptual_loss, SMALL), lambda *pair: SMALL(*pair).mean()):
        with pytest.raises((ImageError, TypeError), match="uint8"):
            jax.grad(loss, 1)(REFERENCE, integers)


def test_streams_that_there_are_not_are_named(lite, pair):
    for weights, message in (
        ({"perceptul": 1}, "stream 'perceptul' is not one of perceptual, semantic"),
        ({"semantic": [1, 2]}, r"stream_weights\['semantic'\] has shape \(2,\)"),
        ({"semantic": -1}, r"stream_weights\['semantic'\] has -1: give finite"),
    ):
        with pytest.raises(ValueError, match=message):
            perceptual_loss(lite, *pair(32, 32), stream_weights=weights)
    for uniform, message in ((1.5, "uniform is 1.5: give a share"), ([1], "shape")):
        with pytest.raises(ValueError, match=message):
            perceptual_loss(lite, *pair(32, 32), uniform=uniform)


def test_metrics_that_rise_are_refused(pair):
    with pytest.raises(ValueError, match="ssim is higher for better images"):
        perceptual_loss(spips_jax.load("ssim"), *pair(32, 32))


def test_features_of_another_metric_are_named(random_metric, pair):
    reference, distorted = pair(32, 32)
    features = random_metric("alexnet").features(reference)
    assert features.made_by == "Spips over alexnet in float32"
    for other, name in (
        (random_metric("alexnet", "bfloat16"), "Spips over alexnet in bfloat16"),
        (random_metric("squeezenet"), "Spips over squeezenet in float32"),
        (spips_jax.load("psnr"), "Classical"),
    ):
        for call in (other, partial(perceptual_loss, other), jax.jit(other)):
            with pytest.raises(ValueError, match=f"{name}: use features of its own"):
                call(features, distorted)
    with pytest.raises(ImageError, match="a pair must have one size"):
        perceptual_loss(random_metric("alexnet"), features, pair(32, 33)[1])
