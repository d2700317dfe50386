"""README and the pages of docs/: every command and example is one that works.

All commands are parsed, and the configs that they name are read. What a page shows in
its blocks is also run, from its top to its bottom, but for what `NOT_RUN` gives a
reason for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import constants as tfds_constants

import spips_jax
from spips_jax import commands
from spips_jax.commands import configs

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *ROOT.glob("*.md"),
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "benchmarks" / "README.md",
    )
}

RUN = (
    "README.md", "docs/index.md", "docs/files.md", "docs/reproducibility.md",
    "docs/training.md",
)  # fmt: skip
"""Pages whose commands are run; those of the others need a download or a cluster."""

DOWNLOAD = "needs a download"
SHORTER = "training/test_quickstart.py and the other tests there run shorter ones"
TWIN = "weights_convert/test_twin.py runs it on smaller images"
NOT_RUN = {
    "spips data prepare tid2013 --manual_dir ~/Downloads": DOWNLOAD,
    "spips train --config quickstart --workdir runs/quickstart": SHORTER,
    "spips train export --workdir runs/quickstart --output model.safetensors": SHORTER,
    "spips train --config quickstart --workdir=runs/quickstart": SHORTER,
    "spips train export --workdir=runs/quickstart --output=model.safetensors": SHORTER,
    "spips train --config tid2013 --workdir=runs/fold2 --config.data.fold=2/5"
    " --config.optim.learning_rate=1e-3 --config.data.train.tid2013.crop=224": DOWNLOAD,
    "spips train --config tid2013 --workdir=runs/lite --config.model.name=spips-lite"
    " --config.model.weights=lite_backbone.safetensors": DOWNLOAD,
    "spips twin photo.png photo.jpg --model spips-alexnet": DOWNLOAD,
    "spips twin --double": TWIN,
    "spips twin --export spips.pt2": TWIN,
    "spips twin --dump here.safetensors": TWIN,
    "spips twin --against here.safetensors": TWIN,
}
"""Commands of `RUN` that are not run, and why."""

BRIEF = ("--config.samples=20", "--config.worst=0")
"""What makes an evaluation short, beside its own options."""

MINIATURE = {
    ("data", "prepare"): ("--partial",),
    ("train", "--config"): (
        "--config.num_steps=4",
        "--config.batch_size=8",
        "--config.optim.warmup_steps=0",
        "--config.optim.hold_steps=0",
    ),
    ("evaluate", "--model"): BRIEF,
}
"""What a set of a few small images needs, by a command's first two words."""

PLACEHOLDERS = {"LOW": "0", "HIGH": "1"}
"""What a page writes in place of numbers, and numbers."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
COMMAND = re.compile(
    r"(?<![\w./=-])(?:\.venv/bin/)?(spips|python -m \w+|python [\w/]+\.py)(?![\w-])"
    r"((?:[ =][^\s#>|&;'\"`$]+)*)(?: *> *([\w.]+))?"
)


def blocks(text: str, *languages: str) -> list[str]:
    """The blocks of a page that are in one of these languages."""
    return [body for language, body in BLOCK.findall(text) if language in languages]


def commands_in(text: str) -> list[tuple[list[str], str]]:
    """Words and, where its output goes into a file, that file's name."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = [
        (shlex.split(program + rest), file)
        for program, rest, file in COMMAND.findall(joined)
    ]
    return [one for one in found if one[0][:3] != ["python", "-m", "venv"]]


def inline(text: str) -> list[str]:
    """What stands between backticks in a page's sentences."""
    spans = re.findall(r"`([^`]+)`", BLOCK.sub("", text))
    return [" ".join(span.split()) for span in spans]


