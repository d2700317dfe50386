"""`spips train`: trains a SPIPS model, and exports trained models to files."""

from __future__ import annotations

import argparse
from typing import Any

from spips_jax.messages import UserError

_EPILOG = """\
examples:
  spips train --config quickstart --workdir runs/quickstart
  spips train --config tid2013 --workdir runs/fold2 --config.data.fold=2/5
  spips train export --workdir runs/quickstart --output model.safetensors

The same command resumes an interrupted run. --config.FIELD=VALUE overrides a field of
the config; docs/training.md lists them.

exit codes: 0 the run is done; 2 an error, in one line; 143 and 130 SIGTERM or Ctrl-C
stopped the run, after it was saved
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "train",
        help="train a model, or export a trained one",
        description="Train a SPIPS model, or export the best model of a run to a file.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "action",
        nargs="?",
        metavar="export",
        help="write the best model of the run to --output, with its card beside it",
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="what to train: the name of a config, such as quickstart, or a .py file",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="folder of checkpoints and logs, local or gs://",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="export: the .safetensors file to write"
    )
    parser.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.action not in (None, "export"):
        raise UserError(f"{args.action!r} is no command: export, or none to train")
    if args.workdir is None:
        raise UserError("--workdir is missing: name a folder for the run")
    if args.action and args.output is None:
        raise UserError("--output is missing: name a .safetensors file")
    if not args.action and args.config is None:
        raise UserError("--config is missing: name a config, such as quickstart")
    from absl import logging

    from spips_jax import training
    from spips_jax.commands import configs

    logging.set_verbosity(logging.WARNING)  # TFDS logs every set it opens
    if args.action:
        card = training.export(args.workdir, args.output)
        print(f"{args.output}\n{card}")
        return 0
    config = configs.read(args.config, args.overrides, fields="docs/training.md")
    try:
        outcome = training.train(config, args.workdir)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command resumes it") from None
    return 128 + outcome.stopped_by if outcome.stopped_by else 0
