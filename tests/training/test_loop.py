"""A whole run: trained, validated, logged, kept, exported, loaded; and bad input."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import spips_jax
from spips_jax import agreement, data, model_file, training
from spips_jax.commands import main as spips
from spips_jax.data.builder import PROTOCOL, DataError
from spips_jax.training import config as config_lib
from spips_jax.training import loop, setup, state
from spips_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("narrow_alexnet")

Make = Callable[..., ConfigDict]


def lines_of(workdir: Path, split: str) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if line["split"] == split]


def params_of(workdir: Path, config: ConfigDict) -> dict[str, np.ndarray]:
    """What the last checkpoint holds."""
    model = setup.build_model(config)
    like = setup.build_state(config, model, setup.build_optimizer(config))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.latest(like).state.params


def test_a_run_leaves_a_model_that_loads_and_scores(
    tiny_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config({"model.classical": "psnr,ssim,ms_ssim"})
    config.name = "tiny"
    outcome = training.train(config, tmp_path / "run")
    assert (outcome.step, outcome.stopped_by) == (12, 0)
    assert set(outcome.agreements["scenes"]) == {"srcc", "plcc", "krcc"}

    workdir = tmp_path / "run"
    trained, validated = lines_of(workdir, "train"), lines_of(workdir, "validation")
    assert [line["step"] for line in trained] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in validated] == [6, 12]
    for line in trained:
        terms = sum(
            weight * line[f"scenes/{name}"]
            for name, weight in (("plcc", 1), ("rank", 1), ("l1", 0.1))
        )
        np.testing.assert_allclose(line["loss"], terms, rtol=1e-5)  # float32 sums
    assert trained[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["model"]["width"] == 4
    with Image.open(workdir / "curves.png") as curves:
        assert min(curves.size) > 300

    output = tmp_path / "tiny.safetensors"
    card = training.export(workdir, output)
    page = card.read_text()
    for told in ("spips-alexnet-tiny", "synthetic/scenes", "plcc x 1", "in the file"):
        assert told in page
    metric = spips_jax.load(output)
    assert metric.name == "spips-alexnet-tiny"
    stored = model_file.read_card(output)
    assert stored["packages"]["jax"] == jax.__version__

    # The file holds the average of the best checkpoint, and judges as validation did.
    held_out = data.load("synthetic/scenes", data_dir=config.data.data_dir)
    _, held_out = held_out.fold("1/5")
    scores = [
        float(metric(one["reference"], one["distorted"])) for one in list(held_out)
    ]
    assert np.isfinite(scores).all()
    srcc = agreement.srcc(scores, held_out.index["level"])
    np.testing.assert_allclose(srcc, stored["agreements"]["scenes"]["srcc"], atol=1e-6)

    example = held_out[0]
    for name in ("reference", "distorted"):
        Image.fromarray(example[name]).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in ("reference", "distorted")]
    assert spips(["score", *files, "--model", str(output), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(row["score"], scores[0], rtol=1e-5)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs: 10 versions each of 5 references, whose scores differ between them."""
    root = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    lines = ["reference,distorted,mos"]
    for number in range(5):
        reference = rng.integers(64, 192, (40, 40, 3))
        Image.fromarray(reference.astype(np.uint8)).save(root / f"r{number}.png")
        for version in range(10):
            noise = rng.normal(scale=2 + 6 * version, size=reference.shape)
            pixels = np.clip(reference + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"d{number}_{version}.png")
            lines.append(
                f"r{number}.png,d{number}_{version}.png,{100 * number - version}"
            )
    (root / "list.csv").write_text("\n".join(lines))
    data.prepare("pair_list", data_dir=root, csv_file=root / "list.csv", config="l")
    return root


