"""`python -m spips_jax` is the `spips` command."""

import sys

from spips_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
