"""BAPPS: forced choices of the six validation sets, and just noticeable differences.

    spips evaluate --config bapps --output=DIR

Not run: the set was not available. Its published judgements, with distances of two
networks, are reproduced by the tests.
"""

from ml_collections import ConfigDict

from spips_jax import evaluation

MODELS = ("spips-lite", "lpips-alexnet", "ms-ssim", "ssim", "psnr")

SPLITS = (
    "val_traditional", "val_cnn", "val_superres", "val_deblur", "val_color",
    "val_frameinterp",
)  # fmt: skip


def get_config() -> ConfigDict:
    """Returns the config."""
    config = evaluation.default()
    config.batch_size = 64  # patches of 64 x 64
    for name in MODELS:
        config.models[name] = evaluation.model(name)
    config.data.bapps = evaluation.dataset("bapps", split="+".join(SPLITS))
    config.data.bapps_jnd = evaluation.dataset("bapps_jnd")
    return config
