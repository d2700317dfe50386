"""Names, shapes and layouts of every network; what is left out and what is refused."""

import numpy as np
import pytest

from spips_jax.backbones import BACKBONES
from spips_jax.weights import PUBLISHED, WeightsError, expected_shapes, write_weights
from weights_convert import networks, torch_twin, verify

PUBLISHED_BACKBONES = [name for name in PUBLISHED if name in BACKBONES]


@pytest.fixture
def save(tmp_path):
    def save(tensors):
        path = tmp_path / "weights.npz"
        np.savez(path, **tensors)
        return path

    return save


def read_source(network, path):
    return networks.open_source(network, path).read(network)


def flat(params):
    def walk(node, names):
        if isinstance(node, dict):
            for name, child in node.items():
                yield from walk(child, (*names, name))
        else:
            yield ".".join(names), node

    return dict(walk(params, ()))


@pytest.mark.parametrize("network", PUBLISHED)
def test_every_flax_tensor_is_filled_once(network):
    zeros = {
        name: np.zeros(shape, np.float32)
        for name, shape in networks.torch_shapes(network).items()
    }
    converted = flat(networks.to_flax(network, zeros))
    shapes = {name: values.shape for name, values in converted.items()}
    assert shapes == expected_shapes(network)
    names = [name for cut in PUBLISHED[network].tensors.values() for name in cut]
    assert sorted(names) == sorted(shapes)


@pytest.mark.parametrize(
    ("network", "torch_name", "shape", "flax_name"),
    [
        # From torchvision's and the authors' state dicts.
        ("vgg16", "features.10.weight", (256, 128, 3, 3), "conv3_1.kernel"),
        ("vgg16", "features.28.bias", (512,), "conv5_3.bias"),
        ("vgg19", "features.16.weight", (256, 256, 3, 3), "conv3_4.kernel"),
        ("vgg19", "features.34.bias", (512,), "conv5_4.bias"),
        ("alexnet", "features.0.weight", (64, 3, 11, 11), "conv1.kernel"),
        ("alexnet", "features.10.bias", (256,), "conv5.bias"),
        ("squeezenet", "features.0.weight", (64, 3, 3, 3), "conv1.kernel"),
        (
            "squeezenet",
            "features.12.expand3x3.weight",
            (256, 64, 3, 3),
            "fire9.expand3x3.kernel",
        ),
        ("lpips-alexnet", "lin1.model.1.weight", (1, 192, 1, 1), "relu2.weight"),
        ("lpips-vgg16", "lin4.model.1.weight", (1, 512, 1, 1), "relu5_3.weight"),
        ("lpips-squeezenet", "lin0.model.1.weight", (1, 64, 1, 1), "relu1.weight"),
        ("lpips-squeezenet", "lin6.model.1.weight", (1, 512, 1, 1), "fire9.weight"),
        ("dists", "beta", (1, 1475, 1, 1), "beta.input"),
    ],
)
def test_known_names(network, torch_name, shape, flax_name):
    assert networks.torch_shapes(network)[torch_name] == shape
    assert PUBLISHED[network].tensors[torch_name][0] == flax_name


def test_kernels_become_hwio():
    tensors = {
        name: np.random.default_rng(0).random(shape, np.float32)
        for name, shape in networks.torch_shapes("alexnet").items()
    }
    kernel = networks.to_flax("alexnet", tensors)["conv2"]["kernel"]
    weight = tensors["features.3.weight"]
    assert kernel[1, 2, 3, 4] == weight[4, 3, 1, 2]


