"""The classical metrics: as numbers, and as the quality maps of SPIPS.

Images are float32 `(..., H, W, 3)` in [0, 1], RGB as stored; every function takes a
reference and a distorted one of the same shape. All of it is float32 at full precision,
whatever the global setting.

The numbers (`psnr`, `ssim`, `ms_ssim`) follow the papers: higher is better. The maps
(`quality_maps`) are SPIPS's `Q = 1 - N(metric)`: in [0, 1], **lower is better**, the
size of the images. Their normalisations N are fixed functions, never a per-image
min-max, which would erase how strong a distortion is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax

from spips_jax.classical.filters import FILTER_SIZE, gaussian_filter, halve
from spips_jax.classical.structural import (
    MAX_PSNR,
    ms_ssim,
    ms_ssim_quality_map,
    num_scales,
    psnr,
    psnr_quality,
    squared_error,
    ssim,
    ssim_quality_map,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float

__all__ = [
    "MAPS",
    "MAX_PSNR",
    "QualityMap",
    "gaussian_filter",
    "halve",
    "ms_ssim",
    "num_scales",
    "psnr",
    "quality_maps",
    "ssim",
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
        the coarse scales interpolated to the images' size (our choice).
    """
    chosen = {name: MAPS[name] for name in names}
    return {
        name: map_.quality(map_.error(reference, distorted))
        for name, map_ in chosen.items()
    }


MAPS: dict[str, QualityMap] = {
    # PSNR's is averaged before the logarithm: a mean of logarithms cannot tell a few
    # large errors from many small ones.
    "psnr": QualityMap(error=squared_error, quality=psnr_quality),
    "ssim": QualityMap(error=ssim_quality_map, min_size=FILTER_SIZE),
    "ms_ssim": QualityMap(error=ms_ssim_quality_map, min_size=FILTER_SIZE),
}
"""The classical maps that `Spips` can take, by name."""
