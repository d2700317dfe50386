"""`spips check`: the scores of a file, once more, and what differs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import PIL
import pytest
from PIL import Image

import spips_jax
from spips_jax import weights
from spips_jax.commands import main


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path / "home"))


@pytest.fixture
def written(capsys) -> list[dict]:
    """What `spips score --json` says of two pairs."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(f"{name}.png")
    Path("pairs.csv").write_text("reference,distorted\na.png,b.png\na.png,c.png\n")
    assert main(["score", "--pairs", "pairs.csv", "--json", "--model", "ssim"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write(rows: list[dict], path: str = "scores.jsonl") -> str:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_this_installation_gives_the_scores_of_the_release(capsys):
    assert main(["check"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("spips-jax ")
    assert jax.__version__ in first
    assert last == "4 of 4 scores agree, to 1e-05 relative"


def test_a_planted_difference_is_found(written, capsys):
    assert main(["check", write(written)]) == 0
    capsys.readouterr()
    written[1]["score"] += 1e-3
    assert main(["check", write(written)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("a.png, c.png: ssim is 0.")
    assert lines[2] == "1 of 2 scores agree, to 1e-05 relative"
    assert main(["check", write(written), "--tolerance", "0.5"]) == 0


@pytest.fixture
def told(written, capsys) -> list[dict]:
    """What `spips score --json --provenance` says of two pairs."""
    command = ["score", "--pairs", "pairs.csv", "--json", "--provenance"]
    assert main([*command, "--model", "spips-lite"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_provenance_says_what_a_score_depends_on(told, capsys):
    about = told[1]["provenance"]
    pixels = np.asarray(Image.open("c.png").convert("RGB"))
    assert about["distorted_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert about["reference_sha256"] == told[0]["provenance"]["reference_sha256"]
    metric = spips_jax.load("spips-lite")
    params = metric.variables["params"]
    assert about["backbone_sha256"] == weights.digest(params["backbone"])
    expected = {
        "model": "spips-lite", "backbone": "lite", "precision": "float32",
        "size": "48x40", "value_range": "0 to 255", "jax": jax.__version__,
        "device": "cpu (cpu)", "pillow": PIL.__version__, "program": "of this size",
    }  # fmt: skip
    assert about | expected == about
    assert main(["check", write(told)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # nothing differs


def test_what_differs_is_named(told, capsys):
    """Other pixels, other weights, another device: where it was, and which."""
    pixels = np.asarray(Image.open("c.png")).copy()
    pixels[20:30, 20:30] //= 2
    Image.fromarray(pixels).save("c.png")
    told[0]["provenance"]["device"] = "gpu (H100)"
    assert main(["check", write(told)]) == 1
    score, device, digest, last = capsys.readouterr().out.splitlines()[1:]
    assert score.startswith("a.png, c.png: spips-lite is ")
    assert score.endswith("in scores.jsonl (distorted_sha256)")
    assert device == "device: cpu (cpu) here, gpu (H100) there, of b.png"
    assert digest.startswith("distorted_sha256: ")
    assert digest.endswith(" there, of c.png")
    assert last == "1 of 2 scores agree, to 1e-05 relative"

    told[0]["provenance"]["model_sha256"] = "f" * 64
    told[0]["score"] *= 1.1
    assert main(["check", write(told)]) == 1
    assert "(model_sha256, device)" in capsys.readouterr().out


def test_a_pair_that_is_gone_leaves_the_others(written, capsys):
    Path("b.png").unlink()
    assert main(["check", write(written)]) == 2
    out, err = capsys.readouterr()
    assert err == "error: b.png: no such file\n"
    assert out.splitlines()[-1] == "1 of 2 scores agree, to 1e-05 relative"


def test_files_are_looked_for_beside_the_scores_too(written, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = Path(write(written)).resolve()
    monkeypatch.chdir(elsewhere)
    assert main(["check", str(file)]) == 0


def test_a_model_of_ones_own_is_given_by_its_file(written, capsys, random_metric):
    random_metric("squeezenet").replace(name="mine").save("mine.safetensors")
    command = ["score", "a.png", "b.png", "--json", "--model", "mine.safetensors"]
    assert main(command) == 0
    file = write([json.loads(capsys.readouterr().out)])
    assert main(["check", file]) == 2
    assert "has scores of mine, which `spips models` does not list: give its fi" in (
        capsys.readouterr().err
    )
    assert main(["check", file, "--model", "mine.safetensors"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no score to compare with"),
        ("reference,distorted\n", "line 1 is not what `spips score --json` writes"),
        ('{"reference": "a", "score": 1.0}\n', "line 1 is not what"),
        (
            '{"reference": "a", "distorted": "b", "model": "psnr", "score": "x"}\n',
            "line 1 is not what",
        ),
    ],
)
def test_other_files_are_refused(capsys, text, message):
    Path("scores.jsonl").write_text(text)
    assert main(["check", "scores.jsonl"]) == 2
    assert message in capsys.readouterr().err
    assert main(["check", "nowhere.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "error: nowhere.jsonl: No such file or directory\n"
    )
