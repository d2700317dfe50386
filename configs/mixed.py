"""Several sets at once: scores, forced choices, and synthetic grades.

Each batch comes from one set and uses that set's losses: KADID-10k and TID2013
correlation, ranks and distance, TID2013's within each reference; BAPPS a ranker; the
synthetic scenes ranks among the levels of one distortion. Validation references are
held out; BAPPS is validated on its own splits, two of them with distortions that are
not trained on.

Command, with SET each of kadid10k, tid2013 and bapps:

    spips data prepare synthetic
    spips data prepare SET --manual_dir ~/Downloads
    spips train --config mixed --workdir=DIR

Hardware: not measured: the sets were not all available
Time: not measured
Result: not measured
"""

from ml_collections import ConfigDict

from spips_jax import training

SCORES = {"plcc": 1.0, "rank": 1.0, "l1": 0.1}


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "mixed"
    config.num_steps = 12_000
    config.batch_size = 80  # whole groups of five levels, also on 2, 4, 8 or 16 devices

    train, validation = config.data.train, config.data.validation
    train.kadid10k = training.source("kadid10k", SCORES, part="training")
    train.tid2013 = training.source("tid2013", SCORES, part="training")
    train.bapps = training.source(
        "bapps", {"ranker": 1.0}, split="train_traditional+train_cnn+train_mix"
    )
    train.scenes = training.source(
        "synthetic/scenes", {"rank": 1.0}, part="training", grouped=True, weight=0.5
    )
    for name in ("kadid10k", "tid2013"):
        validation[name] = training.held(name, part="held_out")
    for subset in ("cnn", "superres", "frameinterp"):
        validation[subset] = training.held("bapps", split=f"val_{subset}")
    config.validate.every = 1000
    return config
