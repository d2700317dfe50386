r"""The models that come with the package: their heads, on TID2013 and LIVE.

TID2013's opinions compare within a reference only, so its losses do; LIVE's compare
between photographs, too. Nothing is held out here: `benchmarks/ablation.py` trains the
same heads without some scenes, types of distortion or one of the sets, and says how
good they are. spips-lite's backbone is the one in the package, or
`--config.model.weights` names the file that `configs/lite_backbone.py` made.

The published models were made from the parts of both sets that could be recreated from
the Kodak photographs, 1,784 of TID2013's pairs and 197 of LIVE's, the latter as a pair
list. With the whole sets, add `--config.data.train.live.set=live` and
`--config.data.validation.live.set=live`. A reference can be excluded from both by the
name that each set has for it.

Command, with MODEL each of spips-lite, spips-alexnet and spips-squeezenet:

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips data prepare pair_list --csv live.csv --name live
    spips train --config release --workdir=DIR --config.model.name=MODEL
    spips train export --workdir=DIR --output=MODEL.safetensors
    spips evaluate calibrate --model=MODEL.safetensors --data=pair_list/live \
        --scale 0 100 --output=DIR

Hardware: two cores of a cloud VM, no GPU.
Time: about 75 s a model, with the pooled pairs in the cache; computing them takes five
    to ten minutes once for each model.
Result: mean SRCC within TID2013's references and SRCC over LIVE's pairs, all of them
    trained on: 0.941 and 0.978 lite, 0.949 and 0.979 AlexNet, 0.956 and 0.979
    SqueezeNet. On other pairs: docs/models.md.
"""

from ml_collections import ConfigDict

from spips_jax import training

CLASSICAL = "psnr,ssim,ms_ssim,haarpsi,gmsd"
"""The paper's maps, and two that rank LIVE's pairs better: docs/metrics.md."""


def get_config() -> ConfigDict:
    config = training.default()
    config.model.name = "spips-lite"
    config.model.classical = CLASSICAL
    # A tap's channels outnumber the scenes a hundred times. Those of the late taps,
    # learned, fit the scenes; as they are, they agree better with people on others.
    config.model.trainable = "perceptual,head,gain"
    config.num_steps = 1600
    config.batch_size = 128
    losses = {"plcc": 1.0, "l1": 0.1}
    config.data.train.tid2013 = training.source("tid2013", losses)
    config.data.train.live = training.source("pair_list/live", losses, weight=0.3)
    config.data.validation.tid2013 = training.held("tid2013")
    config.data.validation.live = training.held("pair_list/live")
    config.validate.every = config.num_steps  # the last step is the one to take
    config.optim.learning_rate = 2e-2
    config.optim.warmup_steps = 100
    config.optim.multipliers.perceptual = 0.01
    config.optim.multipliers.gain = 0.3  # faster, it is sure of types that it never saw
    return config
