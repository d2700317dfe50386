"""The stages of a score, here and elsewhere: compared from the images to the gradient.

"Elsewhere" is the twin in PyTorch, or a file that another machine wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from spips_jax import Metric
from spips_jax.files import replacing
from spips_jax.messages import UserError
from spips_jax.spips import Spips

TOLERANCES = {
    "image": 0.0,
    "normalised": 1e-6,
    "tap": 1e-5,
    "map": 5e-4,
    "score": 1e-5,
    "gradient": 1e-4,
}
"""Of the norm of the difference, as a share of the norm, by the first word of a stage's
name.

float32 sums in another order leave 1e-6 of a tap, a wrong weight, layout or padding
1e-2 or more. SSIM's variances are differences of squares, in which a pixel of a flat
area can lose three digits; its mean loses none.
"""

OTHERS = 1e-4
"""The tolerance of other stages: statistics of features are of their differences."""

FORMAT = "spips-jax stages 1"


@dataclass(frozen=True)
class Row:
    """How far apart a stage is.

    Attributes:
      name: the stage's.
      shape: its shape here.
      absolute: the largest absolute difference.
      mean: the mean one.
      relative: the norm of the difference over that of the other side's; where that is
        0, whether they differ.
      cosine: of the angle between the two, 1 where both are 0.
      tolerance: of `relative`.
    """

    name: str
    shape: tuple[int, ...]
    absolute: float
    mean: float
    relative: float
    cosine: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether it is within tolerance, which NaN is not."""
        return self.relative <= self.tolerance


def of_jax(
    metric: Metric, reference: np.ndarray, distorted: np.ndarray
) -> dict[str, np.ndarray]:
    """The stages of `metric`, float32, and the gradient in the distorted image.

    Args:
      metric: a SPIPS model.
      reference: images `(N, H, W, 3)`, float32 in [0, 1].
      distorted: likewise.

    Raises:
      UserError: the metric is another.
      ImageError: images that break the contract.
    """
    if not isinstance(metric.module, Spips):
        raise UserError(f"{metric.name} is not a SPIPS model: only those have stages")
    metric.check(reference, distorted)

    names: list[str] = []

    def stages(y: jax.Array, variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        found = metric.module.apply(variables, x, y, method="stages")
        names[:] = found  # what comes out of `jax.jit` is sorted
        return found["score"].sum(), found

    x, y = jnp.asarray(reference), jnp.asarray(distorted)
    run = jax.jit(jax.grad(stages, has_aux=True))
    gradient, found = run(y, metric.variables, x)
    return {name: np.asarray(found[name]) for name in names} | {
        "gradient": np.asarray(gradient)
    }


def of_torch(
    twin: Any, reference: np.ndarray, distorted: np.ndarray
) -> dict[str, np.ndarray]:
    """The stages of a `torch_spips.Spips`, with channels last, as `of_jax` has them."""
    import torch

    dtype = next(twin.buffers()).dtype
    x, y = (
        torch.from_numpy(np.array(image)).movedim(-1, 1).to(dtype)
        for image in (reference, distorted)
    )
    y.requires_grad_()
    found = twin.stages(x, y)
    (gradient,) = torch.autograd.grad(found["score"].sum(), y)
    found["gradient"] = gradient
    images = ("image", "normalised", "tap", "gradient")
    return {
        name: (value.movedim(1, -1) if name.startswith(images) else value)
        .detach()
        .numpy()
        for name, value in found.items()
    }


def compare(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> list[Row]:
    """A row for each stage of `ours`, in order.

    Raises:
      UserError: the other has other stages, or of other shapes.
    """
    rows = []
    for name, one in ours.items():
        if name not in theirs or theirs[name].shape != one.shape:
            has = theirs[name].shape if name in theirs else "none"
            raise UserError(
                f"stage {name!r} has shape {one.shape} here and {has} there: compare"
                " the same model on images of the same size"
            )
        x, y = one.astype(np.float64), theirs[name].astype(np.float64)
        apart = np.abs(x - y)
        norm, product = np.linalg.norm(y), np.linalg.norm(x) * np.linalg.norm(y)
        worst = float(apart.max())
        rows.append(
            Row(
                name,
                one.shape,
                worst,
                float(apart.mean()),
                float(np.linalg.norm(apart) / norm) if norm else float(worst > 0),
                float(np.vdot(x, y) / product) if product else float(worst == 0),
                TOLERANCES.get(name.partition(" ")[0], OTHERS),
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    """A line for each row, and the first that parts named at the end."""
    lines = [
        f"{'stage':<24} {'shape':<20} {'max abs':>9} {'mean abs':>9} {'relative':>9}"
        f" {'cosine':>10}"
    ]
    lines += [
        f"{row.name:<24} {row.shape!s:<20} {row.absolute:9.1e} {row.mean:9.1e}"
        f" {row.relative:9.1e} {row.cosine:10.7f}"
        f"{'' if row.agrees else f'  over {row.tolerance:g}'}"
        for row in rows
    ]
    parts = [row for row in rows if not row.agrees]
    if parts:
        lines.append(f"\nthe first that parts: {parts[0].name}")
    else:
        lines.append("\nall agree")
    return "\n".join(lines)


def write(
    path: str | os.PathLike[str],
    found: Mapping[str, np.ndarray],
    about: Mapping[str, str],
) -> None:
    """Writes stages and their provenance, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    # A safetensors file keeps no order.
    metadata = {"format": FORMAT, "order": json.dumps(list(found)), **about}
    tensors = {name: np.ascontiguousarray(value) for name, value in found.items()}
    with replacing(path) as partial_file:
        safetensors.numpy.save_file(tensors, partial_file, metadata=metadata)


def read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads what `write` wrote: the stages in order, and the provenance.

    Raises:
      UserError: no such file, damaged, or another.
    """
    try:
        with safetensors.safe_open(path, framework="np") as opened:
            about = dict(opened.metadata() or {})
            if about.pop("format", "") != FORMAT:
                raise UserError(f"{path}: holds no stages: give a file of --dump")
            order = json.loads(about.pop("order"))
            return {name: opened.get_tensor(name) for name in order}, about
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
