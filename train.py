"""Trains a SPIPS model, and exports trained models: `spips train`.

python train.py --config=configs/quickstart.py --workdir=DIR
python train.py export --workdir=DIR --output=model.safetensors
"""

from spips_jax.commands import program

if __name__ == "__main__":
    program("train")
