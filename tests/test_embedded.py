"""The trained models that come with the package: their contract, and what is in it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import spips_jax
from spips_jax import WeightsError, model_file, weights

ROOT = Path(__file__).resolve().parents[1]

SIZE = (37, 44)  # an odd and an even side

IMAGES = {
    "noise": np.random.default_rng(0).random((*SIZE, 3)),
    "other noise": np.random.default_rng(1).random((*SIZE, 3)),
    "black": np.zeros((*SIZE, 3)),
    "flat": np.full((*SIZE, 3), 0.4),
}

PAIRS = list(itertools.product(IMAGES, repeat=2))

files = pytest.mark.parametrize(
    "name", [name for name in spips_jax.MODELS if weights.embedded(name)]
)


def test_the_contract_holds(embedded):
    check_contract(embedded, "float32")


def test_the_contract_holds_of_images_in_bfloat16():
    check_contract(spips_jax.load(), "bfloat16")


def check_contract(embedded, dtype):
    """One batch of all pairs: one program for values and gradients."""
    x, y = (jnp.asarray(np.stack([IMAGES[p[k]] for p in PAIRS]), dtype) for k in (0, 1))

    def total(x, y):
        scores = embedded(x, y)
        return scores.sum(), scores

    gradients, scores = jax.grad(total, argnums=(0, 1), has_aux=True)(x, y)
    for (a, b), score in zip(PAIRS, scores, strict=True):
        if a == b:
            assert score == 0, a
        else:
            assert 0 < score < np.inf, (a, b)
    for gradient in gradients:
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_the_score_is_told_in_words(embedded):
    calibration = embedded.calibration
    assert calibration is not None
    low, high = calibration.scale
    assert low <= calibration(1.0) <= high
    rows = calibration.legend()
    assert len(rows) > 1
    assert all(re.match(r"[a-z0-9]", words) for words, _, _ in rows)


@files
def test_files_are_small_and_say_what_they_are(name):
    file = weights.embedded(name)
    whole = spips_jax.MODELS[name] not in weights.PUBLISHED
    assert file.stat().st_size < (4_000_000 if whole else 64_000)
    card = model_file.read_card(file)
    assert card["name"] == name
    assert file.with_suffix(".md").read_text(encoding="utf-8").startswith(f"# {name}\n")


def test_the_default_needs_no_other_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))
    default = spips_jax.load()
    assert default.name == "spips-lite"
    (file,) = weights.PACKAGE.glob("spips-lite.safetensors")
    jax.tree.map(
        np.testing.assert_array_equal, default.variables, spips_jax.load(file).variables
    )
    assert not list(tmp_path.iterdir())


def test_lite_untrained_is_over_the_backbone_of_the_package(random_weights):
    backbone = spips_jax.load().variables["params"]["backbone"]
    uniform = spips_jax.load("spips-lite", trained=False)
    assert (uniform.name, uniform.calibration) == ("spips-lite-untrained", None)
    for same in (uniform.variables["params"]["backbone"], weights.read_network("lite")):
        jax.tree.map(np.testing.assert_array_equal, same, backbone)
    linear = uniform.variables["params"]["head"]["linear"]
    np.testing.assert_allclose(linear.sum(), 1, rtol=1e-6)  # a mean; float32
    with pytest.raises(WeightsError, match="has a backbone of its own: leave weights"):
        spips_jax.load("spips-lite", weights=random_weights("lite"))


def test_the_example_is_an_image_and_its_jpeg():
    folder = weights.PACKAGE / "example"
    reference, distorted = (
        Image.open(folder / name) for name in ("reference.png", "distorted.jpg")
    )
    assert reference.size == distorted.size == (256, 256)
    assert distorted.format == "JPEG"
    error = np.asarray(reference, float) - np.asarray(distorted, float)
    psnr = 10 * np.log10(255**2 / np.mean(error**2))
    assert 20 < psnr < 30, "plain to see, and still the same scene"


def test_the_first_command_runs_with_nothing_at_hand(tmp_path):
    """With an empty cache folder and without a network, on any path."""
    program = """
import socket, sys

def refuse(*_, **__):
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from spips_jax.commands import main
sys.exit(main(["score", "--example", "--maps", "maps"]))
"""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    environment |= {"SPIPS_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header[:3] == ["reference", "distorted", "spips-lite"]
    assert float(row[2]) > 0
    with Image.open(tmp_path / "maps" / "distorted.png") as image:
        assert image.format == "PNG"


def test_a_wheel_has_all_of_it(tmp_path):
    """Models, example and configs: what is installed can do what the clone can."""
    source = tmp_path / "source"
    for name in ("spips_jax", "weights_convert", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *(sys.executable, "-c"),
            "from setuptools import build_meta; build_meta.build_wheel('.')",
        ],
        capture_output=True,
        check=True,
        cwd=source,
    )
    (wheel,) = source.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(site)
    wanted = [path for path in weights.PACKAGE.rglob("*") if path.is_file()]
    wanted += [*(ROOT / "spips_jax").rglob("*.py"), *ROOT.glob("weights_convert/*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= held
    configs = [path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")]
    assert {f"spips_jax/{path.as_posix()}" for path in configs} <= held

    program = (
        "import spips_jax; from spips_jax.commands import configs;"
        "print(configs.find('quickstart'), configs.find('tid2013', 'eval'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        text=True,
    )
    assert result.stdout.split() == [
        str(site / "spips_jax" / "configs" / name)
        for name in ("quickstart.py", "eval/tid2013.py")
    ]
