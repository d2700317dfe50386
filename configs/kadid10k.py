"""KADID-10k: 10,125 pairs of 81 photographs, a fifth of these held out.

As configs/tid2013.py, with more steps: more pairs are to be seen as often.

Command: python -m spips_jax.data prepare kadid10k --manual_dir DOWNLOADS
    python train.py --config=configs/kadid10k.py --workdir=runs/kadid10k
    (another fold: --config.data.fold=2/5)
Hardware: not measured: the set was not at hand
Time: not measured
Result: not measured
"""

from ml_collections import ConfigDict

from spips_jax import training


def get_config() -> ConfigDict:
    config = training.default()
    config.name = "kadid10k"
    config.num_steps = 6000
    config.data.train.kadid10k = training.source(
        "kadid10k", {"plcc": 1.0, "rank": 1.0, "l1": 1.0}, part="training"
    )
    config.data.validation.kadid10k = training.held("kadid10k", part="held_out")
    return config
