"""`python -m spips_jax.data` is `spips data`."""

from spips_jax.commands import program

program("data")
