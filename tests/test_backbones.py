"""Backbones against PyTorch, and what they promise besides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spips_jax import backbones, weights
from weights_convert import torch_twin

# Sums of up to 4608 float32 products in another order, relative to the largest value.
TOLERANCE = 1e-5


def relative_difference(actual: jax.Array, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def torch_tensors(network: str, params: dict) -> dict[str, np.ndarray]:
    """Flax parameters under torchvision's names and in its layout."""
    tensors = {}
    for key, (name,) in weights.PUBLISHED[network].tensors.items():
        *path, leaf = name.split(".")
        node = params
        for part in (*path, leaf):
            node = node[part]
        array = node.transpose(3, 2, 0, 1) if node.ndim == 4 else node
        tensors[key] = np.ascontiguousarray(array)
    return tensors


SHAPES = [(1, 64, 64), (3, 37, 50), (1, 32, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "network", [name for name in weights.PUBLISHED if name in backbones.BACKBONES]
)
def test_taps_equal_pytorchs(network, shape, random_params):
    pytest.importorskip("torch", reason="PyTorch is what backbones are compared with")
    params = random_params(network)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(*shape, 3)).astype(np.float32)
    actual = jax.jit(backbones.build(network).apply)({"params": params}, x)
    expected = torch_twin.activations(network, torch_tensors(network, params), x)
    for tap, value in actual.items():
        assert relative_difference(value, expected[tap]) < TOLERANCE, tap


