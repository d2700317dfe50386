"""What `import spips_jax` brings in, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import spips_jax


def test_importing_the_metric_stays_light():
    heavy = (
        "tensorflow_datasets", "tensorflow", "orbax", "optax", "grain", "matplotlib",
        "PIL", "torch", "scipy",
    )  # fmt: skip
    program = (
        "import sys, spips_jax, spips_jax.commands;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_importing_starts_no_backend():
    program = (
        "import spips_jax, jax; from jax._src import xla_bridge;"
        "print(xla_bridge.backends_are_initialized())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_public_names_exist():
    for name in spips_jax.__all__:
        assert hasattr(spips_jax, name)
