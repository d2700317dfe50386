"""x"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "quickstart"
    config.model.weights = "random"
    config.data.train.scenes = training.source(
        "synthetic/scenes", {"plcc": 1.0, "rank": 1.0}, part="training"
    )
    config.data.validation.scenes = training.held("synthetic/scenes", part="held_out")
    return config
