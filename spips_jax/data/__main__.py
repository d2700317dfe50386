"""`python -m spips_jax.data` is `spips data`."""

import sys

from spips_jax.commands import main

raise SystemExit(main(["data", *sys.argv[1:]]))