def test_dists_is_cut_in_the_order_of_the_taps(random_tensors):
    tensors = random_tensors("dists")
    alpha = networks.to_flax("dists", tensors)["alpha"]
    ends = np.cumsum([3, 64, 128, 256, 512, 512])
    taps = ("input", "relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    for tap, start, end in zip(taps, [0, *ends[:-1]], ends, strict=True):
        np.testing.assert_array_equal(alpha[tap], tensors["alpha"][0, start:end, 0, 0])


@pytest.mark.parametrize(
    ("network", "file"),
    [
        ("alexnet", "alexnet_features.npz"),
        ("squeezenet", "squeezenet1_1_features.npz"),
        ("lpips-alexnet", "lpips_v0.1/alex.pth"),
        ("lpips-vgg16", "lpips_v0.1/vgg.pth"),
        ("lpips-squeezenet", "lpips_v0.1/squeeze.pth"),
        ("dists", "dists/weights.pt"),
    ],
)
def test_real_weights(shared_weights, network, file):
    path = shared_weights(file)
    converted = flat(networks.to_flax(network, read_source(network, path)))
    assert {n: v.shape for n, v in converted.items()} == expected_shapes(network)
    if path.suffix != ".npz":
        torch = pytest.importorskip("torch", reason="compares with torch.load")
        expected = torch.load(path, weights_only=True, map_location="cpu")
        for name, values in read_source(network, path).items():
            np.testing.assert_array_equal(values, expected[name].numpy())


def test_real_dists_weights_against_the_authors_matlab_file(shared_weights):
    """The authors publish alpha and beta for MATLAB too; SciPy reads that."""
    io = pytest.importorskip("scipy.io", reason="reads the MATLAB file")
    matlab = io.loadmat(shared_weights("dists/alpha_beta.mat"))
    path = shared_weights("dists/weights.pt")
    converted = networks.to_flax("dists", read_source("dists", path))
    for vector in ("alpha", "beta"):
        joined = np.concatenate(list(converted[vector].values()))
        np.testing.assert_array_equal(joined, matlab[vector].ravel())


@pytest.mark.parametrize("network", PUBLISHED_BACKBONES)
def test_full_checkpoints_lose_their_classifier(tmp_path, network):
    """Full-size, yet small on disk: each tensor is one zero, expanded."""
    torch = pytest.importorskip("torch", reason="writes the checkpoint")
    # torchvision's shapes of the layers that convolutions aren't.
    classifier = {
        "vgg16": {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)},
        "vgg19": {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)},
        "alexnet": {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)},
        "squeezenet": {1: (1000, 512, 1, 1)},
    }[network]
    shapes = dict(networks.torch_shapes(network))
    for index, shape in classifier.items():
        shapes[f"classifier.{index}.weight"] = shape
        shapes[f"classifier.{index}.bias"] = shape[:1]
    path = tmp_path / "full.pth"
    zero = torch.zeros(1)
    torch.save({name: zero.expand(shape) for name, shape in shapes.items()}, path)
    tensors = read_source(network, path)
    assert {n: v.shape for n, v in tensors.items()} == networks.torch_shapes(network)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(save, random_tensors, dtype):
    tensors = random_tensors("lpips-alexnet")
    path = save({name: values.astype(dtype) for name, values in tensors.items()})
    for name, values in read_source("lpips-alexnet", path).items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, tensors[name].astype(dtype).astype("f4"))


def test_bfloat16_becomes_float32(tmp_path, random_tensors):
    torch = pytest.importorskip("torch", reason="writes the checkpoint")
    tensors = random_tensors("lpips-alexnet")
    state = {n: torch.from_numpy(v).bfloat16() for n, v in tensors.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    for name, values in read_source("lpips-alexnet", path).items():
        np.testing.assert_array_equal(values, state[name].float().numpy())


def error_of(network, path):
    with pytest.raises(WeightsError) as error:
        read_source(network, path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


def test_missing_extra_and_misshapen_tensors_are_named(save, random_tensors):
    tensors = random_tensors("lpips-alexnet")
    del tensors["lin4.model.1.weight"]
    tensors["lin5.model.1.weight"] = np.ones((1, 7, 1, 1))
    tensors["lin2.model.1.weight"] = np.ones((1, 5, 1, 1))
    error = error_of("lpips-alexnet", save(tensors))
    assert "missing: lin4.model.1.weight (1, 256, 1, 1)" in error
    assert "extra: 'lin5.model.1.weight' (1, 7, 1, 1)" in error
    assert "lin2.model.1.weight has (1, 5, 1, 1) and needs (1, 384, 1, 1)" in error


def test_a_classifier_layer_that_the_network_does_not_have(save, random_tensors):
    tensors = random_tensors("squeezenet") | {"classifier.6.bias": np.ones(1000)}
    assert "extra: 'classifier.6.bias'" in error_of("squeezenet", save(tensors))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("vgg16", "alexnet"),
        ("alexnet", "squeezenet"),
        ("lpips-vgg16", "lpips-squeezenet"),
        ("lpips-alexnet", "dists"),
    ],
)
def test_another_network_is_recognised(save, random_tensors, asked, given):
    error = error_of(asked, save(random_tensors(given)))
    assert f"looks like {given}" in error
    assert f"`spips convert {given}" in error


