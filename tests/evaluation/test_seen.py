"""What a model has seen in training is marked, by its card, whoever wrote that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import spips_jax
from spips_jax import data, evaluation, kinds, loading, model_file, weights
from spips_jax.baselines import BASELINES
from spips_jax.data import sets
from spips_jax.data.dataset import Dataset
from spips_jax.data.splits import KODAK, assign_folds
from spips_jax.evaluation import run
from spips_jax.evaluation.scores import Candidate, Scored
from spips_jax.evaluation.seen import seen
from spips_jax.metric import Metric
from spips_jax.training.setup import NAMED, Sets

pytestmark = pytest.mark.usefixtures("no_figures")

PAIRS = "pair_list/tiny"


def dataset_of(name: str, references: Iterable[str], *, split: str = "full") -> Dataset:
    """Two pairs of each reference, without images."""
    names = np.repeat(list(references), 2)
    count = len(names)
    return Dataset(
        name=name,
        kind=kinds.PAIRS,
        opinion="mos",
        comparable="set",
        index={
            "id": np.array([str(number) for number in range(count)]),
            "reference_id": names,
            "split": np.full(count, split),
            "mos": np.arange(count, dtype=np.float32),
        },
        fingerprint="",
        _source=None,
        _rows=np.arange(count),
        _references=frozenset(names.tolist()),
    )


@pytest.fixture(scope="module")
def plain() -> Metric:
    """A SPIPS model; only its card matters here."""
    return spips_jax.load("spips-lite", trained=False)


def trained(plain: Metric, *sources: dict[str, Any], **config: Any) -> Metric:
    """As a run leaves it: what each set was, and the config that chose it."""
    card = {
        "data": {
            "training": {
                str(number): {"set": one["set"], "references": one.get("count", 0)}
                | ({"reference_ids": one["ids"]} if "ids" in one else {})
                for number, one in enumerate(sources)
            }
        },
        "config": {
            "data": {
                "train": {
                    str(number): {"split": "", "part": "all"}
                    | {key: one[key] for key in ("split", "part") if key in one}
                    for number, one in enumerate(sources)
                },
                "fold": "1/5",
                "exclude_references": "",
                "exclude_shared": "",
                **config,
            }
        },
    }
    return dataclasses.replace(plain, name="mine", card_json=json.dumps(card))


NAMES = [f"r{number}" for number in range(10)]
FOLDS = assign_folds(NAMES, 5)
IN_TRAINING = [name for name in NAMES if FOLDS[name] != 1]
HELD_OUT = [name for name in NAMES if FOLDS[name] == 1]


@pytest.mark.parametrize(
    ("source", "config", "expected"),
    [
        ({"ids": ["r1", "r2"]}, {}, ["r1", "r2"]),
        ({"part": "all"}, {}, NAMES),
        ({"part": "all"}, {"exclude_references": "r3, r4"}, set(NAMES) - {"r3", "r4"}),
        ({"part": "training", "count": len(IN_TRAINING)}, {}, IN_TRAINING),
        ({"part": "all", "split": "full"}, {}, NAMES),
        ({"part": "all", "split": "train+other"}, {}, []),
        ({"ids": NAMES, "split": "train"}, {}, []),
    ],
)
def test_examples_of_the_training_set(
    plain: Metric, source: dict[str, Any], config: dict[str, Any], expected: list[str]
) -> None:
    """By the names in the card, else by its splits, fold and exclusions."""
    dataset = dataset_of("mine", NAMES)
    found = seen(trained(plain, {"set": "mine", **source}, **config), dataset)
    names = dataset.index["reference_id"]
    assert set(names[found.examples].tolist()) == set(expected)
    assert found.sure
    assert not found.scenes.any()
    assert found.trained_on == ("mine",)
    assert found.to_dict()["examples"] == 2 * len(expected)


def test_what_training_held_out_is_unseen(plain: Metric) -> None:
    """A fold, opened as training opened it, keeps all of the set's references."""
    metric = trained(plain, {"set": "mine", "part": "training", "count": 8})
    learned, held_out = dataset_of("mine", NAMES).fold("1/5")
    assert seen(metric, learned).examples.all()
    assert not seen(metric, held_out).examples.any()
    assert set(held_out.references) == set(HELD_OUT)
    # Other references make other folds: then nothing is claimed.
    found = seen(metric, dataset_of("mine", NAMES[:6]))
    assert not found.examples.any()
    assert not found.sure


TID = [f"I{number:02}" for number in range(1, 26)]


