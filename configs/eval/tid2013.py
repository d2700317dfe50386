"""TID2013: SPIPS beside the metrics that need no VGG16.

    spips evaluate --config tid2013 --output=DIR

Add a trained model by `--model model.safetensors`. Those of the package were trained on
this set: docs/models.md has their results on unseen data. On the 1,784-pair
reconstruction: SRCC 0.822 (untrained SPIPS), 0.783 and 0.765 (LPIPS), 0.835, 0.751,
0.890, 0.884, 0.859, 0.767, 0.694, 0.761, 0.574, 0.653; 26 minutes on two CPU cores
beside other work.
"""

from ml_collections import ConfigDict

from spips_jax import evaluation

MODELS = (
    "spips-alexnet-untrained", "lpips-alexnet", "lpips-squeezenet", "fsimc", "fsim",
    "vsi", "mdsi", "haarpsi", "gmsd", "vif", "ms-ssim", "ssim", "psnr",
)  # fmt: skip


def get_config() -> ConfigDict:
    """Returns the config."""
    config = evaluation.default()
    for label in MODELS:
        name = label.removesuffix("-untrained")
        config.models[label] = evaluation.model(name, trained=name == label)
    config.data.tid2013 = evaluation.dataset("tid2013")
    return config
