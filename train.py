"""Trains a SPIPS model, and exports trained models: `spips train`.

python train.py --config=configs/quickstart.py --workdir=DIR
python train.py export --workdir=DIR --output=model.safetensors
"""

import sys

from spips_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
