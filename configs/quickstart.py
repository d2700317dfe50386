"""A first run with nothing to download: painted scenes and a random AlexNet.

Command:

    spips data prepare synthetic
    spips train --config quickstart --workdir=DIR

Hardware: two cores of a cloud VM, no GPU.
Time: 2:19 from an empty cache and beside other work.
Result: SRCC with the grades of the four held-out scenes: 0.920; with seeds 1 and 2,
    0.896 and 0.910; PSNR 0.799, SSIM (scikit-image, Gaussian window) 0.783.
    Grades are not human scores: this shows that a run works.
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "quickstart"
    config.num_steps = 600
    config.model.weights = "random"
    config.data.train.scenes = training.source(
        "synthetic/scenes", {"plcc": 1.0, "rank": 1.0, "l1": 0.1}, part="training"
    )
    config.data.validation.scenes = training.held("synthetic/scenes", part="held_out")
    config.optim.learning_rate = 5e-3
    config.validate.every = 200
    return config
