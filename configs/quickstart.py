"""A first run with nothing to download: painted scenes and a random AlexNet.

Command:

    spips data prepare synthetic
    spips train --config quickstart --workdir=DIR

Hardware: two cores of a cloud VM, no GPU.
Time: not measured since the change below; 2:19 before it, from an empty cache and
    beside other work.
Result: not measured since the losses compare only the levels of one distortion of one
    scene, all that grades claim. Grades are not human scores: this shows that a run
    works.
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "quickstart"
    config.num_steps = 600
    config.batch_size = 80  # whole groups of five levels, also on 2, 4, 8 or 16 devices
    config.model.weights = "random"
    config.data.train.scenes = training.source(
        "synthetic/scenes",
        {"plcc": 1.0, "rank": 1.0, "l1": 0.1},
        part="training",
        grouped=True,
    )
    config.data.validation.scenes = training.held("synthetic/scenes", part="held_out")
    config.optim.learning_rate = 5e-3
    config.validate.every = 200
    return config