@pytest.fixture
def scored_config(
    tiny_config: Make, scored: Path, tmp_path: Path
) -> Callable[..., ConfigDict]:
    """Makes a config on a copy of `scored` that says over what scores compare."""

    def make(comparable: str, **options: object) -> ConfigDict:
        root = shutil.copytree(scored, tmp_path / comparable)
        (protocol,) = root.rglob(PROTOCOL)
        protocol.write_text(json.dumps({"comparable": comparable}))
        config = tiny_config({"data.data_dir": str(root)})
        losses = {"plcc": 1.0, "rank": 1.0, "l1": 0.1}
        config.data.train = {
            "list": training.source("pair_list/l", losses, part="training", **options)
        }
        config.data.validation = {"list": training.held("pair_list/l", part="held_out")}
        return config

    return make


@pytest.mark.parametrize("crop", [0, 32], ids=["pooled", "images"])
def test_a_run_compares_within_references(
    scored_config: Callable[..., ConfigDict], tmp_path: Path, crop: int
) -> None:
    """Scores differ by 400 between references, which say nothing, by 9 within one."""
    config = scored_config("reference", grouped=True, unit=4, crop=crop)
    workdir = tmp_path / "run"
    outcome = training.train(config, workdir)
    assert outcome.step == 12
    # How much noise there is, is easy to see, and which reference it is on is not: over
    # the set the loss remains at 1.
    assert lines_of(workdir, "train")[-1]["list/plcc"] < 0.1
    page = training.export(workdir, tmp_path / "m.safetensors").read_text()
    assert "| training | pair_list/l | 40 | 4 | within one reference only |" in page
    stored = model_file.read_card(tmp_path / "m.safetensors")
    assert stored["data"]["training"]["list"]["comparable"] == "reference"

    config.data.train.list.unit = 16
    with pytest.raises(DataError, match="has 10 examples, a group takes 16"):
        training.train(config, tmp_path / "large")


@pytest.mark.parametrize(("comparable", "best"), [("reference", 12), ("set", 6)])
def test_the_best_checkpoint_is_that_of_what_compares(
    scored_config: Callable[..., ConfigDict],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    comparable: str,
    best: int,
) -> None:
    """Over the set the first validation is better, within references the second."""
    found = iter([{"srcc": 0.9, "srcc_within": 0.2}, {"srcc": 0.1, "srcc_within": 0.8}])
    monkeypatch.setattr(loop, "agreements_of", lambda *_: next(found))
    training.train(scored_config(comparable), tmp_path / "run")
    training.export(tmp_path / "run", tmp_path / "m.safetensors")
    assert model_file.read_card(tmp_path / "m.safetensors")["step"] == best


def test_pooled_features_train_as_images_do(tiny_config: Make, tmp_path: Path) -> None:
    """What is cached is what the network would make of the images at each step."""
    for cache in (True, False):
        config = tiny_config({"data.cache": cache, "num_steps": 6})
        training.train(config, tmp_path / str(cache))
    pooled, imaged = (params_of(tmp_path / name, config) for name in ("True", "False"))
    for path, value in pooled.items():
        # Two programs that add in another order, six steps of Adam. Nothing changed in
        # the whole of these images: what the gain learns from them is rounding, which
        # Adam divides by its own size.
        atol = 1e-4 if path.startswith("gain/") else 2e-5
        np.testing.assert_allclose(value, imaged[path], atol=atol, err_msg=path)


