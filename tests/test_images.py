"""The array contract."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import checkify

import spips_jax
from spips_jax import images
from spips_jax.baselines import BASELINES
from spips_jax.images import ImageError, check_images, to_unit_range


def test_value_ranges_map_to_the_unit_interval():
    stored = np.array([0, 51, 255], np.uint8)
    for value, value_range in (
        (stored, (0, 1)),  # uint8 means (0, 255) whatever is said
        (stored.astype(np.float32), (0, 255)),
        (stored / 255, (0, 1)),
        (stored / 255 * 2 - 1, (-1, 1)),
        (jnp.asarray(stored / 255, jnp.float32), (0, 1)),
    ):
        unit = to_unit_range(value, value_range=value_range)
        assert unit.dtype == jnp.float32
        np.testing.assert_allclose(unit, [0, 0.2, 1], atol=1e-7)  # float32


def test_imagenet_normalisation_uses_torchvisions_statistics():
    pixel = np.array([0.485 + 0.229, 0.456, 0.406 - 0.225], np.float32)
    actual = images.imagenet_normalize(jnp.asarray(pixel).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(actual.ravel(), [1, 0, -1], atol=1e-6)  # float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_one_value_that_is_not_finite_is_refused(make, value):
    array = np.full((33, 40, 3), 0.5, np.float32)
    array[20, 7, 1] = value
    with pytest.raises(ImageError, match="NaN or inf"):
        check_images(make(array))


def scan(function):
    """Adds up the function over the leading dimension."""

    def scanned(batch):
        return jax.lax.scan(lambda sum, x: (sum + function(x), None), 0.0, batch)[0]

    return scanned


TRANSFORMS = {
    "jit": jax.jit,
    "grad": jax.grad,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "checkpoint": jax.checkpoint,
    "vmap": jax.vmap,
    "scan": scan,
}

transforms = pytest.mark.parametrize(
    "transform", TRANSFORMS.values(), ids=list(TRANSFORMS)
)


@transforms
def test_arrays_that_are_closed_over_are_checked_by_value(transform):
    def total(reference):
        def inner(distorted):
            check_images(reference)
            check_images(distorted)
            return distorted.sum()

        return inner

    distorted = jnp.full((2, 32, 32, 3), 0.5)
    transform(total(jnp.full((32, 32, 3), 0.5)))(distorted)
    with pytest.raises(ImageError, match="far outside its value_range"):
        transform(total(jnp.full((32, 32, 3), 255.0)))(distorted)


@pytest.mark.parametrize(
    ("array", "value_range", "message"),
    [
        (np.zeros((12, 40, 3)), (0, 1), "height 12 is below the 32"),
        (np.zeros((40, 31, 3)), (0, 1), "width 31 is below the 32"),
        (np.zeros((40, 40)), (0, 1), r"shape \(40, 40\)"),
        (np.zeros((40, 40, 4)), (0, 1), r"shape \(40, 40, 4\).*alpha channel"),
        (np.zeros((3, 40, 40)), (0, 1), r"move the channels last: np.moveaxis\(imag"),
        (np.zeros((2, 3, 40, 50)), (0, 1), "move the channels last"),
        (jnp.zeros((5, 2, 3, 40, 50)), (0, 1), "move the channels last"),
        (np.zeros((2, 3, 40, 50), np.uint8), (0, 1), "move the channels last"),
        (np.zeros((40, 40, 3), np.int32), (0, 1), "dtype int32"),
        (np.full((40, 40, 3), np.nan), (0, 1), "NaN or inf"),
        (jnp.full((40, 40, 3), jnp.inf), (0, 1), "NaN or inf"),
        (np.full((40, 40, 3), 255.0), (0, 1), r"from 255 to 255.*\(0, 1\)"),
        (np.full((40, 40, 3), -1.0), (0, 1), r"from -1 to -1.*\(0, 1\)"),
        (jnp.full((40, 40, 3), 3.0), (-1, 1), r"from 3 to 3.*\(-1, 1\)"),
        (np.zeros((40, 40, 3)), (1, 0), r"value_range is \(1, 0\)"),
        (np.zeros((40, 40, 3)), (1, 1), r"value_range is \(1, 1\)"),
        (np.zeros((40, 40, 3)), (0, np.inf), r"value_range is \(0, inf\)"),
        (np.zeros((40, 40, 3)), (np.nan, 1), r"value_range is \(nan, 1\)"),
        ([[0.5]], (0, 1), "builtins.list: give a NumPy or JAX array"),
    ],
)
def test_arrays_that_break_the_contract_are_named(array, value_range, message):
    with pytest.raises(ImageError, match=message) as caught:
        check_images(array, value_range=value_range, name="distorted")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(("distorted", "value_range"))


def test_a_small_overshoot_is_kept():
    check_images(np.full((32, 32, 3), 1.4), name="distorted")
    check_images(np.full((32, 32, 3), -0.4), name="distorted")


@transforms
@pytest.mark.parametrize("use", ["score", "explain", "features"])
def test_a_metric_meets_an_array_that_is_closed_over(transform, use):
    metric = spips_jax.load("psnr")

    def scored(reference):
        def inner(distorted):
            if use == "explain":
                return metric.explain(reference, distorted).score.sum()
            if use == "features":
                return metric(metric.features(reference), distorted).sum()
            return metric(reference, distorted).sum()

        return inner

    reference, distorted = jnp.full((8, 8, 3), 0.5), jnp.full((2, 8, 8, 3), 0.4)
    jax.eval_shape(transform(scored(reference)), distorted)
    with pytest.raises(ImageError, match="reference contains NaN"):
        jax.eval_shape(transform(scored(reference.at[3, 4, 1].set(np.nan))), distorted)


def test_values_are_not_looked_at_under_a_transformation():
    @jax.jit
    def traced(array):
        check_images(array, name="distorted")
        return array

    traced(jnp.full((32, 32, 3), jnp.nan))


@transforms
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, None),
        (np.nan, "{out} contains NaN or inf"),
        (-np.inf, "{out} contains NaN or inf"),
        (200.0, "{out} has values from 0.5 to 200, far outside its value_range (0, 1)"),
    ],
)
def test_checkify_looks_at_them_where_it_is_asked_for(transform, value, message):
    def total(array):
        check_images(array, name="{out}", min_size=2, traced=True)
        return array.sum()

    array = jnp.full((2, 2, 2, 3), 0.5).at[1, 0, 1, 2].set(value)
    error, _ = checkify.checkify(transform(total))(array)
    found = error.get()
    assert (found is None) if message is None else found.startswith(message)
    with pytest.raises(ValueError, match="without functionalizing it"):
        jax.jit(transform(total))(array)


def test_what_is_there_is_checked_at_once_beside_checkify():
    with pytest.raises(ImageError, match="NaN"):
        check_images(np.full((32, 32, 3), np.nan), traced=True)
    check_images(np.full((32, 32, 3), 0.5), traced=True)


def symbolic(shape: str, *constraints: str) -> jax.ShapeDtypeStruct:
    dimensions = export.symbolic_shape(shape, constraints=constraints)
    return jax.ShapeDtypeStruct(dimensions, jnp.float32)


@pytest.mark.parametrize("shape", ["b, 64, 64, 3", "a, b, 64, 64, 3"])
@pytest.mark.parametrize("one_reference", [False, True])
def test_batch_sizes_may_be_symbolic(shape, one_reference):
    metric = spips_jax.load("psnr")
    images = symbolic(shape)
    reference = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
    program = jax.jit(lambda x, y: (metric(x, y), metric.explain(x, y).maps))
    exported = export.export(program)(reference if one_reference else images, images)
    assert exported.out_avals[0].shape == images.shape[:-3]


WITHOUT_FILES = [name for name, one in BASELINES.items() if not one.backbone]


@pytest.mark.parametrize("name", ["spips-lite", *WITHOUT_FILES])
def test_every_metric_takes_symbolic_batches_and_what_is_closed_over(name):
    metric = spips_jax.load(name)
    reference = jnp.full((48, 48, 3), 0.5)
    distorted = symbolic("b, 48, 48, 3")
    scores = jax.eval_shape(lambda y: metric(reference, y), distorted)
    assert scores.shape == distorted.shape[:1]


@pytest.mark.parametrize("shape", ["b, h, 64, 3", "b, 64, w, 3", "h, w, 3"])
@pytest.mark.parametrize("name", ["psnr", "spips-lite"])
def test_heights_and_widths_may_not_be_symbolic(shape, name):
    metric = spips_jax.load(name)
    with pytest.raises(ImageError, match=r"(height h|width w) is symbolic") as caught:
        jax.eval_shape(metric, symbolic(shape), symbolic(shape))
    assert "\n" not in str(caught.value)


def test_two_symbolic_batches_are_not_taken_for_one():
    one, other = (
        jax.ShapeDtypeStruct((batch, 64, 64, 3), jnp.float32)
        for batch in export.symbolic_shape("a, b")
    )
    with pytest.raises(ImageError, match=r"\(a,\) of reference and \(b,\)"):
        jax.eval_shape(spips_jax.load("psnr"), one, other)
