"""The contract of SPIPS, over its backbones, and how a Metric composes with JAX."""

from __future__ import annotations

import equinox
import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spips_jax
from spips_jax import ImageError, WeightsError

# The same float32 arithmetic in another order or another program.
SAME = {"rtol": 1e-5, "atol": 1e-6}

# One odd and one even side, and one size for all tests: most of their time is
# compilation, which they share so.
SIZE = (37, 44)

CONTRACT_IMAGES = {
    "noise": np.random.default_rng(0).random((*SIZE, 3)),
    "black": np.zeros((*SIZE, 3)),
    "white": np.ones((*SIZE, 3)),
    "flat": np.full((*SIZE, 3), 0.4),
}

# The VGGs are AlexNet with other depths: over VGG16 the whole contract is one test.
networks = pytest.mark.parametrize("network", ["alexnet", "squeezenet"])


@pytest.mark.parametrize(
    ("network", "dtype"),
    [("alexnet", "float32"), ("alexnet", "bfloat16"), ("squeezenet", "float32")],
)
def test_identical_images_score_exactly_zero(random_metric, network, dtype):
    metric = random_metric(network, dtype)
    for names in (("noise", "black"), ("white", "flat")):
        images = np.stack([CONTRACT_IMAGES[name] for name in names])
        images = images.astype(np.float32)
        np.testing.assert_array_equal(metric(images, images), 0)
        # One program saw the reference, another the image.
        np.testing.assert_array_equal(metric(metric.features(images), images), 0)


def test_identical_images_have_empty_maps(random_metric):
    image = CONTRACT_IMAGES["noise"].astype(np.float32)
    for value in jax.tree.leaves(random_metric("alexnet").explain(image, image)):
        np.testing.assert_array_equal(value, 0)


@networks
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.floats(0, 1), flat=st.booleans())
def test_scores_are_never_negative(random_metric, network, seed, strength, flat):
    rng = np.random.default_rng(seed)
    reference = rng.random((2, 1, 1, 3)) if flat else rng.random((2, *SIZE, 3))
    reference = np.broadcast_to(reference, (2, *SIZE, 3))
    distorted = reference + strength * (rng.random((2, *SIZE, 3)) - reference)
    images = [image.astype(np.float32) for image in (reference, distorted)]
    scores = random_metric(network)(*images)
    assert (scores >= 0).all()
    assert scores.dtype == jnp.float32


# Those that are trained, in float32 and bfloat16, are in test_embedded.py.
@pytest.mark.parametrize("network", ["vgg16", "lite"])
def test_the_contract_holds_for_every_valid_input(
    random_metric, network, as_users_do, request
):
    """One program of all pairs, for scores and gradients; lite's as users have it."""
    options = {}
    if network == "lite":
        request.getfixturevalue("optimized")
        options = as_users_do
    names = ("noise", "black", "flat")
    pairs = [(a, b) for a in names for b in names]
    references, distorted = (
        jnp.asarray(np.stack([CONTRACT_IMAGES[pair[k]] for pair in pairs]), "float32")
        for k in (0, 1)
    )

    def total(metric, references, distorted):
        scores = metric(references, distorted)
        return scores.sum(), scores

    gradients, scores = jax.jit(
        jax.grad(total, argnums=(0, 1, 2), has_aux=True), compiler_options=options
    )(random_metric(network), references, distorted)
    assert scores.dtype == jnp.float32
    for (a, b), score in zip(pairs, scores, strict=True):
        assert score == 0 if a == b else 0 <= score < np.inf, (a, b)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_finite_where_features_are_zero(random_metric, dtype):
    metric = random_metric("alexnet", dtype)
    # Biases this low silence every unit of every layer.
    backbone = jax.tree.map(
        lambda w: w if w.ndim > 1 else w - 1e3, metric.variables["params"]["backbone"]
    )
    params = {**metric.variables["params"], "backbone": backbone}
    metric = metric.replace(variables={"params": params})
    x, y = (jnp.asarray(CONTRACT_IMAGES[name], dtype) for name in ("noise", "flat"))
    assert all((tap == 0).all() for tap in metric.features(x).taps.values())
    slopes = jax.jit(lambda m, x, y: jax.value_and_grad(m, argnums=(0, 1))(x, y))
    score, gradient = slopes(metric, x, y)
    assert score > 0, "the classical maps still see the difference"
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradient)


