"""Functions in JAX's ordinary operations alone, for translators to other formats.

They know neither this package's primitives, nor functions with derivatives of their
own, nor programs that choose by platform.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def plain(
    function: Callable[..., jax.Array], *arrays: jax.ShapeDtypeStruct
) -> Callable[..., jax.Array]:
    """The same function of arrays, in ordinary operations, of what its result needs.

    What is chosen by platform is what is for any; pooling is spelt out as maxima of
    slices. Values are those of `function`; there is no promise about derivatives.

    Args:
      function: of arrays, returns one.
      *arrays: their shapes and types.
    """
    # Here, because a translator may change Flax's functions while it runs.
    closed = jax.make_jaxpr(function)(*arrays)

    def run(*arrays: jax.Array) -> jax.Array:
        (result,) = _evaluate(closed.jaxpr, closed.consts, arrays)
        return result

    return run


class _Chosen(int):
    """The number of a branch that is known before any program runs."""


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> Any:
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, [*consts, *arguments], strict=True))

    def read(variable: Any) -> Any:
        if isinstance(variable, Literal):
            return np.asarray(variable.val, variable.aval.dtype)  # type: ignore[attr-defined]
        return values[variable]

    for equation in _needed(jaxpr):
        results = _apply(equation, [read(one) for one in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(one) for one in jaxpr.outvars]


def _needed(jaxpr: Jaxpr) -> list[Any]:
    """The equations that the results depend on, in order."""
    wanted = {one for one in jaxpr.outvars if not isinstance(one, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            kept.append(equation)
            wanted.update(v for v in equation.invars if not isinstance(v, Literal))
    return kept[::-1]


def _apply(equation: Any, arguments: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "linear":  # of spips_jax.classical.linear
        function, constants = params["function"], params["constants"]
        closed = jax.make_jaxpr(lambda x: function(x, *constants))(arguments[0])
        return _evaluate(closed.jaxpr, closed.consts, arguments)
    if name == "platform_index":
        return [_Chosen(len(params["platforms"]) - 1)]
    if isinstance(arguments[0] if arguments else None, _Chosen):
        if name != "cond":
            return [arguments[0]]  # its type is changed
        branch = params["branches"][arguments[0]]
        return _evaluate(branch.jaxpr, branch.consts, arguments[1:])
    if name == "reduce_window_max":
        return [_pooled(arguments[0], **params)]
    if name in ("optimization_barrier", "stop_gradient"):
        return arguments
    inside = params.get("jaxpr", params.get("call_jaxpr"))
    if isinstance(inside, ClosedJaxpr):
        return _evaluate(inside.jaxpr, inside.consts, arguments)
    if isinstance(inside, Jaxpr):
        return _evaluate(inside, [], arguments)
    found = equation.primitive.bind(*arguments, **params)
    return found if equation.primitive.multiple_results else [found]


def _pooled(
    x: Any,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **dilations: Sequence[int],
) -> jax.Array:
    """The maximum of each window, as that of slices: ONNX pools two axes, not four."""
    if any(one != 1 for given in dilations.values() for one in given):
        raise NotImplementedError(f"pooling with {dilations}")
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    x = jax.lax.pad(x, lowest, [(*ends, 0) for ends in padding])
    result: Any = None
    for corner in itertools.product(*map(range, window_dimensions)):
        ends = [
            size - window + start + 1
            for size, window, start in zip(
                x.shape, window_dimensions, corner, strict=True
            )
        ]
        one = jax.lax.slice(x, corner, ends, window_strides)
        result = one if result is None else jnp.maximum(result, one)
    return result