def test_batch_normalisation_is_refused_by_name(save, random_tensors):
    """As torchvision's vgg16_bn has it: each convolution moves the next ones' names."""
    tensors = random_tensors("vgg16")
    moved = {}
    layers = [name.removesuffix(".weight") for name in tensors if "weight" in name]
    for before, layer in enumerate(layers):
        number = int(layer.removeprefix("features.")) + before
        for part in ("weight", "bias"):
            moved[f"module.features.{number}.{part}"] = tensors[f"{layer}.{part}"]
        width = len(tensors[f"{layer}.bias"])
        for part in ("weight", "bias", "running_mean", "running_var"):
            moved[f"module.features.{number + 1}.{part}"] = np.ones(width, np.float32)
    error = error_of("vgg16", save(moved))
    assert "has 13 layers of batch normalisation, as torchvision's vgg16_bn" in error
    assert "give weights of vgg16 itself" in error


def test_converted_weights_are_recognised(save, random_tensors):
    converted = networks.to_flax("dists", random_tensors("dists"))
    assert "converted already" in error_of("dists", save(flat(converted)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_in_float32(save, random_tensors, value):
    tensors = random_tensors("dists")
    tensors["beta"] = tensors["beta"].astype(np.float64)
    tensors["beta"][0, 5] = value
    assert "beta has 1 values that are NaN or inf" in error_of("dists", save(tensors))


def test_integers_are_refused(save, random_tensors):
    tensors = random_tensors("dists")
    tensors["alpha"] = np.ones((1, 1475, 1, 1), np.int64)
    error = error_of("dists", save(tensors))
    assert "alpha is of int64" in error
    assert "float32" in error


def test_a_negative_head_is_refused(save, random_tensors):
    tensors = random_tensors("lpips-alexnet")
    tensors["lin0.model.1.weight"][0, 3] = -0.25
    assert "goes down to -0.25" in error_of("lpips-alexnet", save(tensors))


@pytest.mark.parametrize("network", PUBLISHED_BACKBONES)
def test_activations_agree_with_pytorch(tmp_path, random_tensors, network):
    pytest.importorskip("torch", reason="runs the PyTorch twin")
    tensors = random_tensors(network)
    path = tmp_path / "weights.safetensors"
    params = networks.to_flax(network, tensors)
    write_weights(path, params, network=network)
    differences = verify.verify(network, tensors, path)
    # The random biases and the ReLUs must leave something to compare.
    twin = torch_twin.activations(network, tensors, verify.random_images())
    assert all(0.05 < np.mean(twin[d.name] > 0) < 0.95 for d in differences)
    assert all(difference.within_tolerance for difference in differences)


@pytest.mark.parametrize("mistake", ["transposed", "rounded"])
def test_verify_sees_a_wrong_conversion(tmp_path, random_tensors, mistake):
    pytest.importorskip("torch", reason="runs the PyTorch twin")
    tensors = random_tensors("squeezenet")
    params = networks.to_flax("squeezenet", tensors)
    conv = params["fire4"]["expand3x3"]
    if mistake == "transposed":
        conv["kernel"] = conv["kernel"].swapaxes(0, 1)
    else:
        conv["kernel"] = conv["kernel"].astype(np.float16).astype(np.float32)
    path = tmp_path / "weights.safetensors"
    write_weights(path, params, network="squeezenet")
    wrong = {
        d.name: not d.within_tolerance
        for d in verify.verify("squeezenet", tensors, path)
    }
    # fire4 is the wrong one.
    assert wrong == {tap: tap not in ("relu1", "fire3") for tap in wrong}
