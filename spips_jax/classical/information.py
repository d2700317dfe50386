"""VIF: how much of the reference's information the distorted image still carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spips_jax.classical.filters import (
    LUMA,
    correlate,
    gaussian_window,
    mix,
    of_pairs,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float

NOISE = 2.0 / 255**2
"""Variance of the visual noise, 2 on the scale of 255."""

VIF_MIN_SIZE = 41
"""Least size whose fourth scale has a window inside."""


@of_pairs(min_size=VIF_MIN_SIZE)
def vif(
    reference: Float[Array, "*batch h w 3"], distorted: Float[Array, "*batch h w 3"]
) -> Float[Array, "*batch"]:
    """Visual information fidelity in the pixel domain, `(...)`, higher is better.

    Sheikh & Bovik, "Image information and visual quality", IEEE TIP 15(2), 2006, in the
    form of the authors' `vifp_mscale.m`. At each of four scales, on the luma Y, with
    variances and the covariance under a Gaussian window of 17, 9, 5 and 3 pixels,

      g = cov / var_r,  var_v = var_d - g cov,  n = 2 on the scale of 255
      VIF = sum log(1 + g^2 var_r / (var_v + n)) / sum log(1 + var_r / n)

    Both sums go over all scales and all windows that lie inside the image. It is 1 for
    images that agree, 0 where nothing is left, and above 1 where contrast was raised.
    Between scales images are blurred and every second pixel is kept. Any size from 41
    pixels on; what remains at the right and lower edge after halving is dropped. A flat
    reference has no information: VIF is 1 whatever the distorted image. It is not
    symmetric. The paper's wavelet form gives other numbers; the field reports both as
    "VIF". Where a flat part lies beside a strong blur, float32 errs by up to 3e-4.
    """
    kept = held = jnp.zeros(reference.shape[:-3], reference.dtype)
    # Variances do not depend on the mean; without it float32 loses less of them.
    x, y = (
        luma - luma.mean((-2, -1), keepdims=True)
        for luma in (mix(reference, LUMA), mix(distorted, LUMA))
    )
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        window = gaussian_window(size, size / 5)
        if scale:
            x, y = (_blur(one, window)[..., ::2, ::2] for one in (x, y))
        mean_x, mean_y, xx, yy, xy = (
            _blur(one, window) for one in (x, y, jnp.square(x), jnp.square(y), x * y)
        )
        var_x, var_y = xx - jnp.square(mean_x), yy - jnp.square(mean_y)
        # Less may be rounding alone; divided by, it would say anything.
        var_x = jnp.where(var_x > jnp.finfo(xx.dtype).eps * xx, var_x, 0.0)
        cov = xy - mean_x * mean_y
        some = (var_x > 0) & (cov > 0)
        safe = jnp.where(some, var_x, 1.0)
        g = jnp.where(some, cov / safe, 0.0)
        left = jnp.maximum(var_y - g * cov, 0.0)
        signal = jnp.square(g) * var_x / (left + NOISE)
        kept = kept + jnp.log1p(signal).sum((-2, -1))
        held = held + jnp.log1p(var_x / NOISE).sum((-2, -1))
    tiny = 1e-8 * np.log(10.0)  # 1e-8 beside decimal logarithms
    return (kept + tiny) / (held + tiny)


def _blur(planes: jax.Array, window: tuple[float, ...]) -> jax.Array:
    """Blur of `(..., H, W)` where the window lies inside."""
    for axis in (planes.ndim - 2, planes.ndim - 1):
        planes = correlate(planes, window, axis)
    return planes
