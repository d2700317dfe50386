"""SPIPS in JAX: full-reference image quality as people see it (arXiv 2504.17234).

Names are imported when they are first used, so that `import spips_jax` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spips_jax import agreement, baselines, classical, export, losses
    from spips_jax.any_size import AnySize
    from spips_jax.average import MeanScore
    from spips_jax.calibration import Calibration
    from spips_jax.image_files import read_image
    from spips_jax.images import ImageError
    from spips_jax.inputs import as_image
    from spips_jax.loading import MODELS, NAMES, load
    from spips_jax.loss import perceptual_loss
    from spips_jax.metric import Metric
    from spips_jax.spips import Comparison, Features
    from spips_jax.weights import WeightsError

__version__ = "0.2.0"

__all__ = [
    "MODELS",
    "NAMES",
    "AnySize",
    "Calibration",
    "Comparison",
    "Features",
    "ImageError",
    "MeanScore",
    "Metric",
    "WeightsError",
    "agreement",
    "as_image",
    "baselines",
    "classical",
    "export",
    "load",
    "losses",
    "perceptual_loss",
    "read_image",
]

_MODULES = ("agreement", "baselines", "classical", "export", "losses")
_HOMES = {
    "AnySize": "any_size",
    "MODELS": "loading",
    "NAMES": "loading",
    "Calibration": "calibration",
    "Comparison": "spips",
    "Features": "spips",
    "ImageError": "images",
    "MeanScore": "average",
    "Metric": "metric",
    "WeightsError": "weights",
    "as_image": "inputs",
    "load": "loading",
    "perceptual_loss": "loss",
    "read_image": "image_files",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # so that this runs once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
