"""`python -m spips_jax` is `spips`."""

from spips_jax.commands import main

raise SystemExit(main())
