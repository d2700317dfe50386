"""Converts PyTorch weight files to the safetensors files that `spips_jax.load` reads.

`python -m weights_convert NETWORK` is `spips convert NETWORK`. Nothing here needs
PyTorch except `--verify`, and no code in a file is ever run.
"""
