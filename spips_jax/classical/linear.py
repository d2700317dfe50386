"""Linear functions whose transpose is given, and one that does nothing but write.

JAX derives transposes by itself. Those of sums of shifts, which filters are, take XLA
on CPUs ten times longer to run than the same written out, and three times longer to
compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def linear(
    function: Callable[..., jax.Array], transpose: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """A linear function of an array `(..., H, W)` and constants, with its transpose.

    It has forward and reverse mode and `jax.vmap`. Values are in the function's units.

    Args:
      function: linear in its first argument, the array, of any leading dimensions;
        pure and made once, because programs are kept by it.
      transpose: likewise; of what `function` returns, with the same constants.

    Returns:
      `function`, whose constants must be hashable.
    """

    def call(x: jax.Array, *constants: Any) -> jax.Array:
        return _linear_p.bind(
            x, function=function, transpose=transpose, constants=constants
        )

    return call


# A primitive: `jax.custom_vjp` has no forward mode, and `linear_call` no `vmap`.
_linear_p = Primitive("linear")
_linear_p.def_impl(
    jax.jit(
        lambda x, function, transpose, constants: function(x, *constants),
        static_argnames=("function", "transpose", "constants"),
    )
)


@_linear_p.def_abstract_eval
def _(x: Any, *, function: Any, transpose: Any, constants: Any) -> Any:
    made = jax.eval_shape(lambda x: function(x, *constants), x)
    return x.update(shape=made.shape, dtype=made.dtype)


mlir.register_lowering(
    _linear_p,
    mlir.lower_fun(
        lambda x, *, function, transpose, constants: function(x, *constants),
        multiple_results=False,
    ),
)
ad.deflinear2(
    _linear_p,
    lambda g, _, *, function, transpose, constants: [
        _linear_p.bind(g, function=transpose, transpose=function, constants=constants)
    ],
)


def _batched(values: Any, axes: Any, **params: Any) -> tuple[jax.Array, int]:
    (x,), (axis,) = values, axes
    return _linear_p.bind(jnp.moveaxis(x, axis, 0), **params), 0


batching.primitive_batchers[_linear_p] = _batched


def there(x: Float[Array, "*at"]) -> Float[Array, "*at"]:
    """`x` `(...)` in its units, written to memory before it is used, its gradient too.

    XLA on CPUs else computes it anew for each shift of it: SSIM's gradient takes three
    times as long. It ignores `jax.lax.optimization_barrier` there, but looks into no
    loop whose length it doesn't know.
    """
    return jax.lax.platform_dependent(x, cpu=_written, default=_once)


def _once(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(x)


def _written_of(x: jax.Array) -> jax.Array:
    never = jnp.isnan(x[(0,) * x.ndim])  # then nothing is right anyway
    return jax.lax.cond(never, jnp.negative, lambda x: x, x)


_written = linear(_written_of, _written_of)
