"""SPIPS in JAX: full-reference image quality as people see it (arXiv 2504.17234)."""

from spips_jax import baselines
from spips_jax.calibration import Calibration
from spips_jax.images import ImageError, read_image
from spips_jax.metric import MODELS, Metric, load
from spips_jax.spips import Comparison, Features
from spips_jax.weights import WeightsError

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "Calibration",
    "Comparison",
    "Features",
    "ImageError",
    "Metric",
    "WeightsError",
    "baselines",
    "load",
    "read_image",
]
