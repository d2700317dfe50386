"""TID2013: streams, head and gain on a frozen AlexNet, by folds of the references.

Command, for the third of five folds:

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips train --config tid2013 --workdir=DIR --config.data.fold=3/5

Hardware: two cores of a cloud VM, no GPU.
Time: some 20 minutes of CPU time once, for the pooled pairs; then
    40 and 44 s a fold.
Result: SRCC on the held-out references 0.946 and 0.935 of folds 1 and 2, on the 1,784
    of 3,000 pairs that were available; benchmarks/ablation.py has 0.946, 0.935, 0.947,
    0.952, 0.960 for the five.
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "tid2013"
    config.num_steps = 1200
    config.data.train.tid2013 = training.source(
        "tid2013", {"plcc": 1.0, "rank": 1.0, "l1": 0.1}, part="training"
    )
    config.data.validation.tid2013 = training.held("tid2013", part="held_out")
    config.optim.learning_rate = 5e-3
    config.optim.multipliers.perceptual = 0.1
    config.optim.multipliers.semantic = 0.1
    return config
