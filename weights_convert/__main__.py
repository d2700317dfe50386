from spips_jax.commands import program

program("convert")