@pytest.mark.parametrize(
    ("source", "dataset", "count", "sure"),
    [
        ({"set": "tid2013"}, dataset_of("live", ["bikes", "carnival"]), 2, True),
        ({"set": "tid2013"}, dataset_of("tid2008", TID), 50, True),
        ({"set": "tid2013"}, dataset_of("csiq", ["1600", "boston"]), 0, True),
        ({"set": "tid2013"}, dataset_of("synthetic/k", ["kodim05#0-1"]), 2, True),
        ({"set": "tid2013", "ids": ["I05"]}, dataset_of("live", ["bikes"]), 2, True),
        ({"set": "tid2013", "ids": ["I06"]}, dataset_of("live", ["bikes"]), 0, True),
        ({"set": "synthetic/k", "ids": ["kodim05#2-2"]},
         dataset_of("tid2013", ["I05", "I06"]), 2, True),
        # Which photographs an own set had, an older file does not tell.
        ({"set": "pair_list/x"}, dataset_of("live", ["bikes"]), 0, False),
        ({"set": "pair_list/x"}, dataset_of("live", ["carnival"]), 0, True),
    ],
)  # fmt: skip
def test_photographs_that_it_has_seen_in_another_set(
    plain: Metric, source: dict[str, Any], dataset: Dataset, count: int, sure: bool
) -> None:
    found = seen(trained(plain, source), dataset)
    assert (found.scenes.sum(), found.examples.sum()) == (count, 0)
    assert found.sure is sure


def test_a_fold_of_kodaks_photographs_is_the_same_in_every_set(plain: Metric) -> None:
    metric = trained(plain, {"set": "tid2013", "part": "training", "count": 19})
    folds = assign_folds(KODAK, 5)
    dataset = dataset_of("synthetic/k", sorted(KODAK))
    found = seen(metric, dataset)
    for name, scene in zip(dataset.index["reference_id"], found.scenes, strict=True):
        assert scene == (folds[name] != 1)


@pytest.mark.parametrize("name", [n for n in loading.MODELS if weights.embedded(n)])
def test_the_models_of_the_package(plain: Metric, name: str) -> None:
    """Their cards name Kodak's photographs; TID2013's drawing I25 was not learned."""
    card = model_file.read_card(weights.embedded(name))
    metric = dataclasses.replace(plain, name=name, card_json=json.dumps(card))
    for dataset, examples, scenes in (
        (dataset_of("tid2013", TID), 48, 0),
        (dataset_of("pair_list/live", ["images/bikes", "images/caps"]), 4, 0),
        (dataset_of("live", ["bikes", "carnival"]), 0, 2),
        (dataset_of("kadid10k", ["I01"]), 0, 0),
    ):
        found = seen(metric, dataset)
        assert (found.examples.sum(), found.scenes.sum()) == (examples, scenes)
        assert found.sure


def test_what_learned_nothing_and_what_does_not_tell(plain: Metric) -> None:
    dataset = dataset_of("mine", NAMES)
    assert seen(plain, dataset) is None  # a uniform head
    assert seen(spips_jax.load("psnr"), dataset) is None
    for card in ("", "{}", '{"data": {"training": {"x": {"set": "mine"}}}}'):
        own = dataclasses.replace(plain, name="own", card_json=card)
        found = seen(own, dataset)
        assert found.to_dict() == {
            "trained_on": None, "examples": None, "scenes": None, "sure": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dataset", "count"),
    [
        ("lpips-alexnet", dataset_of("bapps", ["a"], split="train_cnn"), 2),
        ("lpips-alexnet", dataset_of("bapps", ["a"], split="val_cnn"), 0),
        ("lpips-alexnet", dataset_of("tid2013", TID), 0),
        ("dists", dataset_of("kadid10k", ["I01"]), 2),
    ],
)
def test_baselines_that_learned_from_opinions(
    name: str, dataset: Dataset, count: int
) -> None:
    metric = Metric(variables={}, module=BASELINES[name].module, name=name)
    assert seen(metric, dataset).examples.sum() == count
    for one in BASELINES.values():
        for learned, splits in one.head.learned_from if one.head else ():
            builder = data.BUILDERS[learned]
            known = {f"{a}_{b}" for a, b in getattr(builder, "SUBSETS", ())}
            assert set(splits) <= known


def test_a_run_names_its_references() -> None:
    """Unless there are very many, as of patches that are each their own."""
    for count, named in ((3, True), (NAMED + 1, False)):
        dataset = dataset_of("mine", [f"r{number}" for number in range(count)])
        card = Sets({}, {}, {"held": dataset}).card()["validation"]["held"]
        assert card["references"] == count
        assert card.get("reference_ids") == (
            list(dataset.references) if named else None
        )


def made_up(candidate: Candidate, dataset: Dataset, **options: Any) -> Scored:
    """Distances that fall with opinions, more or less; nothing is computed."""
    mos = np.asarray(dataset.index["mos"], np.float32)
    off = np.random.default_rng(len(candidate.label)).random(100)
    places = [int(one.strip("r.png").replace("-", "")) for one in dataset.index["id"]]
    values = 9 - mos + off[places].astype(np.float32)
    if candidate.metric.higher_is_better:
        values = 20 - values
    return Scored(values[:, None], candidate.card, {})


@pytest.fixture
def own(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Metric], ConfigDict]:
    """Makes a config of a model that is saved to a file, and of PSNR."""
    monkeypatch.setattr(run, "scores_of", made_up)

    def make(metric: Metric) -> ConfigDict:
        path = tmp_path / "mine.safetensors"
        metric.save(path)
        made = config(models=(), samples=20)
        made.models["mine"] = evaluation.model(str(path))
        made.models["psnr"] = evaluation.model("psnr")
        return made

    return make


