"""Metrics for programs without this package: as StableHLO for JAX, and as ONNX.

Both are of one size of images, `(N, H, W, 3)` float32 in [0, 1], RGB, which are not
checked where the program runs, and return the scores `(N,)` float32 that the metric
gives. `spips export` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from spips_jax.messages import UserError
from spips_jax.metric import Metric, score
from spips_jax.outputs import SOFTWARE
from spips_jax.plain import plain

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that a program is made for, by JAX's names."""

_MISSING = "{} is not installed: install spips-jax with the extra [{}]"


def stablehlo(
    metric: Metric,
    *,
    size: tuple[int, int],
    batch: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
    weights: bool = True,
    gradient: bool = False,
) -> bytes:
    """Returns a metric as a file of `jax.export`, which JAX alone can call.

        from jax import export

        program = export.deserialize(file.read())
        scores = program.call(reference, distorted)

    Later versions of JAX read it for at least six months, by JAX's promise
    (docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). Writing and
    reading need flatbuffers, which the extra [export] brings.

    Args:
      metric: of any kind.
      size: height and width of the images, in pixels.
      batch: the number of pairs; None for any from 1 on.
      platforms: of `PLATFORMS` and JAX's others.
      weights: whether the weights are inside. If not, they are the program's first
        argument: the arrays by name that `parameters` returns.
      gradient: whether `jax.grad` can go through the program; it is twice as large
        then.

    Raises:
      UserError: the size is smaller than the metric's least, or flatbuffers is missing.
    """
    _check(metric, size)
    from jax import export

    if batch is None:
        (count,) = export.symbolic_shape("n")
    else:
        count = batch
    images = jax.ShapeDtypeStruct((count, *size, 3), jnp.float32)
    of_metric = metric.plain()

    def spips_jax_score(*arguments: Any) -> jax.Array:
        *given, reference, distorted = arguments
        of = of_metric
        if not weights:
            params = traverse_util.unflatten_dict(given[0], sep=".")
            of = of_metric.replace(variables={"params": params})  # type: ignore[attr-defined]
        return score(of, reference, distorted)

    given: list[Any] = []
    if not weights:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parameters(metric)
        )
        given = [shapes]
    exported = export.export(jax.jit(spips_jax_score), platforms=tuple(platforms))(
        *given, images, images
    )
    try:
        return bytes(exported.serialize(vjp_order=1 if gradient else 0))
    except ImportError:  # JAX's own words, of flatbuffers
        raise UserError(_MISSING.format("flatbuffers", "export")) from None


def parameters(metric: Metric) -> dict[str, np.ndarray]:
    """Returns a metric's weights by name, as its files name them.

    Args:
      metric: of any kind; one without weights has none.
    """
    params = metric.variables.get("params", {})
    flat = traverse_util.flatten_dict(dict(params), sep=".")
    return {name: np.asarray(value) for name, value in flat.items()}


def onnx(metric: Metric, *, size: tuple[int, int], batch: int = 1) -> bytes:
    """Returns a metric as an ONNX file, by jax2onnx.

    Its inputs are "reference" and "distorted", its output is "score". Of the metrics
    here, SPIPS models are tested in ONNX Runtime.

    Args:
      metric: of any kind.
      size: height and width of the images, in pixels.
      batch: the number of pairs. ONNX files of any number are not to be had: jax2onnx
        writes the shapes of some of its reshapes as constants.

    Raises:
      UserError: the size is smaller than the metric's least, jax2onnx is missing, or it
        has no translation for a part of the metric.
    """
    _check(metric, size)
    try:
        from jax2onnx import to_onnx
    except ModuleNotFoundError:
        raise UserError(_MISSING.format("jax2onnx", "onnx")) from None

    of = metric.plain()
    images = [jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)] * 2
    program = plain(lambda *pair: score(of, *pair), *images)
    try:
        model = to_onnx(
            program,
            images,
            model_name=metric.name or "metric",
            input_names=["reference", "distorted"],
            output_names=["score"],
        )
    except NotImplementedError as error:
        raise UserError(
            f"{metric.name}: jax2onnx cannot translate it ({error}): write .stablehlo"
        ) from None
    model.producer_name = SOFTWARE
    return bytes(model.SerializeToString())


def _check(metric: Metric, size: tuple[int, int]) -> None:
    image = np.broadcast_to(np.float32(0), (*size, 3))
    metric.check(image, image)
