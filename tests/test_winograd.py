"""Winograd convolution against the sum that defines one, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from spips_jax import backbones, winograd

# Of the largest value. F(4, 3) multiplies by up to 8 and subtracts again, which costs
# about two bits of float32's 24: 1e-6 is usual.
TOLERANCE = 1e-5


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolve(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    _, height, width, _ = images.shape
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )


def assert_close(actual, expected, tolerance: float = TOLERANCE) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 9), (2, 3), (3, 2), (4, 4), (5, 1), (7, 6), (8, 5), (33, 31)],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_matches_the_definition(batch, height, width):
    images, kernel = random(0, batch, height, width, 5), random(1, 3, 3, 5, 7)
    result = winograd.conv3x3(jnp.asarray(images), jnp.asarray(kernel))
    assert result.dtype == jnp.float32
    assert_close(result, convolve(images, kernel))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (2, 13, 13, 4)]),
    features=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_matches_the_definition_at_any_shape(shape, features, seed):
    images, kernel = random(seed, *shape), random(seed + 1, 3, 3, shape[-1], features)
    # Few products may cancel, so the scale is that of the sum of their sizes.
    scale = convolve(np.abs(images), np.abs(kernel)).max()
    result = winograd.conv3x3(jnp.asarray(images), jnp.asarray(kernel))
    assert np.abs(result - convolve(images, kernel)).max() <= TOLERANCE * scale


def test_error_is_that_of_float32_with_many_channels():
    images = np.maximum(random(0, 1, 32, 32, 256), 0)
    kernel = random(1, 3, 3, 256, 128)
    images, kernel = jnp.asarray(images), jnp.asarray(kernel)
    expected = convolve(np.asarray(images), np.asarray(kernel))
    # The largest of 131,072 errors depends on the order in which a CPU sums: below 3e-6
    # with AVX-512, 4.2e-6 with AVX2. Taps are held to 1e-5 of PyTorch's.
    result = jax.jit(winograd.conv3x3)(images, kernel)
    assert_close(result, expected, 1e-5)
    # Their mean square does not: F(4, 3) has 2.5 times that of plain float32.
    direct = jax.lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    error, plain = (np.sqrt(np.mean((x - expected) ** 2)) for x in (result, direct))
    assert error < 4 * plain


def test_zeros_give_zeros():
    zeros = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 4, 4))
    value, gradients = jax.value_and_grad(
        lambda *arguments: winograd.conv3x3(*arguments).sum(), (0, 1)
    )(*zeros)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_jit_and_eager_agree():
    images, kernel = (
        jnp.asarray(random(0, 2, 9, 6, 5)),
        jnp.asarray(random(1, 3, 3, 5, 7)),
    )
    compiled = jax.jit(winograd.conv3x3)(images, kernel)
    assert_close(winograd.conv3x3(images, kernel), compiled)
    with jax.disable_jit():
        assert_close(winograd.conv3x3(images, kernel), compiled)


def loss(convolution):
    return lambda images, kernel: jnp.square(convolution(images, kernel)).mean()


# Both sides are float32 sums of many products, which round differently.
TRANSFORMS = {
    "grad": lambda f: jax.grad(loss(f), (0, 1)),
    "jit of grad": lambda f: jax.jit(jax.grad(loss(f), (0, 1))),
    "jvp": lambda f: lambda x, k: jax.jvp(f, (x, k), (x, k)),
    "hessian times vector": lambda f: (
        lambda x, k: jax.jvp(jax.grad(loss(f)), (x, k), (x, k))[1]
    ),
    "vmap over images": lambda f: (
        lambda x, k: jax.vmap(f, (0, None))(x.reshape(3, 1, *x.shape[1:]), k)
    ),
    "vmap over both": lambda f: (
        lambda x, k: jax.vmap(f)(
            x.reshape(3, 1, *x.shape[1:]), jnp.stack([k, -k, 2 * k])
        )
    ),
    "vmap of grad": lambda f: (
        lambda x, k: jax.vmap(jax.grad(loss(f)), (0, None))(
            x.reshape(3, 1, *x.shape[1:]), k
        )
    ),
    "grad of scan": lambda f: jax.grad(
        lambda x, k: jnp.sum(
            jax.lax.scan(lambda x, _: (jnp.tanh(f(x, k)), None), x, length=2)[0]
        )
    ),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(loss(f)), (0, 1)),
    "pmap": lambda f: lambda x, k: jax.pmap(f, in_axes=(0, None))(x[None], k),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_as_xla_s_convolution_does(name):
    images = jnp.asarray(random(0, 3, 9, 7, 5))
    kernel = jnp.asarray(random(1, 3, 3, 5, 5)) / 7
    transform = TRANSFORMS[name]
    actual = transform(winograd.conv3x3)(images, kernel)
    expected = transform(winograd._direct)(images, kernel)
    jax.tree.map(assert_close, actual, expected)


def test_cpu_programs_hold_one_branch():
    arguments = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    gradient = jax.jit(jax.grad(loss(winograd.conv3x3), (0, 1)))
    assert "conditional" not in gradient.lower(*arguments).compile().as_text()


def test_gpu_programs_keep_xla_s_convolution():
    arguments = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    convolution = jax.jit(winograd.conv3x3)
    exported = export.export(convolution, platforms=["cuda"])(*arguments)
    assert exported.mlir_module().count("stablehlo.convolution(") == 1


def convolves_by_winograd(
    shape=(1, 32, 32, 128),
    features=128,
    size=3,
    strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dtype=jnp.float32,
    **options,
) -> bool:
    """Whether `conv_general_dilated` takes the Winograd path."""
    groups = options.get("feature_group_count", 1)
    images = jax.ShapeDtypeStruct(shape, dtype)
    kernel = jax.ShapeDtypeStruct((size, size, shape[-1] // groups, features), dtype)

    def convolution(images, kernel):
        return winograd.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            **options,
        )

    program = jax.make_jaxpr(convolution)(images, kernel)
    return "platform_index" in str(program)


def test_winograd_is_taken_where_it_pays():
    assert convolves_by_winograd()
    assert convolves_by_winograd(lhs_dilation=(1, 1), rhs_dilation=(1, 1))
    # Never by the size of the batch: scores would hang on it.
    assert not convolves_by_winograd(shape=(64, 16, 16, 128))


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1, 32, 32, 64)},
        {"features": 64},
        {"shape": (1, 31, 31, 128)},
        {"size": 5},
        {"strides": (2, 2)},
        {"padding": ((0, 0), (1, 1))},
        {"padding": "SAME"},
        {"dtype": jnp.bfloat16},
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 2)},
        {"feature_group_count": 2},
    ],
    ids=str,
)
def test_everything_else_is_left_to_xla(options):
    assert not convolves_by_winograd(**options)


def test_vgg16_agrees_with_pytorch_at_every_tap(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_PIXELS", 1)
    names = [f"relu{s}_{n}" for s in range(1, 6) for n in range(1, 3 + (s > 2))]
    network = backbones.build("vgg16", perceptual=names[:7], semantic=names[7:])
    images = random(0, 1, 68, 84, 3)  # odd sizes from the third stage on
    params = jax.jit(network.init)(jax.random.key(0), jnp.asarray(images))
    taps = jax.jit(network.apply)(params, jnp.asarray(images))

    x = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    for name in names:
        if name[4:] in ("2_1", "3_1", "4_1", "5_1"):
            x = torch.nn.functional.max_pool2d(x, 2)
        layer = params["params"][name.replace("relu", "conv")]
        kernel = torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1)
        bias = torch.from_numpy(np.array(layer["bias"]))
        x = torch.nn.functional.conv2d(x, kernel.double(), bias.double(), padding=1)
        x = torch.relu(x)
        assert_close(taps[name], x.permute(0, 2, 3, 1).numpy())
