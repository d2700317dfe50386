import sys

from spips_jax.commands import main

raise SystemExit(main(["convert", *sys.argv[1:]]))
