"""KADID-10k: 10,125 pairs of 81 photographs, a fifth of which are held out.

Like configs/tid2013.py, with more steps, so that its more pairs are seen as often. Its
scores compare over all photographs, and so do the losses.

Command, for the third of five folds:

    spips data prepare kadid10k --manual_dir ~/Downloads
    spips train --config kadid10k --workdir=DIR --config.data.fold=3/5

Hardware: not measured: the set was not available
Time: not measured
Result: not measured
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "kadid10k"
    config.num_steps = 10_000
    config.data.train.kadid10k = training.source(
        "kadid10k", {"plcc": 1.0, "rank": 1.0, "l1": 0.1}, part="training"
    )
    config.data.validation.kadid10k = training.held("kadid10k", part="held_out")
    config.optim.learning_rate = 5e-3
    return config
