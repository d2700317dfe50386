r"""The models that come with the package: their heads, on all of TID2013.

Like `configs/tid2013.py`, whose folds measure how good they are, but no reference is
held out. spips-lite's backbone is the one in the package, or `--config.model.weights`
names the file that `configs/lite_backbone.py` made. References can be excluded by name,
so that a set that shares photographs remains a fair test.

Command, with MODEL each of spips-lite, spips-alexnet and spips-squeezenet:

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips train --config release --workdir=DIR --config.model.name=MODEL
    spips train export --workdir=DIR --output=MODEL.safetensors
    spips evaluate calibrate --model=MODEL.safetensors --data=tid2013 --output=DIR

    spips train --config release --workdir=DIR \
        --config.data.exclude_references=I06,I08,I13,I19,I23

Hardware: two cores of a cloud VM, no GPU.
Time: 95 to 113 s a model, beside other work, with the pooled pairs
    in the cache; computing them takes some 20 minutes of CPU time once for each model.
Result: SRCC on the training rows: 0.931 lite, 0.962 AlexNet, 0.965 SqueezeNet; on
    other rows: docs/models.md.
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.model.name = "spips-lite"
    config.num_steps = 1200
    config.data.train.tid2013 = training.source(
        "tid2013", {"plcc": 1.0, "rank": 1.0, "l1": 0.1}
    )
    config.data.validation.tid2013 = training.held("tid2013")
    config.validate.every = config.num_steps  # the last step is the one to take
    config.optim.learning_rate = 5e-3
    config.optim.multipliers.perceptual = 0.1
    config.optim.multipliers.semantic = 0.1
    return config
