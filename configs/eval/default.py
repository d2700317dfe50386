"""The fields of an evaluation; models and sets come from the command line.

spips evaluate --model spips-lite --model psnr --data tid2013 --output DIR
"""

from ml_collections import ConfigDict

from spips_jax import evaluation


def get_config() -> ConfigDict:
    """Returns the config."""
    return evaluation.default()
