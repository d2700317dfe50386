"""Trains a SPIPS model, and writes trained models to files.

    python train.py --config=configs/tid2013.py --workdir=DIR
    python train.py --config=configs/tid2013.py --workdir=DIR --config.num_steps=500
    python train.py export --workdir=DIR --output=model.safetensors

The same command goes on where a run was stopped. Exit codes: 0 when the run is done; 2
for an error, which is one line on stderr; 143 and 130 when SIGTERM or Ctrl-C stopped
the run, after it was saved.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from spips_jax import training
from spips_jax.data import DataError
from spips_jax.weights import WeightsError

EXIT_ERROR = 2

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to train, a file of configs/; fields follow as --config.FIELD.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; local or gs://."
)
_OUTPUT = flags.DEFINE_string("output", None, "export: the .safetensors file to write.")


def main(argv: Sequence[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every set it opens
    warnings.showwarning = _warn
    try:
        return _run(argv[1:])
    except (training.TrainingError, training.CheckpointError) as error:
        return _failed(error)
    except (DataError, WeightsError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _run(words: Sequence[str]) -> int:
    if _WORKDIR.value is None:
        raise training.TrainingError("--workdir is missing: name a folder for the run")
    if list(words) == ["export"]:
        if _OUTPUT.value is None:
            raise training.TrainingError(
                "--output is missing: name a .safetensors file"
            )
        card = training.export(_WORKDIR.value, _OUTPUT.value)
        print(f"{_OUTPUT.value}\n{card}")
        return 0
    if words:
        raise training.TrainingError(
            f"{' '.join(words)!r} is no command: export, or none to train"
        )
    if _CONFIG.value is None:
        raise training.TrainingError("--config is missing: name a file of configs/")
    outcome = training.train(_CONFIG.value, _WORKDIR.value)
    if outcome.stopped_by:
        return 128 + outcome.stopped_by
    return 0


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _failed(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_ERROR


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses absl's flags; an error is one line."""
    try:
        return flags.FLAGS(list(argv))
    except (KeyError, AttributeError) as error:  # an override of a field that is none
        given = " ".join(word for word in argv if word.startswith("--config"))
        name = str(error).strip("\"'")
        message = f"no field {name!r} in {given}; docs/training.md lists them all"
        sys.exit(_failed(ValueError(message)))
    except Exception as error:  # a config is a program and may raise anything
        sys.exit(_failed(error))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