def test_the_gradient_is_the_slope(random_metric, pair):
    # Of smaller images the deepest taps have one position, and their texture bends.
    reference, distorted = (jnp.asarray(x) for x in pair(120, 128))
    metric = random_metric("alexnet")
    scored = jax.jit(lambda m, x, y: jax.value_and_grad(m, argnums=1)(x, y))
    _, gradient = scored(metric, reference, distorted)
    slope = jnp.linalg.norm(gradient.ravel())
    step = 0.001 * gradient / slope
    higher, lower = (
        scored(metric, reference, distorted + sign * step)[0] for sign in (1, -1)
    )
    rise = higher - lower
    # A central difference, over ReLUs, bends and float32: right to some per cent.
    np.testing.assert_allclose(rise / 0.002, slope, rtol=0.1)


@networks
def test_features_stand_in_for_the_reference(random_metric, network, pair):
    metric = random_metric(network)
    reference, distorted = pair(2, *SIZE)
    features = metric.features(reference)
    np.testing.assert_allclose(
        metric(features, distorted), metric(reference, distorted), **SAME
    )


def test_one_reference_meets_many_images(random_metric, pair):
    metric = random_metric("alexnet")
    reference, distorted = pair(2, 3, *SIZE)
    together = metric(reference[0, 0], distorted)
    assert together.shape == (2, 3)
    for k in range(2):
        one = metric(reference[0, 0], distorted[k, 1])
        np.testing.assert_allclose(together[k, 1], one, **SAME)


@networks
def test_a_batch_equals_its_images_one_by_one(random_metric, network, pair):
    metric = random_metric(network)
    reference, distorted = pair(2, *SIZE)
    singly = [metric(x, y) for x, y in zip(reference, distorted, strict=True)]
    np.testing.assert_allclose(
        metric(reference, distorted), np.stack(singly), rtol=0, atol=1e-6
    )


def test_jit_equals_no_jit(light, pair):
    reference, distorted = pair(*SIZE)
    with jax.disable_jit():
        expected = light(reference, distorted)
    np.testing.assert_allclose(light(reference, distorted), expected, atol=1e-6)


def test_value_ranges_give_one_score(light, pair):
    images = [np.round(255 * image).astype(np.uint8) for image in pair(*SIZE)]
    expected = light(*images)
    for scaled, value_range in (
        ([x / np.float32(255) for x in images], (0, 1)),
        ([x.astype(np.float32) for x in images], (0, 255)),
        ([x / np.float32(127.5) - 1 for x in images], (-1, 1)),
    ):
        np.testing.assert_allclose(
            light(*scaled, value_range=value_range), expected, **SAME
        )


def test_float64_mode_changes_no_dtype(random_weights, pair):
    path = random_weights("alexnet")
    reference, distorted = (image.astype(np.float64) for image in pair(*SIZE))
    with jax.enable_x64(True):
        metric = spips_jax.load("spips-alexnet", trained=False, weights=path)
        values = metric, metric.explain(reference, distorted)
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {jnp.dtype("float32")}


@networks
def test_bfloat16_is_close(random_metric, network, pair):
    reference, distorted = pair(2, *SIZE)
    exact = random_metric(network)(reference, distorted)
    coarse = random_metric(network, "bfloat16")(reference, distorted)
    assert coarse.dtype == jnp.float32
    # bfloat16 keeps 8 bits, and the differences of features are small.
    np.testing.assert_allclose(coarse, exact, rtol=0.35)


@networks
def test_explain_adds_up(random_metric, network, pair):
    metric = random_metric(network)
    reference, distorted = pair(2, *SIZE)
    parts = metric.explain(reference, distorted)
    np.testing.assert_allclose(parts.score, metric(reference, distorted), **SAME)
    assert set(parts.streams) == {"perceptual", "semantic", "classical"}
    # The untrained head is linear.
    np.testing.assert_allclose(sum(parts.streams.values()), parts.score, **SAME)
    taps = set(metric.module.backbone.taps)
    assert set(parts.maps) == (
        taps
        | {f"{tap}_structure" for tap in taps}
        | {"psnr", "ssim", "ms_ssim", "fused"}
        | set(parts.streams)
    )
    assert {m.shape for m in parts.maps.values()} == {(2, *SIZE)}
    for name in taps | {"psnr", "ssim", "ms_ssim"}:
        assert parts.maps[name].max() <= 1 + 1e-5, name  # float32
    total = sum(parts.maps[stream] for stream in parts.streams)
    np.testing.assert_allclose(parts.maps["fused"], total, **SAME)


