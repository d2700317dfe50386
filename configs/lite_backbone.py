r"""spips-lite's backbone, learned from ImageNet's AlexNet on distorted photographs.

It starts from random values and learns, tap by tap, AlexNet's features and what they
say of the difference of two images: spips_jax/training/distill.py. Labels take no part.
What comes of it is a backbone with an untrained head on top, to be given to a run that
trains the head, by --config.model.weights=lite_backbone.safetensors.

Command, with a folder of photographs, 256 pixels wide and high at least:

    python -m weights_convert alexnet
    python -m spips_jax.data prepare synthetic --photographs DIR --name photos \
        --size 256 --tiles --sample 2
    python train.py --config=configs/lite_backbone.py --workdir=DIR
    python train.py export --workdir=DIR --output=lite_backbone.safetensors

Hardware: one core of a cloud VM, no GPU.
Time: not measured
Result: not measured
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
    config.validate.every = 2500  # how it ranks levels: only to see that it does
    return config
