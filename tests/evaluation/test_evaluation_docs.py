"""docs/evaluation.md names every field, every option, every number; it runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from spips_jax import data, evaluation
from spips_jax.data.sets import BUILDERS
from spips_jax.evaluation.published import SOURCES, published
from spips_jax.evaluation.report import TITLES
from spips_jax.kinds import KINDS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()

ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]*)` \| (\S.*) \|$", re.M)


def table(start: str) -> dict[str, object]:
    """The table of `name` | `value` | meaning that begins so."""
    first = TEXT.index(start)
    section = TEXT[first : (TEXT + "\n\n").index("\n\n", first)]
    found = {name: ast.literal_eval(value) for name, value, _ in ROW.findall(section)}
    assert found
    return found


def test_the_fields_follow_the_code() -> None:
    fields = evaluation.default().to_dict()
    assert table("| field |") == {
        name: value for name, value in fields.items() if name not in ("models", "data")
    }
    for start, one in (
        ("| `model` option |", evaluation.model("x")),
        ("| `dataset` option |", evaluation.dataset("x")),
    ):
        options = one.to_dict()
        del options["name"]
        assert table(start) == options


def test_every_number_is_explained() -> None:
    for name in TITLES:
        assert f"`{name}`" in TEXT, name
    for kind in KINDS.values():
        assert {name for name, _ in kind.statistics} <= TITLES.keys()


def test_the_example_in_python_runs(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    (example,) = re.findall(r"```python\n(from spips_jax import.*?)```", TEXT, re.S)
    monkeypatch.chdir(tmp_path)
    where = f"config.data_dir = {str(sets)!r}\nconfig.samples = 20\nconfig.worst = 0\n"
    exec(example.replace("config.models", f"{where}config.models", 1), {})
    assert (tmp_path / "report" / "results.md").is_file()


def test_published_numbers_are_of_known_sets_and_sources() -> None:
    count = 0
    for name in BUILDERS:
        for row in published(name):
            assert row["source"] in SOURCES
            assert row["statistic"] in TITLES
            assert 0 < row["value"] < 1
            count += 1
    file = Path(evaluation.__file__).parent / "published.csv"
    assert count == len(file.read_text().splitlines()) - 1


@pytest.mark.parametrize("name", ["tid2013", "bapps", "default"])
def test_configs_are_whole(
    name: str, config: Callable[..., ConfigDict], tmp_path: Path
) -> None:
    """They pass every check but that for the sets, which are not here."""
    import importlib.util

    path = Path(__file__).resolve().parents[2] / "configs" / "eval" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.get_config()
    made.data_dir = str(tmp_path)
    error = evaluation.EvaluationError if name == "default" else data.DataError
    with pytest.raises(error, match=r"there are no models|is not prepared"):
        evaluation.evaluate(made, tmp_path / "out")
    assert list(made.models) == list(getattr(module, "MODELS", ()))  # in this order
