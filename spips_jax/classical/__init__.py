"""The classical metrics: as numbers, and as the quality maps of SPIPS.

Images are float32 `(..., H, W, 3)` in [0, 1], RGB as stored; every function takes a
reference and a distorted one of the same shape, and raises `ImageError` for others. All
of it is float32 at full precision, whatever the global setting.

The numbers (`psnr`, `ssim`, `ms_ssim`, `vif`, `fsim`, `fsimc`, `vsi`, `gmsd`, `mdsi`,
`haarpsi`) follow the papers, with their directions. The maps (`quality_maps`) are
SPIPS's `Q = 1 - N(metric)`: in [0, 1], **lower is better**, the size of the images.
Their normalisations N are fixed functions, never a per-image min-max, which would erase
how strong a distortion is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spips_jax.classical.filters import (
    FILTER_SIZE,
    check_pair,
    gaussian_filter,
    halve,
)
from spips_jax.classical.gradients import (
    GMSD_MIN_SIZE,
    MDSI_MIN_SIZE,
    gmsd,
    gmsd_error,
    mdsi,
    mdsi_error,
)
from spips_jax.classical.information import VIF_MIN_SIZE, vif
from spips_jax.classical.phase import (
    FSIM_MIN_SIZE,
    fsim,
    fsim_error,
    fsimc,
    fsimc_error,
)
from spips_jax.classical.saliency import VSI_MIN_SIZE, vsi, vsi_error
from spips_jax.classical.structural import (
    MAX_PSNR,
    ms_ssim,
    num_scales,
    psnr,
    psnr_quality,
    squared_error,
    ssim,
    structural_errors,
)
from spips_jax.classical.wavelets import (
    HAARPSI_MIN_SIZE,
    haarpsi,
    haarpsi_error,
    haarpsi_quality,
)
from spips_jax.messages import UserError, one_of

if TYPE_CHECKING:
    from jaxtyping import Array, Float

__all__ = [
    "MAPS",
    "MAX_PSNR",
    "VIF_MIN_SIZE",
    "QualityMap",
    "fsim",
    "fsimc",
    "gaussian_filter",
    "gmsd",
    "haarpsi",
    "halve",
    "mdsi",
    "ms_ssim",
    "num_scales",
    "psnr",
    "quality_maps",
    "ssim",
    "vif",
    "vsi",
]


@dataclass(frozen=True, kw_only=True)
class QualityMap:
    """A classical map of SPIPS: all that the network knows of it.

    Attributes:
      error: maps two images `(..., H, W, 3)` in [0, 1] to what is averaged over the
        image, `(..., H, W)`, 0 or more, 0 where they agree.
      quality: maps an error, of a pixel or the mean of an image, to [0, 1]; increasing,
        0 at 0.
      min_size: smallest height and width, in pixels.
    """

    error: Callable[[jax.Array, jax.Array], jax.Array]
    quality: Callable[[jax.Array], jax.Array] = lambda error: error
    min_size: int = 1


def quality_maps(
    reference: Float[Array, "*batch h w 3"],
    distorted: Float[Array, "*batch h w 3"],
    *,
    names: Sequence[str] = ("psnr", "ssim", "ms_ssim"),
) -> dict[str, Float[Array, "*batch h w"]]:
    """The classical maps of SPIPS (arXiv 2504.17234, `Q = 1 - N(metric map)`).

    Args:
      reference: images `(..., H, W, 3)` in [0, 1].
      distorted: images of the same shape.
      names: keys of `MAPS`.

    Returns:
      The maps named, each `(..., H, W)` in [0, 1] for images in [0, 1], 0 where the
      images agree, higher is worse. With `e` the mean over channels of the squared
      error:

      - psnr: `log1p(e / 1e-6) / log1p(1 / 1e-6)`, that is 1 - PSNR / 60 dB, clamped
        smoothly at 0 (our choice);
      - ssim: `(1 - SSIM) / 2`;
      - ms_ssim: `1 - prod_j cs_j^b_j * l_M^b_M` (Wang et al. 2003, eq. 7) per pixel,
        the coarse scales interpolated to the images' size (our choice);
      - gmsd, mdsi: 1 - GMS and 1 - GCS, the similarities that these metrics pool;
      - fsim, fsimc, vsi, haarpsi: each pixel's share of 1 - the metric, weighted as the
        metric weighs it: the mean error becomes 1 - the metric.

      The last six are computed on reduced images, and enlarged by repetition.

    Raises:
      UserError: there is no map of a name.
      ImageError: images that are no such pair, or too small for a map.
    """
    for name in names:
        if name not in MAPS:
            raise UserError(one_of("map", name, MAPS))
        check_pair(reference, distorted, min_size=MAPS[name].min_size, needed_by=name)
    found = errors(reference, distorted, names=names)
    return {name: MAPS[name].quality(error) for name, error in found.items()}


def errors(
    reference: Float[Array, "*batch h w 3"],
    distorted: Float[Array, "*batch h w 3"],
    *,
    names: Sequence[str],
) -> dict[str, Float[Array, "*batch h w"]]:
    """What the maps named average over an image, `(..., H, W)`, 0 or more.

    Each is the map's `QualityMap.error`; SSIM and MS-SSIM share what they have in
    common.
    """
    both = [name for name in names if name in ("ssim", "ms_ssim")]
    shared = structural_errors(reference, distorted, names=both) if both else {}
    return {
        name: shared[name] if name in shared else MAPS[name].error(reference, distorted)
        for name in names
    }


def _no_more_than_one(error: jax.Array) -> jax.Array:
    return jnp.minimum(error, 1.0)


def _structural(name: str, reference: jax.Array, distorted: jax.Array) -> jax.Array:
    return structural_errors(reference, distorted, names=[name])[name]


MAPS: dict[str, QualityMap] = {
    # PSNR's is averaged before the logarithm: a mean of logarithms cannot tell a few
    # large errors from many small ones.
    "psnr": QualityMap(error=squared_error, quality=psnr_quality),
    "ssim": QualityMap(error=partial(_structural, "ssim"), min_size=FILTER_SIZE),
    "ms_ssim": QualityMap(error=partial(_structural, "ms_ssim"), min_size=FILTER_SIZE),
    "fsim": QualityMap(
        error=fsim_error, quality=_no_more_than_one, min_size=FSIM_MIN_SIZE
    ),
    "fsimc": QualityMap(
        error=fsimc_error, quality=_no_more_than_one, min_size=FSIM_MIN_SIZE
    ),
    "vsi": QualityMap(
        error=vsi_error, quality=_no_more_than_one, min_size=VSI_MIN_SIZE
    ),
    "gmsd": QualityMap(error=gmsd_error, min_size=GMSD_MIN_SIZE),
    "mdsi": QualityMap(
        error=mdsi_error, quality=_no_more_than_one, min_size=MDSI_MIN_SIZE
    ),
    "haarpsi": QualityMap(
        error=haarpsi_error, quality=haarpsi_quality, min_size=HAARPSI_MIN_SIZE
    ),
}
"""The classical maps that `Spips` can take, by name."""
