"""The command line from end to end: files, exit codes and one-line errors."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors

from spips_jax.commands import main as spips
from spips_jax.weights import PUBLISHED, WeightsError, read_weights, weights_path
from weights_convert import download, torch_twin


def main(words):
    return spips(["convert", *words])


@pytest.fixture
def source(tmp_path, random_tensors):
    """A function: network -> .npz file with random weights."""

    def make(network, **changes):
        path = tmp_path / f"{network} source.npz"
        np.savez(path, **(random_tensors(network) | changes))
        return path

    return make


def error_line(capsys, *argv):
    """The one line that the command says when it fails, without its prefix."""
    assert main([str(arg) for arg in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("error: ")
    return output.err.removeprefix("error: ")


def test_default_output_and_metadata(source, capsys, home):
    path = source("dists")
    assert main(["dists", "--source", str(path)]) == 0
    output = home / "dists.safetensors"
    assert output == weights_path("dists")
    assert str(output) in capsys.readouterr().out
    params = read_weights(output, network="dists")
    assert params["beta"]["relu5_3"].shape == (512,)
    with safetensors.safe_open(output, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["source"] == path.name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["source_sha256"] == digest


def test_output(source, tmp_path, home):
    output = tmp_path / "new" / "heads.safetensors"
    argv = ["lpips-vgg16", "--source", str(source("lpips-vgg16"))]
    assert main([*argv, "--output", str(output)]) == 0
    assert read_weights(output, network="lpips-vgg16")
    assert not home.exists()


def test_download_is_the_default_source(source, monkeypatch, home):
    path = source("squeezenet")
    asked = []

    def fetch(*args, mirror):
        asked.append((*args, mirror))
        return path

    monkeypatch.setattr(download, "fetch", fetch)
    assert main(["squeezenet"]) == 0
    assert main(["squeezenet", "--mirror", "https://mirror"]) == 0
    assert asked == [("squeezenet", home, None), ("squeezenet", home, "https://mirror")]
    assert read_weights(weights_path("squeezenet"), network="squeezenet")


def test_all_that_a_model_lacks_is_downloaded(source, monkeypatch, capsys):
    asked = []

    def fetch(network, folder, *, mirror):
        asked.append(network)
        return source(network)

    monkeypatch.setattr(download, "fetch", fetch)
    assert main(["--for", "spips-alexnet"]) == 0
    assert main(["--for", "lpips-alexnet"]) == 0
    assert asked == ["alexnet", "lpips-alexnet"]
    assert f"alexnet: is there, {weights_path('alexnet')}" in capsys.readouterr().out
    assert main(["--for", "spips-lite"]) == 0
    assert capsys.readouterr().out == "spips-lite needs no file\n"
    weights_path("alexnet").write_bytes(b"damaged")
    assert "not a whole safetensors file" in error_line(
        capsys, "--for", "spips-alexnet"
    )


def test_a_folder_of_files_as_they_are(tmp_path, random_tensors, capsys):
    """By the author's name before others, and by content where it has another."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "aaa.pth").write_bytes(b"no weights")
    head = random_tensors("lpips-alexnet")
    np.savez(folder / "other.npz", **head)
    np.savez(folder / "deep" / "mine.npz", **random_tensors("alexnet"))
    assert main(["--for", "lpips-alexnet", "--source", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert str(folder / "deep" / "mine.npz") in printed
    assert str(folder / "other.npz") in printed
    line = error_line(capsys, "--for", "dists", "--source", folder)
    assert "none of its 3 weight files" in line
    assert "has vgg16: get https://github.com/pytorch/vision" in line
    line = error_line(capsys, "--for", "dists", "--source", folder / "other.npz")
    assert "is no folder: with --for" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a NETWORK, or a model with --for"),
        (["vgg16", "--for", "dists"], "give a NETWORK, or a model with --for"),
        (["--for", "dists", "--verify"], "--output and --verify go with a NETWORK"),
        (["vgg16", "--mirror", "u", "--source", "f"], "are two places: give one"),
        (["--for", "lpips"], "model 'lpips' is not one of"),
    ],
)
def test_what_does_not_go_together(capsys, words, message):
    assert message in error_line(capsys, *words)


def test_errors_name_the_file_and_leave_nothing(source, capsys, tmp_path, home):
    missing = tmp_path / "missing.pth"
    line = error_line(capsys, "alexnet", "--source", missing)
    assert line == f"{missing}: no such file\n"

    folder = error_line(capsys, "alexnet", "--source", tmp_path)
    assert folder == f"{tmp_path}: Is a directory\n"

    text = tmp_path / "notes.pth"
    text.write_text("<html>\n")
    line = error_line(capsys, "alexnet", "--source", text)
    assert "notes.pth: not a weights file: it starts with b'<html>" in line

    bad = source("dists", alpha=np.full((1, 1475, 1, 1), np.nan))
    assert "NaN" in error_line(capsys, "dists", "--source", bad)

    other = source("lpips-alexnet")
    line = error_line(capsys, "lpips-vgg16", "--source", other)
    assert "looks like lpips-alexnet" in line
    assert not home.exists()


