"""SPIPS in PyTorch: it agrees with JAX's stage by stage, and faults are found."""

from __future__ import annotations

import copy
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import spips_jax
from spips_jax.commands import main

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from weights_convert import stages, torch_spips  # noqa: E402

SHAPES = [(1, 48, 64), (3, 37, 45)]
"""Even and odd sides, one image and several."""


def images(n: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Waves, and the same blurred, darker and with finer ones, float32 in [0, 1]."""
    y, x = np.mgrid[:height, :width] / 7
    phases = np.random.default_rng(0).uniform(0, 6, (n, 1, 1, 3))
    waves = np.sin(x[..., None] + phases) * np.cos(y[..., None] * 1.3 - phases)
    fine = np.cos(3 * x + 2 * y)[..., None] * np.cos(phases)
    pair = 0.5 + 0.3 * waves + 0.05 * fine, 0.47 + 0.2 * waves + 0.09 * fine
    return pair[0].astype(np.float32), pair[1].astype(np.float32)


def twin_of(metric: spips_jax.Metric) -> torch_spips.Spips:
    return torch_spips.of_network(metric.module, metric.variables["params"])


def check_agreement(metric, shape):
    reference, distorted = images(*shape)
    twin = twin_of(metric)
    ours = stages.of_jax(metric, reference, distorted)
    theirs = stages.of_torch(twin, reference, distorted)
    assert list(ours) == list(theirs)
    rows = {row.name: row for row in stages.compare(ours, theirs)}
    assert all(row.agrees for row in rows.values()), stages.table(list(rows.values()))
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-5)
    assert rows["gradient"].relative < 1e-4
    x = torch.from_numpy(reference).movedim(-1, 1)
    assert (twin(x, x.clone()) == 0).all()


def test_trained_models_agree(embedded):
    check_agreement(embedded, SHAPES[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_untrained_model_agrees(random_metric, shape):
    check_agreement(random_metric("vgg16"), shape)


def test_stages_end_with_the_score(lite, of_lite):
    reference, distorted = images(*SHAPES[0])
    np.testing.assert_allclose(of_lite["score"], lite(reference, distorted), rtol=1e-5)
    assert (lite(reference, reference) == 0).all()


def test_a_free_head_and_chosen_parts_agree(random_params):
    from spips_jax import backbones, spips

    module = spips.Spips(
        backbone=backbones.build("alexnet"),
        monotone=False,
        statistics=("squares", "texture"),
        streams=("semantic", "classical"),
        classical=("gmsd", "psnr"),
        moment_epsilon=1e-2,
    )
    params = {**spips.initialize(module), "backbone": random_params("alexnet")}
    rng = np.random.default_rng(5)
    params["head"] = {
        name: jnp.asarray(rng.normal(0, 0.3, value.shape), jnp.float32)
        for name, value in params["head"].items()
    }
    metric = spips_jax.Metric(variables={"params": params}, module=module, name="own")
    check_agreement(metric, SHAPES[0])


@pytest.fixture(scope="module")
def lite(random_metric):
    """With random parameters: none is rounded, none is 0."""
    return random_metric("lite")


@pytest.fixture(scope="module")
def of_lite(lite):
    return stages.of_jax(lite, *images(*SHAPES[0]))


def transposed(twin, monkeypatch):
    kernel = twin["backbone.conv3.kernel"]
    kernel.copy_(kernel.transpose(2, 3).clone())


def without_bias(twin, monkeypatch):
    twin["backbone.conv4.bias"].zero_()


def without_normalisation(twin, monkeypatch):
    monkeypatch.setattr(twin, "normalize", lambda image: image)


def other_padding(twin, monkeypatch):
    usual = twin.convolve

    def convolve(x, layer, *, padding=0, **options):
        if layer == "conv2_2":
            x = torch.nn.functional.pad(x, [padding] * 4, mode="replicate")
            padding = 0
        return usual(x, layer, padding=padding, **options)

    monkeypatch.setattr(twin, "convolve", convolve)


def other_resize(twin, monkeypatch):
    nearest = torch.nn.Upsample(scale_factor=2)
    monkeypatch.setattr(torch_spips, "doubled", nearest)


def half_precision(twin, monkeypatch):
    for buffer in twin.buffers():
        buffer.copy_(buffer.half().float())


def layer_of_another(twin, monkeypatch):
    kernel = twin["backbone.conv5.kernel"]
    other = np.random.default_rng(9).normal(0, kernel.std(), kernel.shape)
    kernel.copy_(torch.from_numpy(other))


def other_constant(twin, monkeypatch):
    twin.epsilon = 1e-6


def colours_swapped(twin, monkeypatch):
    usual = twin.stages
    monkeypatch.setattr(twin, "stages", lambda x, y: usual(x.flip(1), y.flip(1)))


FAULTS = {
    colours_swapped: "image reference",
    without_normalisation: "normalised reference",
    half_precision: "tap relu1 reference",
    other_padding: "tap relu2 reference",
    transposed: "tap relu3 reference",
    without_bias: "tap relu4 reference",
    layer_of_another: "tap relu5 reference",
    other_constant: "structure relu1",
    other_resize: "map ms_ssim",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_where_it_is(lite, of_lite, fault, monkeypatch):
    twin = twin_of(lite)
    fault(twin, monkeypatch)
    rows = stages.compare(of_lite, stages.of_torch(twin, *images(*SHAPES[0])))
    first = next(row.name for row in rows if not row.agrees)
    assert first == FAULTS[fault]
    assert f"the first that parts: {first}" in stages.table(rows)


def test_float64_says_how_far_float32_is_from_exact(lite, of_lite):
    twin = copy.deepcopy(twin_of(lite)).double()
    rows = stages.compare(of_lite, stages.of_torch(twin, *images(*SHAPES[0])))
    assert all(row.agrees for row in rows[2:]), stages.table(rows)


def test_maps_that_there_are_not_are_named(lite):
    metric = lite.replace(module=lite.module.clone(classical=("psnr", "vsi")))
    with pytest.raises(ValueError, match="classical map 'vsi' is not one of psnr"):
        twin_of(metric)
    with pytest.raises(ValueError, match="spips-vgg16 is untrained: it has no file"):
        torch_spips.Spips.load("spips-vgg16")
    with pytest.raises(ValueError, match="psnr is not a SPIPS model"):
        stages.of_jax(spips_jax.load("psnr"), *images(*SHAPES[0]))


# The command.


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Two images, smaller than the package's example."""
    names = [str(tmp_path / name) for name in ("reference.png", "distorted.png")]
    for name, image in zip(names, images(*SHAPES[0]), strict=True):
        Image.fromarray((255 * image[0]).astype(np.uint8)).save(name)
    return names


def test_the_command_compares_images(files, capsys, monkeypatch):
    assert main(["twin", *files]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[:2] == ["stage", "shape"]
    assert printed.rstrip().endswith("all agree")
    assert "\nscore " in printed
    assert "\ngradient " in printed
    monkeypatch.setattr(torch_spips, "POWERS", torch_spips.POWERS[::-1])
    assert main(["twin", *files]) == 1
    assert "the first that parts: map ms_ssim" in capsys.readouterr().out


def test_machines_are_compared_by_files(files, tmp_path, capsys, monkeypatch):
    """Without PyTorch."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "torch" else find(name),
    )
    file = tmp_path / "here.safetensors"
    assert main(["twin", *files, "--dump", str(file)]) == 0
    assert main(["twin", *files, "--against", str(file)]) == 0
    assert "all agree" in capsys.readouterr().out
    found, about = stages.read(file)
    names = list(found)
    assert (names[0], names[-1]) == ("image reference", "gradient")
    assert about["jax"] == jax.__version__
    assert about["model"] == "spips-lite"

    found["tap relu3 distorted"] = 1.01 * found["tap relu3 distorted"]
    stages.write(file, found, {**about, "device": "another"})
    assert main(["twin", *files, "--against", str(file)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"device: {about['device']} here, another there\n")
    assert "the first that parts: tap relu3 distorted" in printed

    found["score"] = np.zeros(3, np.float32)
    stages.write(file, found, about)
    assert main(["twin", *files, "--against", str(file)]) == 2
    assert "stage 'score' has shape (1,) here and (3,) there" in capsys.readouterr().err

    assert main(["twin"]) == 2
    assert "PyTorch, which is not installed: pip install" in capsys.readouterr().err


def test_what_is_no_dump_is_refused(tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, other)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no")
    for path, message in (
        (tmp_path / "none.safetensors", "no such file"),
        (other, "holds no stages: give a file of --dump"),
        (damaged, "cannot be read as safetensors"),
    ):
        assert main(["twin", "--against", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert main(["twin", "--dump", str(other)]) == 2
    assert "is none of ours to replace" in capsys.readouterr().err
    assert main(["twin", "--double", "--against", str(other)]) == 2
    assert "--double is PyTorch's, and goes without" in capsys.readouterr().err
    assert main(["twin", "one.png"]) == 2
    assert "1 images are given: give a reference and a" in capsys.readouterr().err


def test_the_metric_leaves_for_pytorch(tmp_path, lite, of_lite):
    file = tmp_path / "spips.pt2"
    torch_spips.export(twin_of(lite), file, SHAPES[0][1:])
    metric = torch.export.load(file).module()
    x, y = (torch.from_numpy(z).movedim(-1, 1) for z in images(*SHAPES[0]))
    np.testing.assert_allclose(metric(x, y), of_lite["score"], rtol=1e-5)
    several = [torch.cat([z, z, z]) for z in (x, y)]
    np.testing.assert_allclose(metric(*several), of_lite["score"][[0] * 3], rtol=1e-5)
