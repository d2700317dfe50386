"""Evaluates metrics on sets of human judgements: `spips evaluate`.

python evaluate.py --model spips-lite --model psnr --data tid2013 --output DIR
python evaluate.py calibrate --model model.safetensors --data tid2013 --output DIR
"""

import sys

from spips_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
