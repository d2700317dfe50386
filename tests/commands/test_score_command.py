"""`spips score`, `spips models` and the tree, as a person or a program uses them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spips_jax
from spips_jax import Calibration, model_file, weights
from spips_jax.commands import main


@pytest.fixture
def home(tmp_path, monkeypatch, random_weights):
    """A cache folder that holds a random AlexNet, and a working folder."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "alexnet.safetensors").symlink_to(random_weights("alexnet"))
    monkeypatch.setenv("SPIPS_HOME", str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


UNTRAINED = ("--model", "spips-alexnet", "--untrained")


def save(path: str | Path, *, seed: int = 0, size: tuple[int, int] = (48, 40)) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_two_files_give_the_metrics_score(home, capsys, random_metric):
    reference, distorted = save("a.png"), save("b.png", seed=1)
    assert main(["score", reference, distorted, *UNTRAINED, "--json"]) == 0
    (row,) = json_lines(capsys.readouterr().out)
    expected = random_metric("alexnet")(
        *(spips_jax.read_image(path) for path in (reference, distorted))
    )
    assert row == {
        "reference": "a.png",
        "distorted": "b.png",
        "model": "spips-alexnet-untrained",
        "score": pytest.approx(float(expected), rel=1e-5),  # another program
    }


def test_a_pipe_gets_a_table_of_tabs(home, capsys):
    assert main(["score", save("a.png"), save("a copy.png"), "--model", "psnr"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "reference\tdistorted\tpsnr",
        "a.png\ta copy.png\t100.000000",
    ]
    assert err == ""


def test_a_terminal_gets_a_table_that_tells_the_direction(home, capsys, monkeypatch):
    import rich.console

    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    assert main(["score", save("a.png"), save("b.png"), "--model", "ssim"]) == 0
    out = capsys.readouterr().out
    assert "ssim" in out
    assert "higher is better" in out


def test_folders_match_by_name_then_by_stem(home, capsys):
    for name in ("one.png", "two.png", "three.png", "three.bmp", "unused.png"):
        save(f"ref/{name}")
    for name in ("one.png", "two.jpg", "three.jpg", "four.png"):
        save(f"dist/{name}", seed=1)
    Path("dist/notes.txt").write_text("not an image, and not named as one")
    code = main(["score", "ref", "dist", "--model", "psnr", "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert {(row["reference"], row["distorted"]) for row in json_lines(out)} == {
        ("ref/one.png", "dist/one.png"),
        ("ref/two.png", "dist/two.jpg"),
    }
    assert err.splitlines() == [
        "error: left out: dist: 1 file of no known image format: notes.txt",
        "error: left out: dist/four.png: ref has no image of its name",
        "error: left out: ref/unused.png: dist has no image of its name",
        "error: dist/three.jpg: both three.bmp and three.png in ref could be meant",
    ]


def test_one_reference_meets_a_folder(home, capsys):
    save("dist/a.png", seed=1)
    save("dist/b.png", seed=2)
    assert main(["score", save("ref.png"), "dist", "--model", "psnr", "--json"]) == 0
    rows = json_lines(capsys.readouterr().out)
    assert [row["distorted"] for row in rows] == ["dist/a.png", "dist/b.png"]
    assert rows[0]["score"] != rows[1]["score"]


def test_a_list_of_pairs_goes_on_past_bad_ones(home, capsys):
    save("set/a.png")
    save("set/b.png", seed=1)
    save("set/wide.png", size=(50, 40))
    Path("set/broken.png").write_text("broken")
    Path("set/pairs.csv").write_text(
        "distorted,reference,mos\n"
        "b.png,a.png,3\n"
        "wide.png,a.png,3\n"
        "broken.png,a.png,3\n"
        "nowhere.png,a.png,3\n"
        ",a.png,3\n"
        "a.png,a.png,5\n"
    )
    command = ["score", "--pairs", "set/pairs.csv", "--json", "--model", "psnr"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    rows = json_lines(out)
    assert [row["score"] is not None for row in rows] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert "reference is 48x40 (width x height), distorted is 50x40" in rows[1]["error"]
    assert rows[1]["error"].startswith("set/a.png, set/wide.png: ")
    assert rows[2]["error"].startswith("set/broken.png: not an image")
    assert rows[3]["error"].startswith("set/nowhere.png: no such file")
    assert "set/pairs.csv: line 6: reference or distorted is empty" in err
    assert len(err.splitlines()) == 4
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_maps_are_pictures_with_names_of_their_own(home, capsys):
    save("ref/a.png")
    save("dist/1/a.png", seed=1)
    save("dist/2/a.png", seed=2)
    Path("pairs.csv").write_text(
        "reference,distorted\nref/a.png,dist/1/a.png\nref/a.png,dist/2/a.png\n"
    )
    command = ["score", "--pairs", "pairs.csv", *UNTRAINED, "--json"]
    assert main([*command, "--maps", "maps"]) == 0
    rows = json_lines(capsys.readouterr().out)
    assert [row["maps"] for row in rows] == ["maps/a.png", "maps/a-2.png"]
    for row in rows:
        with Image.open(row["maps"]) as image:
            assert image.format == "PNG"
            assert min(image.size) > 500
        parts = row["perceptual"] + row["semantic"] + row["classical"]
        assert parts == pytest.approx(row["score"], rel=1e-5)  # float32 sums
    assert sorted(path.name for path in Path("maps").iterdir()) == ["a-2.png", "a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "give REFERENCE and DISTORTED, --pairs CSV or --example"),
        (["score", "a.png"], "give REFERENCE and DISTORTED"),
        (["score", "a.png", "b.png", "--pairs", "p.csv"], "only one of them"),
        (["score", "--example", "--pairs", "p.csv"], "only one of them"),
        (["score", "a.png", "--example"], "only one of them"),
        (["score", "a.png", "nowhere.png"], "nowhere.png: no such file"),
        (["score", "nowhere.png", "a.png"], "nowhere.png: no such file"),
        (["score", ".", "a.png"], "is a folder"),
        (["score", "a.png", "empty"], "empty: holds no image file"),
        (["score", "--pairs", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["score", "--pairs", "a.png"], "a.png: cannot be read as a CSV file"),
        (["score", "--pairs", "bad.csv"], "bad.csv: line 1 names the columns"),
        (["score", "a.png", "b.png", "--model", "vmaf"], "'vmaf' is not one of spips-"),
        (
            ["score", "a.png", "b.png", "--model", "spips-vgg16"],
            "`spips convert vgg16`, or take spips-lite",
        ),
        (["score", "--example", "--weights", "a.png"], "has a backbone of its own"),
        (
            ["score", "--example", "--weights", "a.png", *UNTRAINED],
            "not a whole safetensors",
        ),
        (
            ["score", "--example", "--model", "lpips-alexnet", "--untrained"],
            "--untrained: lpips-alexnet has no uniform head, only spips-lite, spips-",
        ),
        (
            ["score", "--example", "--model", "m.safetensors", "--untrained"],
            "--untrained: m.safetensors has no uniform head",
        ),
        (
            ["score", "a.png", "b.png", "--model", "psnr", "--head", "x"],
            "psnr has no second file",
        ),
        (
            ["score", "a.png", "b.png", "--head", "x"],
            "spips-lite has no second file",
        ),
        (["score", "a.png", "b.png", "--maps", "a.png"], "a.png: cannot be made"),
        (["score", "a.png", "b.png", "--maps", "m", "--model", "dists"], "no maps"),
        (["models", "vmaf"], "'vmaf' is not one of spips-lite"),
        (["models", "spips-vgg16"], "spips-vgg16 has no card, only spips-lite"),
        (["models", "psnr"], "psnr has no card"),
    ],
)
def test_wrong_calls_are_one_line_and_exit_code_2(home, capsys, arguments, message):
    save("a.png")
    save("b.png")
    Path("empty").mkdir()
    Path("bad.csv").write_text("left,right\n1,2\n")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_weights_of_another_network_are_refused(home, capsys, random_weights):
    path = str(random_weights("squeezenet"))
    assert main(["score", "--example", *UNTRAINED, "--weights", path]) == 2
    assert "holds squeezenet, wanted alexnet" in capsys.readouterr().err


@pytest.fixture
def calibrated(random_metric) -> Callable[[Calibration], str]:
    """Writes a model file with a calibration into the working folder."""

    def write(calibration: Calibration) -> str:
        metric = random_metric("alexnet")
        metric.replace(name="mine", calibration=calibration).save("model.safetensors")
        return "model.safetensors"

    return write


MOS = Calibration("mos", (0.5, 8.5, 0.4, 0.2), (0.0, 9.0), "tid2013", 3000, 0.71)


def test_a_calibrated_model_tells_opinions(home, capsys, calibrated):
    model = calibrated(MOS)
    save("dist/a.png")
    save("dist/b.png", seed=1)
    Path("dist/c.png").write_text("broken")
    command = ["score", save("ref.png"), "dist", "--model", model]
    assert main([*command, "--json"]) == 2
    rows = json_lines(capsys.readouterr().out)
    assert [list(row)[:5] for row in rows] == [
        ["reference", "distorted", "model", "score", "mos"]
    ] * 3
    assert [row["mos"] for row in rows] == [
        float(MOS(0)),
        float(MOS(rows[1]["score"])),
        None,
    ]
    assert main(command) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reference\tdistorted\tmine\tmos"
    assert lines[1] == f"ref.png\tdist/a.png\t0.000000\t{float(MOS(0)):.6f}"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        (
            MOS,
            """\
            mine: lower is better, 0 is identical
            mos: what people would say, from 0 (worst) to 9 (best)
            fitted to 3,000 examples of tid2013, RMSE 0.71
              0.0000 to 0.0721  imperceptible
              0.0721 to 0.3084  perceptible, but not annoying
              0.3084 to 0.4916  slightly annoying
              0.4916 to 0.7279  annoying
              0.7279 and more   very annoying
            """,
        ),
        (
            Calibration("dmos", (60.0, -5.0, 0.4, 0.2), (0.0, 100.0), "live", 779, 8),
            """\
            mine: lower is better, 0 is identical
            dmos: what people would say, from 0 (best) to 100 (worst)
            fitted to 779 examples of live, RMSE 8.0
              0.0000 to 0.3060  imperceptible
              0.3060 to 0.5622  perceptible, but not annoying
              0.5622 and more   slightly annoying
            """,
        ),
        (
            Calibration("preference", (0.1,), (0.0, 1.0), "bapps", 36344, 0.238),
            """\
            mine: lower is better, 0 is identical
            preference: how many people would prefer the reference, 50 % being chance
            fitted to 36,344 examples of bapps, RMSE 24 %
              0.0000 to 0.0405  50 to 60 % prefer the reference
              0.0405 to 0.1099  60 to 75 % prefer the reference
              0.1099 to 0.2197  75 to 90 % prefer the reference
              0.2197 and more   90 to 100 % prefer the reference
            """,
        ),
    ],
)
def test_a_terminal_gets_a_legend(
    home, capsys, monkeypatch, calibrated, calibration, expected
):
    """Its borders are by hand: of MOS, 0.4 + 0.2 logit((7.2 - 8.5) / (0.5 - 8.5))."""
    import rich.console

    model = calibrated(calibration)
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    assert main(["score", save("a.png"), save("b.png"), "--model", model]) == 0
    table, legend = capsys.readouterr().out.split("\nmine: ")
    assert calibration.opinion in table
    assert "mine: " + legend == textwrap.dedent(expected)


def test_unknown_options_are_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["score", "--fast"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err == "error: unrecognized arguments: --fast (see spips --help)\n"


def test_models_are_listed_with_how_to_get_them(home, capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "14,714,688" in text
    assert "relu1_2 relu2_2 relu3_3 | relu4_3 relu5_3" in text
    assert "spips convert --for spips-vgg16" in text
    assert "in the package" in text
    assert main(["models", "--json"]) == 0
    models = {row["model"]: row for row in json_lines(capsys.readouterr().out)}
    assert models["spips-lite"]["files"] == []
    assert models["spips-alexnet"]["files"][0]["there"]
    assert not models["spips-vgg16"]["files"][0]["there"]
    assert models["lpips-alexnet"]["files"][1]["command"] == (
        "spips convert lpips-alexnet"
    )
    assert models["psnr"]["files"] == []
    assert set(models) >= {"spips-vgg19", "spips-squeezenet", "dists", "ms-ssim"}
    trained = {name: row["trained"] for name, row in models.items()}
    assert trained["spips-lite"] is trained["dists"] is True
    assert trained["spips-vgg16"] is False
    assert trained["psnr"] is None


def test_models_print_their_cards(home, capsys):
    file = weights.embedded("spips-lite")
    assert main(["models", "spips-lite"]) == 0
    assert capsys.readouterr().out == file.with_suffix(".md").read_text()
    assert main(["models", "spips-lite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == model_file.read_card(file)


def test_the_module_is_the_command(home):
    command = [sys.executable, "-m", "spips_jax", "score", "--example", "--json"]
    result = subprocess.run(
        [*command, "--model", "psnr"], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["score"] > 0
    assert result.stderr == ""


def test_help_shows_how_to_call(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "spips score photo.png photo.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in ("score", "models", "data", "train", "evaluate")),
     ["convert"], ["check"], ["data", "prepare"]],
)  # fmt: skip
def test_help_is_plain_and_imports_nothing_heavy(words):
    """Half a second is for argparse alone: JAX takes longer to import."""
    program = (
        "import sys\n"
        "from spips_jax.commands import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\n"
        "finally:\n"
        "    heavy = {'jax', 'flax', 'numpy', 'absl', 'ml_collections', 'rich'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "[]\n")
    assert result.stdout.startswith(f"usage: {' '.join(['spips', *words])}")
    assert max(map(len, result.stdout.splitlines())) <= 88


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"spips-jax {spips_jax.__version__}\n"


@pytest.mark.parametrize("command", ["score", "models", "data", "train", "evaluate",
                                     "convert", "check"])  # fmt: skip
def test_every_command_ends_alike(monkeypatch, capsys, command):
    """Interrupted, out of an extra, or with nobody who reads: a line and a code."""
    import importlib

    module = importlib.import_module(f"spips_jax.commands.{command}")
    words = {"data": ["data", "list"], "convert": ["convert", "vgg16"]}
    words = words.get(command, [command])
    name = {"data": "_list"}.get(command, "run")

    def failing(error: BaseException):
        def run(*_):
            raise error

        return run

    for error, code, told in (
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            ModuleNotFoundError("no", name="rich.console"),
            2,
            "error: rich is not installed: install spips-jax with the extra [cli]\n",
        ),
        (OSError(28, "No space left", "a.csv"), 2, "error: a.csv: No space left\n"),
    ):
        monkeypatch.setattr(module, name, failing(error))
        assert main(words) == code
        assert capsys.readouterr().err == told
    monkeypatch.setattr(module, name, failing(ModuleNotFoundError("no", name="rihc")))
    with pytest.raises(ModuleNotFoundError):
        main(words)


@pytest.mark.parametrize("words", [["models"], ["data", "list"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(words):
    with subprocess.Popen(
        [sys.executable, "-m", "spips_jax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(), errors) == (0, b"")


def test_provenance_needs_json(home, capsys):
    words = ["score", save("a.png"), save("b.png"), "--model", "psnr", "--provenance"]
    assert main(words) == 2
    assert "--provenance is written as JSON alone: give --json" in (
        capsys.readouterr().err
    )
    assert main([*words, "--output", "scores.json"]) == 0
    (row,) = json.loads(Path("scores.json").read_text())
    assert row["provenance"]["model"] == "psnr"
    assert "model_sha256" not in row["provenance"]  # it has no weights