@pytest.mark.parametrize("shape", SHAPES)
def test_lite_is_what_its_docstring_says(shape, random_params):
    """Once more in PyTorch, and of AlexNet's sizes at every tap."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer here")
    params = random_params("lite")
    x = np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)
    actual = jax.jit(backbones.build("lite").apply)({"params": params}, x)

    def convolve(x, name, **options):
        kernel = torch.from_numpy(params[name]["kernel"].transpose(3, 2, 0, 1).copy())
        bias = torch.from_numpy(params[name]["bias"])
        convolved = torch.nn.functional.conv2d(x, kernel, bias, **options)
        return torch.nn.functional.relu(convolved)

    pool = torch.nn.MaxPool2d(3, 2)
    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    expected = {}
    expected["relu1"] = y = convolve(y, "conv1", stride=4)
    y = convolve(pool(y), "conv2_1", padding=1)
    expected["relu2"] = y = convolve(y, "conv2_2", padding=1)
    expected["relu3"] = y = convolve(pool(y), "conv3", padding=1)
    expected["relu4"] = y = convolve(y, "conv4", padding=1)
    expected["relu5"] = convolve(y, "conv5", padding=1)
    for tap, value in actual.items():
        wanted = expected[tap].permute(0, 2, 3, 1).numpy()
        assert relative_difference(value, wanted) < TOLERANCE, tap

    alexnet = backbones.build("alexnet")
    teacher = jax.eval_shape(alexnet.init_with_output, jax.random.key(0), x)[0]
    assert {tap: value.shape[:3] for tap, value in actual.items()} == {
        tap: value.shape[:3] for tap, value in teacher.items()
    }


@pytest.mark.parametrize("size", [(64, 64), (75, 98)])
def test_real_vgg16_layers_equal_pytorchs(shared, size):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer here")
    tensors = dict(np.load(shared("weights/vgg16_conv1_1_to_conv2_2.npz")))
    names = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7}
    params = {
        name: {
            "kernel": tensors[f"features.{index}.weight"].transpose(2, 3, 1, 0),
            "bias": tensors[f"features.{index}.bias"],
        }
        for name, index in names.items()
    }
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    module = backbones.Vgg(
        depths=(2, 2), perceptual=("relu1_2",), semantic=("relu2_2",)
    )
    actual = module.apply({"params": params}, x)

    layers = []
    for name, index in names.items():
        out, into = tensors[f"features.{index}.weight"].shape[:2]
        conv = torch.nn.Conv2d(into, out, 3, padding=1)
        conv.weight.data = torch.from_numpy(tensors[f"features.{index}.weight"])
        conv.bias.data = torch.from_numpy(tensors[f"features.{index}.bias"])
        layers += [conv, torch.nn.ReLU()]
        if name == "conv1_2":
            layers.append(torch.nn.MaxPool2d(2))
    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        for k, layer in enumerate(layers):
            y = layer(y)
            if k in (3, 8):
                tap = "relu1_2" if k == 3 else "relu2_2"
                expected = y.permute(0, 2, 3, 1).numpy()
                assert relative_difference(actual[tap], expected) < TOLERANCE, tap


def test_taps_are_named_and_ordered_as_documented(network):
    module = backbones.build(network)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    taps = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x)[0], image
    )
    assert set(taps) == set(module.taps)
    assert module.taps == (*module.perceptual, *module.semantic)
    documented = {
        "lite": "relu1 relu2 | relu3 relu4 relu5",
        "vgg16": "relu1_2 relu2_2 relu3_3 | relu4_3 relu5_3",
        "vgg19": "relu1_2 relu2_2 relu3_4 | relu4_4 relu5_4",
        "alexnet": "relu1 relu2 | relu3 relu4 relu5",
        "squeezenet": "relu1 fire3 fire5 | fire6 fire7 fire8 fire9",
    }
    assert (
        f"{' '.join(module.perceptual)} | {' '.join(module.semantic)}"
        == documented[network]
    )
    assert all(min(tap.shape) >= 1 for tap in taps.values()), "32 pixels are enough"


def test_nothing_past_the_deepest_tap_is_computed():
    module = backbones.build("vgg16", perceptual=("relu1_1",), semantic=("relu2_1",))
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert set(variables["params"]) == {"conv1_1", "conv1_2", "conv2_1"}


def test_a_tap_that_does_not_exist_is_an_error():
    module = backbones.build("vgg16", perceptual=("relu9_9",))
    with pytest.raises(ValueError, match="relu9_9"):
        module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_an_unknown_backbone_is_an_error():
    with pytest.raises(ValueError, match=r"'resnet' is not one of lite, alexnet"):
        backbones.build("resnet")


def test_bfloat16_is_used_only_where_asked_for(network, random_params):
    params = random_params(network)
    x = jnp.zeros((1, 32, 32, 3))
    for dtype in (jnp.float32, jnp.bfloat16):
        taps = jax.eval_shape(
            backbones.build(network, dtype=dtype).apply, {"params": params}, x
        )
        assert {tap.dtype for tap in taps.values()} == {jnp.dtype(dtype)}


def test_the_global_precision_setting_changes_nothing(random_params):
    params = random_params("alexnet")
    x = np.random.default_rng(0).normal(size=(1, 40, 40, 3)).astype(np.float32)
    apply = backbones.build("alexnet").apply
    expected = jax.jit(apply)({"params": params}, x)
    with jax.default_matmul_precision("bfloat16"):
        lowered = jax.jit(apply).lower({"params": params}, x)
        actual = jax.jit(apply)({"params": params}, x)
    convolutions = [
        line for line in lowered.as_text().splitlines() if "stablehlo.conv" in line
    ]
    assert len(convolutions) == 5
    # CPUs ignore the precision: look at what an accelerator would be told.
    assert all("HIGHEST" in line for line in convolutions)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_max_pool_2x2_drops_an_odd_edge(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    h, w = size[0] // 2, size[1] // 2
    expected = x[:, : 2 * h, : 2 * w].reshape(2, h, 2, w, 2, 3).max((2, 4), initial=-9)
    np.testing.assert_array_equal(backbones.max_pool_2x2(jnp.asarray(x)), expected)


def test_sizes_of_weight_files_are_torchvisions_and_lites(network):
    totals = {
        "lite": 625_184,
        "vgg16": 14_714_688,
        "vgg19": 20_024_384,
        "alexnet": 2_469_696,
        "squeezenet": 722_496,
    }
    count = sum(np.prod(shape) for shape in weights.expected_shapes(network).values())
    assert count == totals[network]
