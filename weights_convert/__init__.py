"""Turns PyTorch weight files into the safetensors files that `spips_jax.load` reads.

`python -m weights_convert NETWORK` is `spips convert NETWORK`. Nothing here needs
PyTorch except `--verify`, and no file can make it run code.
"""
