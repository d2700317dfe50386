"""`spips evaluate`: how well metrics agree with people, and calibration."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spips_jax.messages import UserError

_EPILOG = """\
examples:
  spips evaluate --model spips-lite --model psnr --data tid2013 --output report
  spips evaluate --model model.safetensors --data bapps:val_cnn --output report
  spips evaluate --config tid2013 --output report
  spips evaluate calibrate --model model.safetensors --data kadid10k --output report

The report is results.md, results.json and scores.csv in the output folder, with
figures. The same command resumes an interrupted evaluation. `calibrate` puts into a
trained model's file what people would say of its scores, which `spips score` then
prints. --config.FIELD=VALUE overrides a field; docs/evaluation.md lists them.

exit codes: 0 all numbers are there; 2 an error, or examples that could not be scored,
each in one line; 130 Ctrl-C
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate metrics on sets of human judgements",
        description="Evaluate metrics on sets of human judgements and write a report,"
        " or calibrate a model.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "action",
        nargs="?",
        metavar="calibrate",
        help="fit opinions to the scores of one model, and put them into its file",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a metric: a name that `spips models` lists, or a trained model's"
        " .safetensors file; may be given many times. The report looks closest at the"
        " first",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SET",
        help="a prepared set: a name that `spips data list` lists, with :SPLIT+SPLIT"
        " for a part of it; may be given many times",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder of the report and the scores"
    )
    parser.add_argument(
        "--config",
        default="default",
        metavar="NAME",
        help="what to evaluate: the name of a config of configs/eval, or a .py file",
    )
    parser.add_argument(
        "--scale",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="calibrate: the lowest and the highest opinion, where the set does not"
        " state its scale, as a pair list (default: the range of its opinions)",
    )
    parser.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.action not in (None, "calibrate"):
        raise UserError(
            f"{args.action!r} is no command: calibrate, or none to evaluate"
        )
    if args.output is None:
        raise UserError("--output is missing: name a folder for the report")
    from absl import logging

    from spips_jax import evaluation
    from spips_jax.commands import configs, failed

    logging.set_verbosity(logging.WARNING)  # TFDS logs every set it opens
    config = configs.read(
        args.config, args.overrides, kind="eval", fields="docs/evaluation.md"
    )
    _add(config.models, [(_label(name), evaluation.model(name)) for name in args.model])
    _add(config.data, map(_dataset, args.data))
    if args.scale and not args.action:
        raise UserError("--scale is of calibrate: leave it out to evaluate")
    if args.action:
        if args.scale:
            config.scale = tuple(args.scale)
        return _calibrate(config, args.output)
    try:
        done = evaluation.evaluate(
            config, args.output, command=shlex.join(["spips", *_words()])
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command resumes it") from None
    if done.files:
        print(done.files[0].read_text(encoding="utf-8"))
        print("\n".join(map(str, done.files)))
    for line in done.errors:
        failed(line)
    return 2 if done.errors else 0


def _words() -> list[str]:
    """The words of this call, for the report."""
    words = sys.argv[1:]
    return words if words[:1] == ["evaluate"] else ["evaluate", *words]


def _calibrate(config: Any, output: str) -> int:
    from spips_jax import evaluation
    from spips_jax.commands import failed

    unscored: list[str] = []
    fitted = evaluation.calibrate(config, output, on_warning=unscored.append)
    for line in unscored:
        failed(line)
    code = 2 if unscored else 0
    if fitted is None:  # another process has it
        return code
    for grade, low, high in fitted.legend():
        print(f"{low:9.4f} to {high:9.4f}  {grade}")
    print(
        f"{fitted.opinion} of {fitted.examples:,} examples of {fitted.dataset},"
        f" RMSE {fitted.rmse:.3g}, put into the model's file and its card"
    )
    return code


def _add(entries: Any, more: Iterable[tuple[str, Any]]) -> None:
    for label, entry in more:
        if label in entries:
            raise UserError(f"{label} is given twice: once is enough")
        with entries.unlocked():
            entries[label] = entry


def _label(model: str) -> str:
    """A trained model's file is called by its name alone, in which no dot may be.

    A model that comes untrained says so, as its metric's name does.
    """
    from spips_jax import loading

    if not loading.comes_trained(model):
        return model + loading.UNTRAINED
    return Path(model).stem.replace(".", "_") if "." in model else model


def _dataset(text: str) -> tuple[str, Any]:
    """A set's label, its one name with the splits but no dot, and its entry."""
    from spips_jax import evaluation
    from spips_jax.data.sets import canonical

    name, colon, split = text.partition(":")
    name = canonical(name)
    label = f"{name}{colon}{split}".replace(".", "_")
    return label, evaluation.dataset(name, split=split)