def test_a_run_that_is_done_is_left_as_it_is(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config({"num_steps": 4})
    first = training.train(config, tmp_path)
    before = params_of(tmp_path, config)
    again = training.train(config, tmp_path)
    assert again == first
    jax.tree.map(np.testing.assert_array_equal, before, params_of(tmp_path, config))


@pytest.mark.parametrize("trainable", ["perceptual", "backbone/conv5,semantic,head"])
def test_only_what_is_named_changes(
    tiny_config: Make, tmp_path: Path, trainable: str
) -> None:
    config = tiny_config({"model.trainable": trainable, "num_steps": 2})
    model = setup.build_model(config)
    training.train(config, tmp_path)
    after = params_of(tmp_path, config)
    assert set(after) == set(model.trained)
    changed = {path for path in after if (after[path] != model.trained[path]).any()}
    for part in trainable.split(","):
        assert any(path.startswith(part) for path in changed)
    training.export(tmp_path, tmp_path / "model.safetensors")
    tensors = spips_jax.load(tmp_path / "model.safetensors").variables["params"]
    flat = state.flatten(tensors)
    for path, value in model.frozen.items():
        np.testing.assert_array_equal(flat[path], value)


def test_bfloat16_is_the_backbones_alone(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config({"model.dtype": "bfloat16", "num_steps": 2})
    training.train(config, tmp_path)
    assert np.isfinite(lines_of(tmp_path, "train")[0]["loss"])
    for path, value in params_of(tmp_path, config).items():
        assert value.dtype == np.float32, path
        assert np.isfinite(value).all(), path


def test_a_loss_that_is_not_finite_stops_and_names_all(
    tiny_config: Make, tmp_path: Path
) -> None:
    config = tiny_config(
        {"optim.schedule": "constant", "optim.clip": 0.0, "num_steps": 8}
    )
    training.train(config, tmp_path)
    with config.unlocked():
        config.num_steps = 12
    # A checkpoint's average stays; one parameter of the next step's is not a number.
    original = setup.build_schedule
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "build_schedule", lambda c: lambda step: np.float32("nan"))
        with pytest.raises(training.TrainingError) as caught:
            training.train(config, tmp_path)
    assert setup.build_schedule is original
    message = str(caught.value)
    assert "\n" not in message
    found = re.search(r"step (\d+): the loss is not finite .* on 8 examples", message)
    assert found
    assert int(found[1]) == 10  # step 9 makes the parameters, step 10 sees them
    assert "last good checkpoint: step 8 in" in message
    dataset = data.load("synthetic/scenes", data_dir=config.data.data_dir)
    named = re.search(r"examples of scenes: (.*?); last", message)[1].split(", ")
    assert len(named) == 8
    assert set(named) <= set(dataset.index["id"])


BAD = {
    "num_steps": (0, "num_steps is 0: it must be above 0"),
    "optim.clip": (-1.0, "optim.clip is -1.0: it must be 0 or more"),
    "optim.average": (1.0, "optim.average is 1.0: a decay must be below 1"),
    "optim.warmup_steps": (99, "warmup_steps and hold_steps are 99 together.*only 12"),
    "optim.schedule": ("step", "optim.schedule is 'step', which is not one of cosine"),
    "model.name": ("spips-resnet", "model.name is 'spips-resnet', which is not one of"),
    "model.dtype": ("float16", "model.dtype is 'float16', which is not one of float32"),
    "model.trainable": ("heads", "model.trainable has 'heads', which no parameter's"),
    "batch_size": (9, "batch_size is 9, which 2 devices cannot share.* make it 10"),
    "validate.batch_size": (5, "validate.batch_size is 5, which 2 devices cannot sha"),
    "model.head": ("convex", "model.head is 'convex', which is not one of monotone"),
    "model.streams": (
        "semantic,perceptual",
        "model.streams is 'semantic,perceptual': name some of perceptual,semantic",
    ),
    "model.statistics": ("", "model.statistics is '': name some of squares,texture"),
    "distributed": ("maybe", "distributed is 'maybe', which is not one of auto"),
    "data.fold": ("6/5", "fold is '6/5'"),
    "data.exclude_references": ("kodim99", "exclude_references names kodim99, which"),
    "data.train.scenes.set": ("tid2013", "tid2013 is not prepared in .*: run spips"),
    "data.train.scenes.crop": (64, "crop 64 is larger than the smallest side of its"),
    "data.train.scenes.scale": (0.0, "data.train.scenes.scale is 0.0: it must be abov"),
    "data.train.scenes.part": ("half", "data.train.scenes.part is 'half': all or tra"),
    "data.train.scenes.weight": (0.0, "weight 0: it must be above 0"),
    "data.validation.scenes.part": ("training", "part is 'training': all or held_out"),
}


@pytest.mark.parametrize("field", BAD)
def test_bad_values_are_one_line_before_any_work(
    tiny_config: Make, tmp_path: Path, field: str
) -> None:
    value, message = BAD[field]
    config = tiny_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message) as caught:
        training.train(config, tmp_path / "run")
    assert isinstance(caught.value, training.TrainingError | data.DataError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "losses is {}: give one loss at least"),
        ({"plcc": 0.0}, "each with a weight above 0"),
        (
            {"ranker": 1.0},
            "'ranker' does not suit synthetic/scenes: sets of kind ranks are",
        ),
    ],
)
def test_losses_that_do_not_suit_a_set_are_refused(
    tiny_config: Make, tmp_path: Path, losses: dict, message: str
) -> None:
    config = tiny_config()
    config.data.train.scenes.losses = ConfigDict(losses)
    with pytest.raises(training.TrainingError, match=message):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_missing_are_one_line(
    tiny_config: Make, tmp_path: Path
) -> None:
    config = tiny_config({"model.weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(spips_jax.WeightsError, match="no such file; get it with"):
        training.train(config, tmp_path / "run")


def test_a_workdir_that_cannot_be_written_is_one_line(
    tiny_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(training.TrainingError, match=r"cannot be written.*workdir"):
        training.train(tiny_config(), tmp_path / "file" / "run")


def test_another_run_in_a_workdir_is_refused(tiny_config: Make, tmp_path: Path) -> None:
    training.train(tiny_config({"num_steps": 4}), tmp_path)
    before = params_of(tmp_path, tiny_config())
    for field, value in {
        "model.width": 8,
        "model.trainable": "head",
        "optim.learning_rate": 0.1,
        "data.fold": "2/5",
        "data.train.scenes.scale": 0.1,
        "seed": 1,
    }.items():
        saved = config_lib.flat(tiny_config())[field]
        message = (
            f"was trained with {field} {saved!r}, this config has {value!r}: resume"
        )
        with pytest.raises(training.TrainingError, match=re.escape(message)):
            training.train(tiny_config({field: value}), tmp_path)
    longer = training.train(tiny_config({"num_steps": 6, "log.every": 3}), tmp_path)
    assert longer.step == 6
    assert before.keys() == params_of(tmp_path, tiny_config()).keys()


def test_exports_of_nothing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(training.TrainingError, match="no checkpoint to export: train"):
        training.export(tmp_path, tmp_path / "model.safetensors")
    with pytest.raises(training.TrainingError, match=r"is named \*.safetensors"):
        training.export(tmp_path, tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=run"], "--config is missing"),
        (["--workdir=run", "exprot"], "'exprot' is no command"),
        (["export", "--workdir=run"], "--output is missing"),
        (
            ["--workdir=run", "--config=quickstart", "--config.optim.lr=1"],
            "no field 'lr'",
        ),
        (["--workdir=run", "--config=none.py"], "none.py"),
    ],
)
def test_wrong_calls_of_the_command_are_one_line(
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = call("train", *words)
    assert code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", errors), errors
    assert not list(tmp_path.iterdir())


def test_no_warnings_are_left_to_the_user(tiny_config: Make, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.train(tiny_config({"num_steps": 2}), tmp_path)


def test_images_of_several_sizes_are_pooled(tmp_path: Path, tiny_config: Make) -> None:
    """As LIVE's are; without the cache they make no batch unless they are cropped."""
    rng = np.random.default_rng(0)
    lines = ["reference,distorted,mos"]
    for number in range(12):
        shape = (40, 48, 3) if number % 2 else (48, 40, 3)
        for name in ("r", "d"):
            pixels = rng.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        lines.append(f"r{number}.png,d{number}.png,{number}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    root = tmp_path / "data"
    data.prepare("pair_list", data_dir=root, csv_file=tmp_path / "list.csv", config="l")
    config = tiny_config({"num_steps": 2, "batch_size": 4})
    config.data.data_dir = str(root)
    config.data.train = {"list": training.source("pair_list/l", {"plcc": 1.0})}
    config.data.validation = {"list": training.held("pair_list/l")}
    assert training.train(config, tmp_path / "run").step == 2
    config.data.cache = False
    with pytest.raises(data.DataError, match="make no batch: give a crop"):
        training.train(config, tmp_path / "other")
