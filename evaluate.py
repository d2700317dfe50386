"""Evaluates metrics on sets of human judgements and writes a report.

    python evaluate.py --model spips-lite --model psnr --data tid2013 --output DIR
    python evaluate.py --model model.safetensors --data bapps:val_cnn --output DIR
    python evaluate.py --config configs/eval/tid2013.py --output DIR
    python evaluate.py calibrate --model model.safetensors --data tid2013 --output DIR

The report is DIR/results.md, .json and scores.csv, with figures. The same command goes
on where an evaluation was stopped. `calibrate` puts into a trained model's file what
people would say of its scores, which `spips score` then tells. Exit codes: 0 when all
numbers are there; 2 for an error, which is one line on stderr; 130 when Ctrl-C stopped
it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from spips_jax import evaluation, metric, model_file
from spips_jax.entry import EXIT_ERROR, run_script

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to evaluate, a file of configs/eval/; fields follow as --config.FIELD.",
)
_MODEL = flags.DEFINE_multi_string(
    "model",
    [],
    "A metric, by a name that `spips models` lists or a trained model's .safetensors"
    " file; may be given many times. The first is looked at most closely.",
)
_DATA = flags.DEFINE_multi_string(
    "data",
    [],
    "A prepared set, by a name that `python -m spips_jax.data list` lists, with"
    " :SPLIT+SPLIT if not all of it; may be given many times.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report and the scores.")


def run(words: Sequence[str]) -> int:
    if list(words) not in ([], ["calibrate"]):
        raise evaluation.EvaluationError(
            f"{' '.join(words)!r} is no command: calibrate, or none to evaluate"
        )
    if _OUTPUT.value is None:
        raise evaluation.EvaluationError(
            "--output is missing: name a folder for the report"
        )
    config = _CONFIG.value
    _add(
        config.models, [(_label(name), evaluation.model(name)) for name in _MODEL.value]
    )
    _add(config.data, [(name, _dataset(name)) for name in _DATA.value])
    if words:
        fitted = evaluation.calibrate(config, _OUTPUT.value)
        if fitted is None:  # another process has it
            return 0
        for grade, low, high in fitted.legend():
            print(f"{low:9.4f} to {high:9.4f}  {grade}")
        print(
            f"{fitted.opinion} of {fitted.examples:,} examples of {fitted.dataset},"
            f" RMSE {fitted.rmse:.3g}, put into the model's file"
        )
        return 0
    done = evaluation.evaluate(
        config, _OUTPUT.value, command=shlex.join(["python", *sys.argv])
    )
    if done.files:
        print(done.files[0].read_text(encoding="utf-8"))
        print("\n".join(map(str, done.files)))
    for line in done.errors:
        print(f"error: {line}", file=sys.stderr)
    return EXIT_ERROR if done.errors else 0


def _add(entries: ConfigDict, more: Sequence[tuple[str, ConfigDict]]) -> None:
    for label, entry in more:
        if label in entries:
            raise evaluation.EvaluationError(f"{label} is given twice: once is enough")
        with entries.unlocked():
            entries[label] = entry


def _label(model: str) -> str:
    """A trained model's file is called by its name alone, in which no dot may be.

    A model that comes untrained says so, as its metric's name does.
    """
    if model in metric.MODELS and model_file.embedded(model) is None:
        return f"{model}-untrained"
    return Path(model).stem.replace(".", "_") if "." in model else model


def _dataset(text: str) -> ConfigDict:
    name, _, split = text.partition(":")
    return evaluation.dataset(name, split=split)


if __name__ == "__main__":
    run_script(
        run,
        errors=(evaluation.EvaluationError,),
        fields="docs/evaluation.md",
        config=str(Path(__file__).parent / "configs/eval/default.py"),
        interrupted="interrupted; the same command goes on",
    )
