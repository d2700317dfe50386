import sys

from spips_jax.commands import program

if sys.argv[1:2] == ["twin"]:
    del sys.argv[1]
    program("twin")
program("convert")
