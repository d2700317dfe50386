"""Examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "agreement.statistics", "calibration", "classical.structural", "data.splits",
        "losses", "messages", "metric",
    ],
)  # fmt: skip
def test_examples_run(name):
    module = importlib.import_module(f"spips_jax.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
