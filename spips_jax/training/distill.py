"""Distillation: a backbone, the student, learns to imitate another one, its teacher.

With u(x) the activations of a tap divided by their norm at each position, `s` the
student, `t` its teacher, and r and d the two images of a pair:

    features:     mean over positions of r and d of  |A u_s - u_t|^2
    differences:  mean over positions of  (sqrt(D_s + e) - sqrt(D_t + e))^2,
                  D = |u(r) - u(d)|^2 / 2

Each is summed over the taps. "features" are the hints of FitNets (Romero et al., arXiv
1412.6550): A, a linear map from the student's channels to the teacher's, is trained
with the student and discarded. "differences" are the distances that a metric takes from
a network; relations between examples teach what their features alone do not (Park et
al., arXiv 1904.05068). The root keeps small distances, those of good images, from being
ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LOSSES = ("features", "differences")

TEACHER = "teacher"
ADAPTER = "adapter"
"""Parameter groups of the teacher, which is frozen, and of the maps A."""

EPSILON = 1e-4
"""Smaller differences count as none; keeps the root's slope finite."""


def adapters(
    student: Mapping[str, int], teacher: Mapping[str, int]
) -> dict[str, jax.Array]:
    """Initial values of A, `{tap: (C_s, C_t)}`, from both networks' channels by tap.

    They are 0, since no random A is better: the features' error starts at 1.
    """
    return {
        tap: jnp.zeros((channels, teacher[tap])) for tap, channels in student.items()
    }


def feature_error(
    student: jax.Array, teacher: jax.Array, adapter: jax.Array
) -> jax.Array:
    """`|A u_s - u_t|^2`, averaged over positions, for each image of a batch.

    Args:
      student: u_s `(..., h, w, C_s)`.
      teacher: u_t `(..., h, w, C_t)`.
      adapter: A `(C_s, C_t)`.

    Returns:
      `(...)`; 1 for A = 0, since a teacher's features have length 1.
    """
    adapted = jnp.matmul(student, adapter, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(adapted - teacher), axis=-1)
    return jnp.mean(squares, axis=(-2, -1))


def difference_error(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """`(sqrt(D_s + e) - sqrt(D_t + e))^2`, averaged over positions, for each pair.

    Args:
      student: `(u_s(r) - u_s(d))^2`, `(..., h, w, C_s)`.
      teacher: `(u_t(r) - u_t(d))^2`, `(..., h, w, C_t)`.

    Returns:
      `(...)`.
    """
    roots = [
        jnp.sqrt(jnp.sum(squares, axis=-1) / 2 + EPSILON)
        for squares in (student, teacher)
    ]
    return jnp.mean(jnp.square(roots[0] - roots[1]), axis=(-2, -1))


def errors(
    student: Mapping[str, jax.Array],
    teacher: Mapping[str, jax.Array],
    adapters: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """The terms of both losses, for each pair of a batch.

    Args:
      student: `{tap: (2, b, h, w, C_s)}`, u_s of references and of distorted images.
      teacher: `{tap: (2, b, h, w, C_t)}`, u_t of the same images.
      adapters: `{tap: (C_s, C_t)}`.

    Returns:
      `{"features/<tap>": (b,), "differences/<tap>": (b,)}`.
    """
    found = {}
    for tap, adapter in adapters.items():
        s, t = student[tap], teacher[tap]
        found[f"features/{tap}"] = jnp.mean(feature_error(s, t, adapter), axis=0)
        squares = [jnp.square(u[0] - u[1]) for u in (s, t)]
        found[f"differences/{tap}"] = difference_error(*squares)
    return found