def as_spips(words: list[str]) -> list[str] | None:
    """The words after `spips` of a command that is one or stands for one."""
    doors = {
        ("spips",): [],
        ("python", "train.py"): ["train"],
        ("python", "evaluate.py"): ["evaluate"],
        ("python", "-m", "weights_convert"): ["convert"],
        ("python", "-m", "spips_jax"): [],
    }
    for door, stands_for in doors.items():
        if tuple(words[: len(door)]) == door:
            return [*stands_for, *words[len(door) :]]
    return None


def check_command(words: list[str]) -> None:
    """That its options are ones, and that the config it names can be read with them."""
    overrides, words = configs.split_overrides(words)
    args = commands._parser().parse_args(words)
    assert not overrides or hasattr(args, "overrides")
    if getattr(args, "config", None):
        kind = "eval" if words[0] == "evaluate" else ""
        configs.read(args.config, overrides, kind=kind, fields="")


def check_mention(words: list[str]) -> None:
    """That there is a command of this name, with the option that is named last."""
    help_text = io.StringIO()
    names = [word for word in words if not word.startswith("-")]
    with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit) as end:
        commands._parser().parse_args([*names, "--help"])
    assert end.value.code == 0, words
    for option in words[len(names) :]:
        assert option in help_text.getvalue(), words


def check_program(words: list[str]) -> None:
    """That a script of ours is there, and has the options that are named."""
    path = ROOT / words[1]
    text = path.read_text(encoding="utf-8")
    for other in path.parent.glob("*.py"):  # options that scripts share
        if f"import {other.stem}" in text or f"from {other.stem} " in text:
            text += other.read_text(encoding="utf-8")
    for word in words[2:]:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in text, (words, word)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGES[name]
    shown = [words for body in blocks(text, "bash") for words, _ in commands_in(body)]
    told = [words for span in inline(text) for words, _ in commands_in(span)]
    for words in [*shown, *told]:
        ours = as_spips(words)
        if ours is None:
            if words[:2] != ["python", "-m"]:  # another package's
                check_program(words)
        elif words in told and re.fullmatch(r"(--[\w-]+|\w*)", words[-1]):
            check_mention(ours)
        else:
            try:
                check_command([PLACEHOLDERS.get(word, word) for word in ours])
            except SystemExit as error:  # argparse has said what is wrong
                raise AssertionError(words) from error


@pytest.mark.parametrize("name", PAGES)
def test_the_shell_takes_every_block(name: str) -> None:
    for body in blocks(PAGES[name], "bash"):
        subprocess.run(["bash", "-n"], input=body, text=True, check=True)


def test_every_extra_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, text in PAGES.items():
        for extras in re.findall(r"(?:-e \.|spips-jax|-e '\.)\[([\w,]+)\]", text):
            unknown = set(extras.split(",")) - set(project["optional-dependencies"])
            assert not unknown, name


def test_what_is_not_run_is_there() -> None:
    shown = {
        " ".join(words)
        for name in RUN
        for body in blocks(PAGES[name], "bash")
        for words, _ in commands_in(body)
    }
    assert NOT_RUN.keys() <= shown, NOT_RUN.keys() - shown


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the pages take for granted: images, lists, a model."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :80]
    waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + rng.uniform(0, 6, 3))
    photo = Image.fromarray((127 + 100 * waves).astype(np.uint8))
    photo.save(folder / "photo.png")
    photo.save(folder / "photo.jpg", quality=20)
    for name in ("originals", "compressed"):
        (folder / name).mkdir()
    for number in range(2):
        turned = photo.rotate(180 * number)
        turned.save(folder / "originals" / f"{number}.png")
        turned.save(folder / "compressed" / f"{number}.jpg", quality=30)
    (folder / "pairs.csv").write_text("reference,distorted\nphoto.png,photo.jpg\n")
    spips_jax.load().save(folder / "model.safetensors")
    return folder


@pytest.fixture
def at_the_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    # TFDS reads TFDS_DATA_DIR once, where it is imported.
    monkeypatch.setattr(tfds_constants, "DATA_DIR", str(place / "sets"))
    monkeypatch.setenv("SPIPS_HOME", str(place / "home"))
    return place


