"""Trains a SPIPS model, and writes trained models to files.

    python train.py --config=configs/tid2013.py --workdir=DIR
    python train.py --config=configs/tid2013.py --workdir=DIR --config.num_steps=500
    python train.py export --workdir=DIR --output=model.safetensors

The same command goes on where a run was stopped. Exit codes: 0 when the run is done; 2
for an error, which is one line on stderr; 143 and 130 when SIGTERM or Ctrl-C stopped
the run, after it was saved.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from spips_jax import training
from spips_jax.entry import run_script

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to train, a file of configs/; fields follow as --config.FIELD.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; local or gs://."
)
_OUTPUT = flags.DEFINE_string("output", None, "export: the .safetensors file to write.")


def run(words: Sequence[str]) -> int:
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


if __name__ == "__main__":
    run_script(
        run,
        errors=(training.TrainingError, training.CheckpointError),
        fields="docs/training.md",
    )
