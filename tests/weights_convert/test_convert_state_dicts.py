"""State dicts as people have them: wrapped, prefixed, of whole metrics."""

import re

import numpy as np
import pytest

from spips_jax.backbones import BACKBONES
from spips_jax.baselines import BASELINES
from spips_jax.commands import main as spips
from spips_jax.images import IMAGENET_MEAN, IMAGENET_STD
from spips_jax.weights import (
    PUBLISHED,
    WeightsError,
    read_weights,
    weights_path,
    write_weights,
)
from weights_convert import networks

# lpips/pretrained_networks.py: which of torchvision's `features` each slice has.
SLICES = {
    "alexnet": (2, 5, 8, 10, 12),
    "vgg16": (4, 9, 16, 23, 30),
    "squeezenet": (2, 5, 8, 10, 11, 12, 13),
}
LPIPS = [f"lpips-{backbone}" for backbone in SLICES]


def sliced(backbone, tensors):
    """A backbone as LPIPS's `net` has it."""
    renamed = {}
    for name, values in tensors.items():
        layer = name.removeprefix("features.")
        index = int(layer.partition(".")[0])
        number = next(k for k, end in enumerate(SLICES[backbone], 1) if index < end)
        renamed[f"slice{number}.{layer}"] = values
    return renamed


@pytest.fixture
def lpips(random_tensors):
    """A function: a backbone -> the state dict of `lpips.LPIPS` on it."""

    def make(backbone):
        heads = random_tensors(f"lpips-{backbone}")
        shift = np.reshape([-0.030, -0.088, -0.188], (1, 3, 1, 1))
        scale = np.reshape([0.458, 0.448, 0.450], (1, 3, 1, 1))
        constants = {"shift": np.float32(shift), "scale": np.float32(scale)}
        net = sliced(backbone, random_tensors(backbone))
        return {
            **{f"scaling_layer.{name}": values for name, values in constants.items()},
            **{f"net.{name}": values for name, values in net.items()},
            **heads,
            **{re.sub(r"^lin(\d)", r"lins.\1", k): v for k, v in heads.items()},
        }

    return make


def dists(tensors, head):
    """The state dict of DISTS_pytorch on VGG16's tensors: `stage1` to `stage5`."""
    names = {}
    for name, values in sliced("vgg16", tensors).items():
        names[name.replace("slice", "stage")] = values
    hann = np.outer((0.25, 0.5, 0.25), (0.25, 0.5, 0.25)).astype(np.float32)
    for stage, (index, channels) in enumerate(
        ((4, 64), (9, 128), (16, 256), (23, 512)), 2
    ):
        names[f"stage{stage}.{index}.filter"] = np.tile(hann, (channels, 1, 1, 1))
    names["mean"] = np.reshape(IMAGENET_MEAN, (1, 3, 1, 1)).astype(np.float32)
    names["std"] = np.reshape(IMAGENET_STD, (1, 3, 1, 1)).astype(np.float32)
    return {**names, **head}


def shapes_alone(network):
    """Tensors of a network's shapes that take no room: each is one zero, expanded."""
    torch = pytest.importorskip("torch", reason="writes the checkpoint")
    zero = torch.zeros(1)
    shapes = networks.torch_shapes(network)
    return {name: zero.expand(shape) for name, shape in shapes.items()}


@pytest.fixture
def save(tmp_path):
    """A function that saves an object by torch.save, and returns the file."""
    torch = pytest.importorskip("torch", reason="writes the checkpoint")

    def as_torch(one):
        if isinstance(one, dict):
            return {name: as_torch(value) for name, value in one.items()}
        return torch.from_numpy(one) if isinstance(one, np.ndarray) else one

    def write(root, name="source.pth"):
        path = tmp_path / name
        torch.save(as_torch(root), path)
        return path

    return write


def convert(*words):
    return spips(["convert", *map(str, words)])


def assert_written(network, path, tensors):
    """The file has exactly what these tensors of PyTorch's become."""
    written = read_weights(path, network=network)
    expected = networks.to_flax(network, tensors)
    for part, values in expected.items():
        np.testing.assert_equal(written[part], values)


WRAPPERS = ("", "state_dict", "model_state_dict", "model", "net", "ema.params")
PREFIXES = (
    *("", "module.", "_orig_mod.", "model.", "net.", "backbone."),
    *("_orig_mod.module.", "module._orig_mod.", "model.net.", "trainer.model.encoder."),
)


