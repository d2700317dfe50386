"""BAPPS, by the recipe of LPIPS: two-alternative forced choices, a ranker on top.

Zhang et al. (CVPR 2018; SPIPS is trained on their data): all three training splits,
Adam of rate 1e-4 with b1 = 0.5 as in their code, batches of 50, 5 epochs and 5 more in
which the rate falls linearly to 0; weights held at 0 or above, the backbone frozen.
Unlike theirs, the rate falls with every step, not every epoch, and there is no dropout.
The 151.4k triplets that they report make 3,028 steps per epoch. The six validation
splits count equally in selecting the best checkpoint.

Command, on 4 or 8 devices with --config.batch_size=48, as they cannot share 50:

    spips data prepare bapps --manual_dir ~/Downloads
    spips train --config bapps --workdir=DIR

Hardware: not measured: the set was not available
Time: not measured
Result: not measured
"""

from ml_collections import ConfigDict

from spips_jax import training

EPOCH = 151_400 // 50


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "bapps"
    config.num_steps = 10 * EPOCH
    config.batch_size = 50
    config.data.train.bapps = training.source(
        "bapps", {"ranker": 1.0}, split="train_traditional+train_cnn+train_mix"
    )
    for subset in ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"):
        config.data.validation[subset] = training.held("bapps", split=f"val_{subset}")
    config.optim.learning_rate = 1e-4
    config.optim.schedule = "linear"
    config.optim.warmup_steps = 0
    config.optim.hold_steps = 5 * EPOCH
    config.optim.weight_decay = 0.0
    config.optim.b1 = 0.5
    config.optim.clip = 0.0
    config.optim.average = 0.0
    config.optim.multipliers.perceptual = 1.0
    config.optim.multipliers.semantic = 1.0
    config.validate.every = EPOCH
    config.validate.batch_size = 200  # patches of 64x64
    config.checkpoint.every = EPOCH // 2
    return config
