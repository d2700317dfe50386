r"""spips-lite's backbone, learned from ImageNet's AlexNet on distorted photographs.

It starts from random values and learns, tap by tap, AlexNet's features and their
differences between two images: spips_jax/training/distill.py. Labels are not used. The
result is a backbone with an untrained head. A run that trains the head takes it by
--config.model.weights=lite_backbone.safetensors.

Command, with a folder of photographs, at least 256 pixels wide and high:

    spips convert alexnet
    spips data prepare synthetic --photographs DIR --name photos \
        --size 256 --tiles --sample 2
    spips train --config lite_backbone --workdir=DIR
    spips train export --workdir=DIR --output=lite_backbone.safetensors

Hardware: one core of a cloud VM, no GPU.
Time: 21 minutes, other work on the machine's second core.
Result: on the 440 pairs of 8 held-out photographs, of 151. "features" is the loss by
    tap, where 1 means nothing learned of AlexNet's; "correlation" is Pearson's, between
    the logarithms of its mean differences and AlexNet's; "at first" is that of the
    random initial network.

    tap          relu1   relu2   relu3   relu4   relu5
    features     0.328   0.619   0.705   0.748   0.782
    correlation  0.964   0.939   0.940   0.941   0.910
    at first     0.855   0.738   0.714   0.719   0.722
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "backbone"
    config.num_steps = 5000
    config.batch_size = 8
    config.model.name = "spips-lite"
    config.model.weights = "random"
    config.model.teacher = "alexnet"
    config.model.trainable = "backbone"
    config.data.train.photos = training.source(
        "synthetic/photos",
        {"features": 1.0, "differences": 30.0},
        part="training",
        crop=128,
        flip=True,
    )
    config.data.validation.photos = training.held("synthetic/photos", part="held_out")
    config.data.fold = "1/20"
    config.optim.learning_rate = 4e-4
    config.optim.average = 0.998
    config.optim.multipliers.backbone = 1.0
    config.optim.multipliers.adapter = 3.0
    # Once: it does not learn to rank levels, so that must not select the checkpoint.
    config.validate.every = config.num_steps
    return config