@pytest.mark.parametrize("network", ["squeezenet", "lpips-squeezenet", "dists"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_prefixes(save, network, wrapper):
    state = shapes_alone(network)
    for prefix in PREFIXES:
        root = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        for key in reversed(wrapper.split(".") if wrapper else ()):
            root = {"epoch": 3, "optimizer": {"state": {0: {}}, "lr": [0.1]}, key: root}
        source = networks.open_source(network, save(root))
        assert source.prefix == (f"{wrapper}." if wrapper else "") + prefix
        assert source.networks == (network,)
        assert source.left_out == ()
        found = source.read(network)
        assert {name: v.shape for name, v in found.items()} == (
            networks.torch_shapes(network)
        )


@pytest.mark.parametrize("prefix", ["", "features.module.", "vgg."])
def test_features_saved_alone(save, prefix):
    """As `torch.save(model.features.state_dict(), ...)` writes them."""
    state = shapes_alone("squeezenet")
    bare = {prefix + name.removeprefix("features."): t for name, t in state.items()}
    found = networks.open_source("squeezenet", save(bare)).read("squeezenet")
    assert list(found) == list(state)


def test_a_classifier_under_the_prefix_is_ignored_and_others_are_named(
    save, random_tensors, capsys, tmp_path
):
    tensors = random_tensors("squeezenet")
    state = {f"model.{name}": values for name, values in tensors.items()}
    state["model.classifier.1.bias"] = np.zeros(1000, np.float32)
    state["generator.weight"] = np.zeros(3, np.float32)
    output = tmp_path / "out.safetensors"
    source = save({"model_state_dict": state})
    assert convert("squeezenet", "--source", source, "--output", output) == 0
    assert_written("squeezenet", output, tensors)
    said = capsys.readouterr().out
    assert f"{source} (model_state_dict.model.*) written to {output}" in said
    assert "left out: 1 tensors" in said
    assert "'model_state_dict.generator.weight'" in said


def test_copies(save):
    """The usual one of several; where none is, the user must choose."""
    state = shapes_alone("lpips-alexnet")
    usual = save({"ema": state, "state_dict": dict(state)})
    source = networks.open_source("lpips-alexnet", usual)
    assert source.prefix == "state_dict."
    assert len(source.left_out) == len(state)
    unclear = save({"ema": state, "teacher": dict(state)})
    with pytest.raises(WeightsError, match=r"more than once, as 'ema\.', 'teacher\.'"):
        networks.open_source("lpips-alexnet", unclear)


@pytest.mark.parametrize("backbone", ["alexnet", "squeezenet"])
@pytest.mark.parametrize("prefix", ["", "module.loss."])
def test_backbone_and_head_of_lpips(
    save, lpips, random_tensors, capsys, home, backbone, prefix
):
    path = save({prefix + name: values for name, values in lpips(backbone).items()})
    head = f"lpips-{backbone}"
    asked = head if prefix else backbone
    assert convert(asked, "--source", path) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == (
        [head, backbone] if prefix else [backbone, head]
    )
    for network in (backbone, head):
        assert_written(network, weights_path(network), random_tensors(network))
        assert any(str(weights_path(network)) in line for line in said)
    assert len(list(home.iterdir())) == 2


SPELLINGS = {
    "as published": lambda name: name,
    "lists alone": lambda name: None if re.match(r"lin\d", name) else name,
    "no lists": lambda name: None if name.startswith("lins.") else name,
    "no dropout": lambda name: name.replace("model.1.", "model.0."),
    "a list of slices": lambda name: re.sub(
        r"slice(\d)", lambda found: f"slices.{int(found[1]) - 1}", name
    ),
    "no constants": lambda name: None if "scaling" in name else name,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("backbone", SLICES)
def test_spellings_of_lpips(save, backbone, spelling):
    torch = pytest.importorskip("torch", reason="writes the checkpoint")
    head = f"lpips-{backbone}"
    heads = shapes_alone(head)
    net = sliced(backbone, shapes_alone(backbone))
    state = {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1),
        **{f"net.{name}": tensor for name, tensor in net.items()},
        **heads,
        **{re.sub(r"^lin(\d)", r"lins.\1", k): v for k, v in heads.items()},
    }
    renamed = {SPELLINGS[spelling](name): tensor for name, tensor in state.items()}
    renamed.pop(None, None)
    path = save(renamed)
    for asked, other in ((backbone, head), (head, backbone)):
        source = networks.open_source(asked, path)
        assert source.networks == (asked, other)
        assert source.left_out == ()
        assert list(source.read(other)) == list(networks.torch_shapes(other))


def test_backbone_and_head_of_dists(save):
    path = save(dists(shapes_alone("vgg16"), shapes_alone("dists")))
    for asked, other in (("dists", "vgg16"), ("vgg16", "dists")):
        assert networks.open_source(asked, path).networks == (asked, other)


def test_the_other_file_goes_beside_the_output(
    save, lpips, random_tensors, tmp_path, home
):
    path = save(lpips("squeezenet"))
    output = tmp_path / "new" / "head.safetensors"
    assert convert("lpips-squeezenet", "--source", path, "--output", output) == 0
    assert sorted(one.name for one in output.parent.iterdir()) == [
        "head.safetensors",
        "squeezenet.safetensors",
    ]
    other = output.with_name("squeezenet.safetensors")
    assert_written("squeezenet", other, random_tensors("squeezenet"))
    assert not home.exists()


@pytest.mark.parametrize(
    ("there", "output", "error"),
    [
        ("squeezenet.safetensors", "head.safetensors", "none of ours to replace"),
        ("", "squeezenet.safetensors", "is an input, too"),
    ],
)
def test_both_outputs_are_checked_before_either_is_written(
    save, lpips, tmp_path, capsys, there, output, error
):
    path = save(lpips("squeezenet"))
    folder = tmp_path / "out"
    folder.mkdir()
    if there:
        (folder / there).write_text("mine")
    words = ("lpips-squeezenet", "--source", path, "--output", folder / output)
    assert convert(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert error in said
    assert [one.name for one in folder.iterdir()] == ([there] if there else [])


@pytest.mark.parametrize("there", ["the same", "tuned", "of another network"])
def test_weights_that_nobody_asked_to_replace_stay(
    save, lpips, random_tensors, capsys, home, there
):
    """A backbone that was tuned with its head must not take the place of ImageNet's."""
    tensors = random_tensors("squeezenet")
    if there == "tuned":
        tensors["features.0.bias"] = tensors["features.0.bias"] + 1
    path = weights_path("squeezenet")
    name = "dists" if there == "of another network" else "squeezenet"
    if name == "dists":
        tensors = random_tensors(name)
    write_weights(path, networks.to_flax(name, tensors), network=name)
    before = path.read_bytes()
    code = convert("lpips-squeezenet", "--source", save(lpips("squeezenet")))
    said = capsys.readouterr()
    assert path.read_bytes() == before
    if there == "the same":
        assert code == 0
        assert f"squeezenet: {path} has the same weights already" in said.out
        assert weights_path("lpips-squeezenet").exists()
    else:
        assert code == 2
        assert "move it away, or give --output" in said.err
        assert not weights_path("lpips-squeezenet").exists()


def test_a_source_with_the_other_outputs_name_is_kept(save, lpips, capsys, tmp_path):
    path = save(lpips("squeezenet"), "squeezenet.safetensors")
    before = path.read_bytes()
    output = tmp_path / "head.safetensors"
    assert convert("lpips-squeezenet", "--source", path, "--output", output) == 2
    assert "is an input, too" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"scaling_layer.shift": np.zeros((1, 3, 1, 1))}, "'scaling_layer.shift' has"),
        ({"scaling_layer.scale": np.zeros((9, 99, 99, 99))}, "scale' has not the"),
        (
            {"lins.2.model.1.weight": np.zeros((1, 256, 1, 1))},
            "tensors that differ",
        ),
        ({"net.slice2.3.squeeze.bias": np.full(16, np.nan)}, "16 values that are NaN"),
        ({"lin0.model.1.weight": np.full((1, 64, 1, 1), -1.0)}, "goes down to -1"),
        ({"net.slice7.12.squeeze.bias": np.zeros(7)}, r"squeeze.bias has \(7,\)"),
        ({"lin7.model.1.weight": np.ones((1, 7, 1, 1))}, "extra: 'lin7.model.1.weig"),
    ],
)
def test_half_of_a_metric_is_not_written(save, lpips, capsys, home, changes, error):
    path = save({**lpips("squeezenet"), **changes})
    assert convert("squeezenet", "--source", path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(error, said.err)
    assert not home.exists()


def test_verify_compares_both(save, lpips, capsys, monkeypatch):
    path = save(lpips("squeezenet"))
    compared = []
    monkeypatch.setattr(
        "weights_convert.verify.verify",
        lambda network, *_: compared.append(network) or [],
    )
    assert convert("lpips-squeezenet", "--source", path, "--verify") == 0
    assert compared == ["lpips-squeezenet", "squeezenet"]


def test_every_head_is_looked_for_beside_its_backbone():
    """What this file tries is all that there is: a new head needs its package here."""
    assert {*LPIPS, "dists"} == {one for one in PUBLISHED if one not in BACKBONES}
    assert all(BASELINES[one].backbone in SLICES for one in (*LPIPS, "dists"))