def test_the_untrained_score_is_the_mean_of_the_streams(random_metric, pair):
    metric = random_metric("alexnet")
    reference, distorted = (image.astype(np.float64) for image in pair(*SIZE))
    parts = metric.explain(reference, distorted)
    x, y = (metric.features(image).taps for image in (reference, distorted))
    told = {tap: differences_of_a_tap(x[tap], y[tap]) for tap in x}
    perceptual = np.mean([told["relu1"], told["relu2"]])
    semantic = np.mean([told[f"relu{k}"] for k in (3, 4, 5)])
    psnr = 10 * np.log10(1 / np.mean((reference - distorted) ** 2))
    classical = np.mean(
        [1 - psnr / 60, parts.maps["ssim"].mean(), parts.maps["ms_ssim"].mean()]
    )
    expected = np.mean([perceptual, semantic, classical])
    np.testing.assert_allclose(parts.score, expected, rtol=1e-4)  # 1 - cosine cancels


def differences_of_a_tap(x: np.ndarray, y: np.ndarray) -> list[float]:
    """1 - cosine similarity, and what DISTS's two terms lack, means over channels."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    lengths = [np.maximum(np.linalg.norm(z, axis=-1), 1e-12) for z in (x, y)]
    cosine = np.einsum("hwc,hwc->hw", x, y) / (lengths[0] * lengths[1])
    mean_x, mean_y = x.mean((0, 1)), y.mean((0, 1))
    covariance = ((x - mean_x) * (y - mean_y)).mean((0, 1))
    c = 1e-3
    texture = 1 - (2 * mean_x * mean_y + c) / (mean_x**2 + mean_y**2 + c)
    structure = 1 - (2 * covariance + c) / (x.var((0, 1)) + y.var((0, 1)) + c)
    return [1 - cosine.mean(), texture.mean(), structure.mean() / 2]


class TestComposes:
    """`Metric` is a value like any other."""

    @pytest.fixture
    def metric(self, random_metric):
        return random_metric("alexnet")

    def test_weights_are_its_leaves(self, metric):
        leaves = jax.tree.leaves(metric)
        assert sum(leaf.size for leaf in leaves) > 2_469_696
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)

    def test_weights_are_arguments_not_constants(self, metric, pair):
        lowered = jax.jit(lambda m, x, y: m(x, y)).lower(metric, *pair(*SIZE))
        assert len(lowered.as_text()) < 1_000_000, "2.5 million weights are not in it"

    def test_vmap(self, metric, pair):
        reference, distorted = pair(3, *SIZE)
        actual = jax.vmap(metric)(reference, distorted)
        np.testing.assert_allclose(actual, metric(reference, distorted), **SAME)

    def test_grad_of_weights(self, light, pair):
        # Large enough for the deepest taps to have a structure.
        gradient = jax.jit(jax.grad(lambda m: m(*pair(96, 100))))(light)
        assert isinstance(gradient, spips_jax.Metric)
        head = gradient.variables["params"]["head"]
        assert (head["linear"] > 0).all()

    def test_pmap(self, light, pair):
        count = jax.local_device_count()
        reference, distorted = pair(count, 2, *SIZE)
        mapped = jax.pmap(lambda m, x, y: m(x, y), in_axes=(None, 0, 0))
        np.testing.assert_allclose(
            mapped(light, reference, distorted), light(reference, distorted), **SAME
        )

    def test_shard_map(self, metric, pair):
        mesh = jax.make_mesh(
            (jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,)
        )
        split, whole = jax.P("data"), jax.P()
        mapped = jax.jit(
            jax.shard_map(
                lambda m, x, y: m(x, y),
                mesh=mesh,
                in_specs=(whole, split, split),
                out_specs=split,
            )
        )
        images = pair(2 * jax.device_count(), *SIZE)
        np.testing.assert_allclose(mapped(metric, *images), metric(*images), **SAME)

    def test_remat_and_scan(self, light, pair):
        reference, distorted = pair(2, *SIZE)

        def body(total, images):
            return total + jax.checkpoint(light)(*images), None

        def scanned(distorted):
            return jax.lax.scan(body, 0.0, (reference, distorted))[0]

        expected = jax.value_and_grad(lambda y: light(reference, y).sum())(distorted)
        actual = jax.value_and_grad(scanned)(distorted)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def test_flax_linen_loop(self, light, pair):
        class Denoiser(nn.Module):
            @nn.compact
            def __call__(self, image):
                return image + nn.Conv(3, (1, 1), name="conv")(image)

        reference, distorted = pair(*SIZE)
        model = Denoiser()
        variables = model.init(jax.random.key(0), distorted)

        @jax.jit
        def loss(variables, metric):
            return metric(reference, model.apply(variables, distorted))

        gradient = jax.grad(loss)(variables, light)
        assert all((g != 0).any() for g in jax.tree.leaves(gradient))

    def test_flax_nnx_loop(self, light, pair):
        reference, distorted = pair(1, *SIZE)
        model = nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(0))

        @nnx.jit
        def gradient(model, metric):
            def loss(model):
                return metric(reference, model(distorted)).mean()

            return nnx.grad(loss)(model)

        gradients = jax.tree.leaves(gradient(model, light))
        assert all(np.isfinite(g).all() for g in gradients)

    def test_equinox_loop(self, light, pair):
        reference, distorted = pair(*SIZE)
        model = equinox.nn.Conv2d(3, 3, 1, key=jax.random.key(0))

        @equinox.filter_jit
        @equinox.filter_grad
        def gradient(model, metric):
            output = model(distorted.transpose(2, 0, 1)).transpose(1, 2, 0)
            return metric(reference, output)

        gradients = jax.tree.leaves(gradient(model, light))
        assert all(np.isfinite(g).all() for g in gradients)


def test_an_orbax_checkpoint_restores_it_to_the_bit(light, pair, tmp_path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "light", light)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "light", light)
    np.testing.assert_array_equal(restored(*pair(*SIZE)), light(*pair(*SIZE)))


def test_bad_arrays_are_refused_before_any_work(random_metric, pair):
    metric = random_metric("alexnet")
    reference, distorted = pair(40, 50)
    with pytest.raises(ImageError, match=r"reference is 50x40.*distorted is 50x38"):
        metric(reference, distorted[:38])
    with pytest.raises(ImageError, match=r"reference is 50x40.*distorted is 48x40"):
        metric(metric.features(reference), distorted[:, :48])
    with pytest.raises(ImageError, match=r"\(3,\) of reference and \(2,\)"):
        metric(np.stack([reference] * 3), np.stack([distorted] * 2))
    with pytest.raises(ImageError, match="reference contains NaN"):
        metric(np.full_like(reference, np.nan), distorted)
    with pytest.raises(ImageError, match="reference: width 20 is below the 32"):
        metric.features(reference[:, :20])
    with pytest.raises(TypeError, match="positional"):
        metric(reference, distorted, (0, 1))


def test_features_of_another_metric_are_refused(random_metric, pair):
    reference, distorted = pair(*SIZE)
    for network, tap in (("squeezenet", "fire3 128"), ("lite", "relu3 160")):
        features = random_metric(network).features(reference)
        match = (
            f"features are of Spips over {network} in float32, .*use features of its"
        )
        with pytest.raises(ValueError, match=match):
            random_metric("alexnet")(features, distorted)
        # Of those that do not say what made them, the channels do.
        features = features.replace(made_by="")
        match = rf"{tap}.*spips-alexnet-untrained compares .*relu3 384"
        with pytest.raises(ValueError, match=match):
            random_metric("alexnet")(features, distorted)


def test_loading_says_what_to_run(tmp_path, monkeypatch, random_weights):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    for trained in (True, False):
        with pytest.raises(
            WeightsError,
            match=r"alexnet.safetensors: no such file; get it with `spips convert"
            r" alexnet`, or take spips-lite, which needs no file",
        ):
            spips_jax.load("spips-alexnet", trained=trained)
    with pytest.raises(ValueError, match="'spips' is not one of spips-lite, spips-"):
        spips_jax.load("spips")
    with pytest.raises(
        ValueError, match=r"trained is False, but m.safetensors has no uni"
    ):
        spips_jax.load("m.safetensors", trained=False)
    (tmp_path / "alexnet.safetensors").symlink_to(random_weights("alexnet"))
    metric = spips_jax.load("spips-alexnet", trained=False)
    assert metric.name == "spips-alexnet-untrained"
    assert metric.calibration is None


def test_models_without_training_say_so(random_weights):
    metric = spips_jax.load("spips-vgg16", weights=random_weights("vgg16"))
    assert metric.name == "spips-vgg16-untrained"


def test_loading_twice_gives_the_same_metric(random_weights, pair):
    path = random_weights("squeezenet")
    first, second = (
        spips_jax.load("spips-squeezenet", trained=False, weights=path)
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
