"""The public surface: names, keyword-only options, and what docstrings must say."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import spips_jax

SURFACE = {
    "spips_jax": (
        "MODELS", "NAMES", "AnySize", "Calibration", "Comparison", "Features",
        "ImageError", "MeanScore", "Metric", "WeightsError", "agreement", "as_image",
        "baselines", "classical", "export", "load", "losses", "perceptual_loss",
        "read_image",
    ),
    "spips_jax.agreement": (
        "OPINIONS", "AgreementError", "Interval", "Logistic", "Opinion", "Within",
        "bootstrap", "bootstrap_difference", "bootstrap_draws", "difference",
        "fit_logistic", "fit_preference", "interval", "jnd_map", "krcc", "orient",
        "outlier_ratio", "plcc", "rmse", "spread_ratio", "srcc", "two_afc",
        "two_afc_human", "within_references",
    ),
    "spips_jax.data": (
        "BUILDERS", "Batches", "Card", "DataError", "Dataset", "Source", "eval_batches",
        "load", "open_folder", "prepare", "train_batches",
    ),
    "spips_jax.evaluation": (
        "Evaluation", "EvaluationError", "calibrate", "dataset", "default", "evaluate",
        "model",
    ),
    "spips_jax.training": (
        "CheckpointError", "Outcome", "TrainingError", "default", "export", "held",
        "source", "train",
    ),
}  # fmt: skip

POSITIONAL = {
    ("spips_jax.loading", "load", "name"),  # load("spips-lite")
    ("spips_jax.commands", "main", "argv"),
    ("spips_jax.commands.configs", "folder", "kind"),
    ("spips_jax.commands.configs", "find", "kind"),
    ("spips_jax.weights", "read_network", "path"),
    ("spips_jax.data.sets", "prepared", "data_dir"),
}
"""Options that may be given by position."""


def modules() -> Iterator[str]:
    yield "spips_jax"
    for found in pkgutil.walk_packages(spips_jax.__path__, "spips_jax."):
        if not found.name.endswith("__main__") and ".configs" not in found.name:
            yield found.name


def functions() -> Iterator[Callable]:
    """Every public function and method of the package."""
    for name in modules():
        module = importlib.import_module(name)
        for public, value in vars(module).items():
            if public.startswith("_") or getattr(value, "__module__", "") != name:
                continue
            if inspect.isfunction(value):
                yield value
            elif inspect.isclass(value):
                for member, method in vars(value).items():
                    ours = getattr(method, "__module__", "") == name
                    if inspect.isfunction(method) and ours and member[0] != "_":
                        yield method


FUNCTIONS = {f"{f.__module__}.{f.__qualname__}": f for f in functions()}
each = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.mark.parametrize("name", SURFACE)
def test_the_public_names_are_these(name):
    module = importlib.import_module(name)
    assert tuple(module.__all__) == SURFACE[name]
    for public in SURFACE[name]:
        assert getattr(module, public) is not None
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = module.nothing_of_this_name


def test_modules_of_the_package_are_there_after_its_import():
    for name in ("agreement", "baselines", "classical", "export", "losses"):
        assert inspect.ismodule(getattr(spips_jax, name))
    assert set(spips_jax.__all__) <= set(dir(spips_jax))


def written(name: str) -> ast.FunctionDef:
    """The function as it stands in its file."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(FUNCTIONS[name])))
    return next(
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)
    )


@each
def test_options_are_keyword_only(name):
    function = FUNCTIONS[name]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            continue
        where = (function.__module__, function.__qualname__, parameter.name)
        assert parameter.kind == parameter.KEYWORD_ONLY or where in POSITIONAL, where


@each
def test_docstrings_say_what_there_is(name):
    """A line, all arguments or none, and every error that is raised."""
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function) or ""
    method = "." in function.__qualname__
    if not doc and method:
        return  # of a base class or a protocol
    assert doc, "a public function has a docstring"
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    listed = re.search(r"^Args:\n((?:  .*\n?|\n)+)", doc, re.M)
    if listed:
        named = re.findall(r"^  \*{0,2}(\w+):", listed[1], re.M)
        assert named == [p for p in parameters if p != "cls"]
    packages = function.__module__.split(".")
    above = [".".join(packages[:k]) for k in range(1, len(packages) + 1)]
    module = " ".join(importlib.import_module(one).__doc__ or "" for one in above)
    for node in ast.walk(written(name)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            error = getattr(node.exc.func, "id", "")
            if error.endswith("Error") and error not in ("RuntimeError",):
                bases = [error, "ValueError", "OSError"]
                assert any(one in doc or one in module for one in bases), error


@pytest.mark.parametrize(
    "module", ["agreement.statistics", "agreement.fits", "agreement.bootstrap",
               "classical", "classical.filters", "classical.structural",
               "classical.information", "classical.phase", "classical.saliency",
               "classical.gradients", "classical.wavelets", "classical.linear",
               "classical.sheets", "losses", "facts", "loss",
               "streams"]
)  # fmt: skip
def test_functions_of_arrays_say_shapes_ranges_and_sources(module):
    module = importlib.import_module(f"spips_jax.{module}")
    package = importlib.import_module(module.__name__.rpartition(".")[0]).__doc__ or ""
    above = f"{module.__doc__} {package if package != spips_jax.__doc__ else ''}"
    for name, function in vars(module).items():
        if not inspect.isfunction(function) or name.startswith("_"):
            continue
        if function.__module__ != module.__name__:
            continue
        doc = f"{inspect.getdoc(function)} {above}"
        assert re.search(r"`\((N,|\.\.\., )|\(N,\)", doc), f"{name}: no shape"
        told = r"\[-?\d|\[lowest|in dB|0 or more|nats|units|(high|larg|low|small)er"
        assert re.search(told, doc), f"{name}: no range, unit or direction"


def test_no_import_runs_upward():
    """The layers of CONTRIBUTING.md, lowest first; a module imports those below it."""
    layers = [
        {"messages", "digests", "plain"},
        {"files", "process", "fields"},
        {"images", "winograd", "progress", "cache", "outputs", "boxes"},
        {"bit_depth", "classical", "backbones"},
        {"image_files", "facts", "streams", "packing"},
        {"inputs", "heatmaps"},
        {"head"},
        {"spips"},
        {"baselines"},
        {"weights", "agreement", "losses"},
        {"calibration", "kinds"},
        {"model_file"},
        {"metric", "parallel"},
        {"loading", "any_size", "loss", "export", "provenance", "average"},
        {"data"},
        {"evaluation"},
        {"training"},
        {"commands"},
    ]
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    root = Path(spips_jax.__file__).parent
    for file in root.rglob("*.py"):
        part = file.relative_to(root).with_suffix("").parts[0]
        if part.startswith("__") or file.stem == "__main__":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            found = []
            if isinstance(node, ast.ImportFrom) and node.module == "spips_jax":
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                words = node.module.split(".")
                found = words[1:2] if words[0] == "spips_jax" else []
            for name in found:
                if name != part and not name.startswith("__"):
                    assert level[name] < level[part], f"{file}: imports {name}"
