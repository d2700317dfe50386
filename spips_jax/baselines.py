"""The metrics that SPIPS is compared with, behind the same call.

| name | published as | range | better |
|---|---|---|---|
| lpips-alexnet, lpips-vgg16, lpips-squeezenet | LPIPS v0.1 | 0 and up | lower |
| dists | DISTS | 0 to about 1 | lower |
| psnr | PSNR of RGB, dB | up to 100 | higher |
| ssim | SSIM, mean of R, G, B | -1 to 1 | higher |
| ms-ssim | MS-SSIM, mean of R, G, B | 0 to 1 | higher |

`Metric.higher_is_better` tells the direction to programs.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from spips_jax import backbones, classical, weights
from spips_jax.head import resize
from spips_jax.metric import Metric, read_network
from spips_jax.spips import Comparison, Features, extract_taps
from spips_jax.streams import FeatureStream, squared_difference


class Lpips(nn.Module):
    """LPIPS: Zhang et al., "The unreasonable effectiveness of deep features as a
    perceptual metric", arXiv 1801.03924, eq. 1; linear heads of version 0.1.
    """

    backbone: nn.Module

    higher_is_better: ClassVar[bool] = False

    def setup(self) -> None:
        self.stream = FeatureStream(taps=tuple(self.backbone.taps))

    def extract(self, images: jax.Array) -> Features:
        taps = extract_taps(self.backbone, images)
        return Features(image=images, taps=taps)

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        maps = self.stream(
            {
                tap: squared_difference(x, distorted.taps[tap])
                for tap, x in reference.taps.items()
            }
        )
        score = sum((d.mean((-2, -1)) for d in maps.values()), start=jnp.float32(0))
        sized = {
            tap: resize(d, *reference.image.shape[-3:-1]) for tap, d in maps.items()
        }
        fused = sum(sized.values(), start=jnp.float32(0))
        return Comparison(score=score, streams={}, maps={**sized, "fused": fused})


def l2_pool(x: jax.Array) -> jax.Array:
    """DISTS's pooling, stride 2: root of the squares under a 3x3 Hann window."""
    x = jnp.square(x.astype(jnp.float32))
    for axis in (1, 2):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (1, 1)
        x = jnp.pad(x, widths)
        end = x.shape[axis]
        left, centre, right = (
            jax.lax.slice_in_dim(x, k, end - 2 + k, stride=2, axis=axis)
            for k in range(3)
        )
        x = 0.25 * left + 0.5 * centre + 0.25 * right
    return jnp.sqrt(x + 1e-12)


class Dists(nn.Module):
    """DISTS: Ding et al., "Image quality assessment: unifying structure and texture
    similarity", arXiv 2004.07728, eq. 5 to 7, on VGG16 with L2 pooling.

    Images are compared at their own size; the authors' scripts scale the shorter side
    to 256 pixels first.
    """

    backbone: nn.Module

    higher_is_better: ClassVar[bool] = False
    C1: ClassVar[float] = 1e-6
    C2: ClassVar[float] = 1e-6

    def extract(self, images: jax.Array) -> Features:
        taps = extract_taps(self.backbone, images)
        taps = {tap: x.astype(jnp.float32) for tap, x in taps.items()}
        return Features(image=images, taps={"input": images, **taps})

    @nn.compact
    def compare(self, reference: Features, distorted: Features) -> Comparison:
        similarity = total = jnp.float32(0)
        for tap, x in reference.taps.items():
            y = distorted.taps[tap]
            shape = (x.shape[-1],)
            initial = nn.initializers.constant(0.1)
            alpha = self.param(f"alpha_{tap}", initial, shape, jnp.float32)
            beta = self.param(f"beta_{tap}", initial, shape, jnp.float32)
            mean_x = x.mean((-3, -2), keepdims=True)
            mean_y = y.mean((-3, -2), keepdims=True)
            var_x = jnp.square(x - mean_x).mean((-3, -2))
            var_y = jnp.square(y - mean_y).mean((-3, -2))
            cov = ((x - mean_x) * (y - mean_y)).mean((-3, -2))
            mean_x, mean_y = mean_x[..., 0, 0, :], mean_y[..., 0, 0, :]
            luminance = (2 * mean_x * mean_y + self.C1) / (
                mean_x**2 + mean_y**2 + self.C1
            )
            structure = (2 * cov + self.C2) / (var_x + var_y + self.C2)
            lead = (1,) * (luminance.ndim - 1)
            weighted = alpha.reshape(*lead, *shape) * luminance
            weighted = weighted + beta.reshape(*lead, *shape) * structure
            similarity = similarity + weighted.sum(-1)
            total = total + alpha.sum() + beta.sum()
        return Comparison(score=1.0 - similarity / total, streams={}, maps={})


class Classical(nn.Module):
    """PSNR, SSIM or MS-SSIM of `spips_jax.classical` as a metric; it has no weights."""

    kind: str

    higher_is_better: ClassVar[bool] = True

    def extract(self, images: jax.Array) -> Features:
        return Features(image=images, taps={})

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        measure = getattr(classical, self.kind)
        images = (reference.image, distorted.image)
        return Comparison(
            score=measure(*images),
            streams={},
            maps=classical.quality_maps(*images, names=(self.kind,)),
        )


CLASSICAL = {"psnr": "psnr", "ssim": "ssim", "ms-ssim": "ms_ssim"}
LPIPS = {f"lpips-{network}": network for network in weights.LPIPS_NETWORKS}
BASELINES = (*LPIPS, "dists", *CLASSICAL)


def load(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    head: str | os.PathLike[str] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Metric:
    """Loads a baseline, one of `BASELINES`.

    Args:
      name: see the table of this module.
      weights: the backbone's file, as `python -m weights_convert alexnet` writes it; by
        default the one in the cache folder. Not for psnr, ssim, ms-ssim.
      head: the file of LPIPS's linear heads or of DISTS's alpha and beta, as
        `python -m weights_convert lpips-alexnet --source FILE` writes it; by default
        the one in the cache folder.
      dtype: of the backbone's arithmetic.

    Raises:
      ValueError: there is no baseline of that name, or it takes no weights.
      WeightsError: a file is missing, damaged or another network's.
    """
    if name in CLASSICAL:
        if weights is not None or head is not None:
            raise ValueError(f"{name} has no weights: leave weights and head out")
        return Metric(variables={}, module=Classical(CLASSICAL[name]), name=name)
    if name == "dists":
        backbone = backbones.build("vgg16", dtype=dtype, pool=l2_pool)
        module: nn.Module = Dists(backbone=backbone)
        loaded = read_network("vgg16", weights)
        params: dict[str, Any] = {
            f"{vector}_{tap}": value
            for vector, taps in read_network(name, head).items()
            for tap, value in taps.items()
        }
    elif name in LPIPS:
        module = Lpips(backbone=backbones.build(LPIPS[name], dtype=dtype))
        loaded = read_network(LPIPS[name], weights)
        stream = {tap: x["weight"] for tap, x in read_network(name, head).items()}
        params = {"stream": stream}
    else:
        raise ValueError(f"baseline {name!r} is not one of {', '.join(BASELINES)}")
    params = {"backbone": loaded, **params}
    return Metric(variables={"params": params}, module=module, name=name)
