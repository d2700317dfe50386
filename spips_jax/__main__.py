"""`python -m spips_jax` is `spips`."""

from spips_jax.commands import program

program()
