"""TID2013: head, gain and early channels on a frozen AlexNet, by folds of the scenes.

The head of `configs/release.py`, without LIVE, for one fold. TID2013's opinions compare
within a reference only; so do the losses, and the SRCC that counts is the mean within
references.

Command, for the third of five folds:

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips train --config tid2013 --workdir=DIR --config.data.fold=3/5

Hardware: two cores of a cloud VM, no GPU.
Time: not measured
Result: not measured by itself; benchmarks/ablation.py has the folds: docs/models.md
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "tid2013"
    config.model.classical = "psnr,ssim,ms_ssim,haarpsi,gmsd"
    config.model.trainable = "perceptual,head,gain"
    config.num_steps = 1200
    config.batch_size = 128
    config.data.train.tid2013 = training.source(
        "tid2013", {"plcc": 1.0, "l1": 0.1}, part="training"
    )
    config.data.validation.tid2013 = training.held("tid2013", part="held_out")
    config.optim.learning_rate = 2e-2
    config.optim.multipliers.perceptual = 0.01
    config.optim.multipliers.gain = 0.3
    return config