def test_a_failed_conversion_leaves_the_old_output(source, capsys):
    assert main(["dists", "--source", str(source("dists"))]) == 0
    capsys.readouterr()
    before = weights_path("dists").read_bytes()
    bad = source("dists", beta=np.ones(3))
    assert "(3,)" in error_line(capsys, "dists", "--source", bad)
    assert weights_path("dists").read_bytes() == before
    assert len(list(weights_path("dists").parent.iterdir())) == 1


def test_the_source_is_never_overwritten(source, capsys):
    path = source("dists")
    before = path.read_bytes()
    line = error_line(capsys, "dists", "--source", path, "--output", path)
    assert "is an input, too" in line
    assert path.read_bytes() == before


def test_an_output_that_cannot_be_written(source, capsys, tmp_path):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "dists.safetensors"
    line = error_line(capsys, "dists", "--source", source("dists"), "--output", output)
    assert line.startswith(f"{output.parent}: cannot be written (")
    assert line.endswith("give another --output\n")


def test_names_with_line_breaks_stay_in_one_line(source, capsys):
    path = source("dists", **{"a\nb": np.ones(1)})
    assert r"'a\nb'" in error_line(capsys, "dists", "--source", path)


def test_interruption(monkeypatch, capsys):
    def interrupt(*args, mirror):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", interrupt)
    assert main(["vgg16"]) == 130
    assert capsys.readouterr().err == "error: interrupted; run it again to resume\n"


@pytest.mark.parametrize("argv", [[], ["vgg11"], ["lite"], ["vgg16", "--sauce", "x"]])
def test_wrong_arguments(capsys, argv):
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1


def test_verify_backbone(source, capsys):
    pytest.importorskip("torch", reason="runs the PyTorch twin")
    path = source("squeezenet")
    assert main(["squeezenet", "--source", str(path), "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == (
        ["tap", "relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"]
    )
    assert "(2, 48, 63, 64)" in lines[2]


def test_verify_that_fails(source, capsys, monkeypatch):
    pytest.importorskip("torch", reason="runs the PyTorch twin")
    activations = torch_twin.activations

    def perturbed(*args):
        taps = activations(*args)
        taps["fire6"] = taps["fire6"] * np.float32(1.0001)
        taps["fire7"] = taps["fire7"] * np.nan
        return taps

    monkeypatch.setattr(torch_twin, "activations", perturbed)
    path = source("squeezenet")
    assert main(["squeezenet", "--source", str(path), "--verify"]) == 1
    output = capsys.readouterr()
    over = [line.split()[0] for line in output.out.splitlines() if "over" in line]
    assert over == ["fire6", "fire7"]
    assert output.err.startswith("error: ")


def test_verify_heads_without_torch(source, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = source("lpips-alexnet")
    assert main(["lpips-alexnet", "--source", str(path), "--verify"]) == 0
    assert "relu5.weight" in capsys.readouterr().out


def test_verify_without_torch(source, capsys, monkeypatch, home):
    monkeypatch.setitem(sys.modules, "torch", None)
    line = error_line(capsys, "alexnet", "--source", source("alexnet"), "--verify")
    assert "not installed" in line
    assert not home.exists()
    with pytest.raises(WeightsError):
        torch_twin.require_torch()


def run(*argv, code="", **options):
    start = f"import sys; {code}; from spips_jax.commands import main; "
    command = [
        sys.executable,
        "-c",
        f"{start}sys.exit(main(['convert', *sys.argv[1:]]))",
        *argv,
    ]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_conversion_without_torch(tmp_path, random_tensors, zipped):
    torch = pytest.importorskip("torch", reason="writes the checkpoint")
    path = tmp_path / "weights.pth"
    tensors = random_tensors("lpips-squeezenet")
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    block = "sys.modules['torch'] = None"
    result = run("lpips-squeezenet", "--source", str(path), code=block)
    assert (result.returncode, result.stderr) == (0, "")
    params = read_weights(weights_path("lpips-squeezenet"), network="lpips-squeezenet")
    for name, converted in zip(
        tensors, PUBLISHED["lpips-squeezenet"].tensors, strict=True
    ):
        assert name == converted
    np.testing.assert_array_equal(
        params["fire3"]["weight"], tensors["lin1.model.1.weight"].ravel()
    )


def test_torch_is_not_imported_until_needed(source):
    path = source("dists")
    check = "import atexit; atexit.register(lambda: print(sorted(sys.modules)))"
    result = run("dists", "--source", str(path), code=check)
    assert result.returncode == 0
    assert "'weights_convert.torch_twin'" in result.stdout
    assert "'torch'" not in result.stdout


def test_help_is_the_module_run():
    command = [sys.executable, "-m", "weights_convert", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in (
        "--source",
        "--output",
        "--verify",
        "SPIPS_HOME",
        "dists",
        "exit codes",
    ):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 88
