"""What a score depends on, in words: to find why two machines' scores differ.

All values are text. `spips score --json --provenance` writes them beside each score,
`spips check` compares them, and so does `spips twin --against`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import spips_jax
from spips_jax import weights
from spips_jax.metric import Metric

if TYPE_CHECKING:
    from jaxtyping import Num

DECODERS = ("pillow", "imagecodecs", "tifffile", "pillow-heif", "pillow-jxl-plugin")
"""Packages that decode images."""


@functools.lru_cache(maxsize=8)  # digests of many megabytes
def of_metric(metric: Metric) -> dict[str, str]:
    """The name of a metric, digests of its weights, and the backbone's precision.

    Args:
      metric: of any kind; one without weights has no digests.
    """
    found = {"model": metric.name}
    params = dict(metric.variables.get("params", {}))
    backbone = params.pop(weights.BACKBONE, None)
    if params:
        found["model_sha256"] = weights.digest(params)
    if backbone is not None:
        module = metric.module.backbone
        found["backbone"] = module.network
        found["backbone_sha256"] = weights.digest(backbone)
        found["precision"] = str(jnp.dtype(module.dtype))
    return found


def of_machine() -> dict[str, str]:
    """The device that JAX uses, and versions of what decodes and computes."""
    device = jax.devices()[0]
    found = {
        "spips-jax": spips_jax.__version__,
        "jax": jax.__version__,
        "device": f"{device.platform} ({device.device_kind})",
        "machine": platform.machine(),
    }
    for package in DECODERS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "pillow" in found:
        from PIL import features

        found["libjpeg"] = features.version("jpg") or "none"
    return found


def of_images(
    reference: Num[np.ndarray, "h w 3"], distorted: Num[np.ndarray, "h w 3"]
) -> dict[str, str]:
    """Digests of the pixels of a pair, their size and range.

    Args:
      reference: `(H, W, 3)`, as decoded: uint8 in [0, 255], or float32 in [0, 1].
      distorted: likewise.
    """
    height, width = reference.shape[:2]
    return {
        "reference_sha256": pixels_digest(reference),
        "distorted_sha256": pixels_digest(distorted),
        "size": f"{width}x{height}",
        "value_range": " and ".join(
            dict.fromkeys(
                "0 to 255" if image.dtype == np.uint8 else "0 to 1"
                for image in (reference, distorted)
            )
        ),
    }


def pixels_digest(image: Num[np.ndarray, "h w 3"]) -> str:
    """SHA-256 of an image's values, row by row, RGB.

    Of a file of 8 bits it is that of
    `numpy.asarray(PIL.Image.open(file).convert("RGB")).tobytes()`.

    Args:
      image: `(H, W, 3)`, as decoded: uint8 in [0, 255], or float32 in [0, 1].
    """
    order = "<f4" if image.dtype.kind == "f" else None
    return hashlib.sha256(np.ascontiguousarray(image, order).tobytes()).hexdigest()


def differences(here: dict[str, Any], there: dict[str, Any]) -> dict[str, str]:
    """What differs, by name, as "VALUE here, VALUE there"; "none" for what is not told.

    Args:
      here: a provenance, or parts of one.
      there: likewise.
    """
    return {
        name: f"{here.get(name, 'none')} here, {there.get(name, 'none')} there"
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    }
