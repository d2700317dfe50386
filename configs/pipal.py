"""PIPAL: restoration networks' outputs for 200 photographs, a fifth of these held out.

Only the split published with its scores is used. A score of PIPAL compares images of
one photograph, and so do the losses. A batch is eight images each of eight photographs,
with 224 pairs to compare; 64 random images would have a dozen.

The recipe is else that of configs/tid2013.py, with more steps for more pairs.

Command, for the third of five folds:

    spips data prepare pipal --manual_dir ~/Downloads
    spips train --config pipal --workdir=DIR --config.data.fold=3/5

Hardware: not measured: the set was not available
Time: not measured
Result: not measured
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "pipal"
    config.num_steps = 10_000
    config.data.train.pipal = training.source(
        "pipal",
        {"plcc": 1.0, "rank": 1.0, "l1": 0.1},
        split="train",
        part="training",
        grouped=True,
        unit=8,
    )
    config.data.validation.pipal = training.held(
        "pipal", split="train", part="held_out"
    )
    config.optim.learning_rate = 5e-3
    return config