def section(folder: Path) -> str:
    return (folder / "results.md").read_text().split(f"## {PAIRS}\n")[1]


def test_the_report_marks_what_was_seen(
    own: Callable[[Metric], ConfigDict], plain: Metric, tmp_path: Path
) -> None:
    """In every table where the model is named; and the rest has numbers of its own."""
    made = own(trained(plain, {"set": PAIRS, "ids": ["r0", "r2"]}))
    done = evaluation.evaluate(made, tmp_path / "out")
    one = json.loads((tmp_path / "out" / "results.json").read_text())["sets"][PAIRS]
    assert one["seen"] == {
        "mine": {"trained_on": [PAIRS], "examples": 14, "scenes": 0, "sure": True}
    }
    text = section(tmp_path / "out")
    assert "| mine ‡ | lower |" in text
    assert "| mine ‡ - psnr |" in text
    assert "| distortion | examples | mine ‡ | psnr |" in text
    assert (
        f"- ‡ mine (trained on {PAIRS}): 14 of these 21 examples are of references of"
        " this set that it was trained on" in text
    )
    assert "‡ psnr" not in text
    # What remains, computed as a set of its own.
    rest = made.copy_and_resolve_references()
    rest.data[PAIRS].exclude_references = "r0,r2"
    alone = evaluation.evaluate(rest, tmp_path / "rest").results["sets"][PAIRS]
    assert one["unseen"]["examples"] == alone["examples"] == 7
    for label in ("mine", "psnr"):
        found, expected = (x["models"][label]["srcc"] for x in (one["unseen"], alone))
        assert found == expected
    assert alone["seen"]["mine"]["examples"] == 0
    assert "‡" not in section(tmp_path / "rest")
    assert "On the 7 examples, of 1 references, that no metric here has seen" in text
    assert not done.errors


def test_a_calibration_is_told_by_the_cards(
    own: Callable[[Metric], ConfigDict], plain: Metric, tmp_path: Path
) -> None:
    """That in the file, and the page beside it, whatever else is on that."""
    metric = trained(plain, {"set": PAIRS, "ids": ["r0", "r2"]})
    made = own(metric)
    del made.models.psnr
    path = tmp_path / "mine.safetensors"
    page = path.with_suffix(".md")
    head = "# mine\n\nA SPIPS model (arXiv 2504.17234).\n"
    page.write_text(f"{head}\n## What a score means\n\nold\n\n## More\n\nkept\n")
    fitted = evaluation.calibrate(made, tmp_path / "out")
    for _ in range(2):  # again: replaced, not added
        text = page.read_text()
        assert text.startswith(head)
        assert text.endswith("\n## More\n\nkept\n")
        assert text.count("## What a score means") == 1
        assert "old" not in text
        assert f"fitted to 21 examples of {PAIRS}, RMSE {fitted.rmse:.3g}" in text
        assert "The model has seen 14 of them" in text
        for words, low, _ in fitted.legend():
            assert f"| {low:.3f} " in text
            assert words in text
        evaluation.calibrate(made, tmp_path / "out")
    loaded = spips_jax.load(path)
    for card in (loaded.card, model_file.read_card(path)):
        assert card["calibration"] == fitted.to_dict()
        assert card["data"] == metric.card["data"]
    jax.tree.map(np.testing.assert_array_equal, plain.variables, loaded.variables)
    # A page that is none of ours stays, and a missing one is not made.
    for text in ("my notes", None):
        page.unlink()
        if text:
            page.write_text(text)
        assert model_file.note_calibration(path, fitted, seen=0) is None
        assert page.exists() == bool(text)
        page.write_text("x")


@pytest.mark.parametrize(
    ("name", "split", "published"),
    [
        ("tid2013", "", 3000),
        ("tid2013", "full", 3000),
        ("bapps", "val_cnn+val_color", 9440),
        ("bapps", "", 36_344),
        ("bapps", "train_cnn", None),  # of which no number is published
        ("pair_list/tiny", "", None),
    ],
)
def test_what_a_set_has_as_published(name: str, split: str, published: int) -> None:
    whole = "val_cnn" if name == "bapps" else "full"
    there = dataset_of(name, NAMES, split=whole).index["split"]
    assert sets._published(name, split, there) == published


def test_a_part_of_a_set_says_so(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 choices of BAPPS's 36,344, in the heading and beside what others published."""
    choices = np.random.default_rng(0).random((12, 2), np.float32)
    monkeypatch.setattr(
        run, "scores_of", lambda one, *_, **__: Scored(choices, one.card, {})
    )
    done = evaluation.evaluate(config(("psnr",), ("bapps",)), tmp_path)
    one = done.results["sets"]["bapps"]
    assert (one["examples"], one["selected"], one["published"]) == (12, 12, 36_344)
    text = (tmp_path / "results.md").read_text()
    assert "\n12 of 36,344 examples, 12 references; judgement" in text
    assert "**not measured here**, where there are 12 of 36,344 examples:" in text
