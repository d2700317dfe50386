"""x"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "tid2013"
    config.data.train.tid2013 = training.source(
        "tid2013", {"plcc": 1.0, "rank": 1.0, "l1": 1.0}, part="training"
    )
    config.data.validation.tid2013 = training.held("tid2013", part="held_out")
    return config