def run(words: list[str], file: str) -> None:
    """Runs a command in this process; it must succeed."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = commands.main(words)
    assert code == 0, (words, errors.getvalue())
    assert said.getvalue() or errors.getvalue() or "--output" in words, words
    if file:
        Path(file).write_text(said.getvalue())


@pytest.mark.parametrize("name", RUN)
def test_its_commands_run(name: str, at_the_place: Path) -> None:
    shown = [one for body in blocks(PAGES[name], "bash") for one in commands_in(body)]
    if name == "docs/files.md":  # it shows its commands in sentences
        shown = [
            one
            for span in inline(PAGES[name])
            for one in commands_in(span)
            if "originals/" in one[0]
        ]
    assert shown
    for words, file in shown:
        ours = as_spips(words)
        assert ours is not None
        if " ".join(words) not in NOT_RUN:
            run([*ours, *(BRIEF if ours[0] == "evaluate" else ())], file)


@pytest.fixture
def kadid10k(at_the_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In Downloads: a few small images in KADID-10k's layout."""
    folder = at_the_place / "Downloads" / "kadid10k"
    (folder / "images").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(at_the_place))
    rng = np.random.default_rng(0)
    lines = ["dist_img,ref_img,dmos,var"]
    for number in range(1, 6):
        reference = f"I{number:02}"
        image = rng.integers(0, 200, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(image).save(folder / "images" / f"{reference}.png")
        for kind, level in itertools.product((1, 11), range(1, 6)):
            noise = rng.integers(0, 10 * level, image.shape, np.uint8)
            name = f"{reference}_{kind:02}_{level:02}.png"
            Image.fromarray(image + noise).save(folder / "images" / name)
            lines.append(f"{name},{reference}.png,{5.5 - 0.9 * level},0.5")
    (folder / "dmos.csv").write_text("\n".join(lines))
    return at_the_place


def test_kadid10k_runs_from_the_download_to_the_report(kadid10k: Path) -> None:
    machine, _ = PAGES["docs/kadid10k.md"].split("## A TPU VM")
    shown = [one for body in blocks(machine, "bash") for one in commands_in(body)]
    assert len(shown) == 7
    for words, file in shown:
        ours = [word.replace("~", str(kadid10k)) for word in as_spips(words) or []]
        run([*ours, *MINIATURE.get(tuple(ours[:2]), ())], file)
    results = (kadid10k / "report" / "results.md").read_text()
    assert "‡" in results, "it has seen most of the set"


@pytest.fixture
def scenes(at_the_place: Path) -> None:
    """synthetic/scenes, which the commands of README have prepared if they ran."""
    assert commands.main(["data", "prepare", "synthetic"]) == 0


def run_examples(texts: list[str], names: dict[str, Any]) -> str:
    """Runs examples one after the other; returns what they print."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for text in texts:
            exec(text, names)
    return said.getvalue()


def denoise(params: Any, noisy: Any) -> Any:
    """The least that can be trained."""
    return params * noisy


@pytest.fixture
def training_step(pair: Any) -> dict[str, Any]:
    """The names that examples of a loss take for granted."""
    clean, noisy = (2 * image - 1 for image in pair(2, 32, 32))
    step = {"denoise": denoise, "params": 0.9, "noisy": noisy, "clean": clean}
    return {"jax": jax, "spips_jax": spips_jax, **step}


def test_the_examples_of_readme_print_what_it_says(
    training_step: dict[str, Any], scenes: None
) -> None:
    text = PAGES["README.md"]
    score, loss, sets = blocks(text, "python")
    printed = re.findall(r"^prints `(.*?)`", text, re.M)
    names = training_step
    assert run_examples([score], names).strip() == printed[0]
    run_examples([loss], names)
    assert 0 != names["grads"] < np.inf
    assert run_examples([sets], {}).strip() == printed[1]


def test_the_first_page_prints_what_it_says() -> None:
    (example,) = blocks(PAGES["docs/index.md"], "python")
    expected = re.findall(r"print\(.*\)  # (.*)", example)
    assert run_examples([example], {}).split() == expected == ["0.0", "True"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # few cores here
def test_the_examples_of_the_loss_run(training_step: dict[str, Any]) -> None:
    import equinox

    first, module, parted, checked, loader = blocks(PAGES["docs/loss.md"], "python")
    names = training_step
    run_examples([first], names)
    value, slope = jax.value_and_grad(names["loss_fn"])(
        0.9, names["metric"], names["noisy"], names["clean"]
    )
    assert value > 0
    assert slope != 0

    from collections.abc import Callable

    names |= {"eqx": equinox, "Callable": Callable}
    names["conv"] = equinox.nn.Conv2d(3, 3, 1, key=jax.random.key(0))
    run_examples([module], names)
    assert len(jax.tree.leaves(equinox.filter(names["model"], equinox.is_array))) == 2
    names["model"] = names["Denoiser"](names["conv"], names["metric"])
    names["loss"] = lambda model: (model.conv.weight**2).sum()
    run_examples([parted], names)
    assert len(jax.tree.leaves(names["grads"])) == 2, "the metric is not trained"

    # In [0, 1], as this example has it.
    names |= {"noisy": names["noisy"] / 2 + 0.5, "clean": names["clean"] / 2 + 0.5}
    run_examples([checked], names)
    assert np.isfinite(names["grads"])
    names["noisy"] = np.full_like(names["noisy"], np.nan)
    message = re.findall(r'throw\(\)  # "(.*)"', checked)[0]
    with pytest.raises(Exception, match=re.escape(message)):
        run_examples(["\n".join(checked.splitlines()[-2:])], names)

    torch_data = importlib.import_module("torch.utils.data")
    run_examples([loader], {"DataLoader": torch_data.DataLoader, "dataset": [0]})


def test_the_examples_of_other_frameworks_run(pair: Any, at_the_place: Path) -> None:
    import torch

    twin, exported = blocks(PAGES["docs/reproducibility.md"], "python")
    images = pair(2, 64, 80)
    names = dict(zip(("reference", "distorted"), images, strict=True))
    planes = {
        name: torch.from_numpy(x.transpose(0, 3, 1, 2)) for name, x in names.items()
    }
    run_examples([twin], planes)
    expected = spips_jax.load()(*images)
    np.testing.assert_allclose(planes["score"].detach(), expected, rtol=1e-5)
    # The page's file is of the size that it says; this is of these images'.
    commands.main(["export", "spips-lite.stablehlo", "--size", "80x64"])
    run_examples([exported], names)
    # Another program of the same float32 arithmetic.
    np.testing.assert_allclose(names["scores"], expected, rtol=1e-5)


def test_the_example_of_sets_runs(scenes: None) -> None:
    (example,) = blocks(PAGES["docs/data.md"], "python")
    names: dict[str, Any] = {}
    # On a set that needs no download, whose images are smaller.
    there = example.replace("tid2013", "synthetic/scenes").replace("224", "64")
    assert there.count("64") == example.count("224")
    run_examples([there], names)
    assert names["batch"]["distorted"].shape == (32, 64, 64, 3)


def test_the_examples_of_configs_run() -> None:
    from spips_jax import evaluation, training

    (example,) = blocks(PAGES["docs/training.md"], "python")
    config = training.default()
    run_examples([example], {"training": training, "config": config})
    assert config.data.train.mine.crop == 224
    # The other is run by evaluation/test_evaluation_docs.py.
    example, _ = blocks(PAGES["docs/evaluation.md"], "python")
    config = evaluation.default()
    run_examples([example], {"evaluation": evaluation, "config": config})
    assert list(config.models) == ["lpips of (0, 1)"]


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) < 200
