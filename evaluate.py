"""Evaluates metrics on sets of human judgements: `spips evaluate`.

python evaluate.py --model spips-lite --model psnr --data tid2013 --output DIR
python evaluate.py calibrate --model model.safetensors --data tid2013 --output DIR
"""

from spips_jax.commands import program

if __name__ == "__main__":
    program("evaluate")
