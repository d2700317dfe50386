"""A metric as a field of a module that is trained: it works, and is not trained.

The optimiser decays weights, so that one that is seen changes even without a gradient.
"""

from __future__ import annotations

import io
from typing import Any

import equinox
import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_metric import small_metric

import spips_jax
from spips_jax import perceptual_loss

REFERENCE, DISTORTED = (
    np.random.default_rng(seed).random((2, 4, 4, 3), np.float32) for seed in (0, 1)
)


@pytest.fixture
def metric() -> spips_jax.Metric:
    return small_metric()


def optimiser() -> optax.GradientTransformation:
    return optax.adamw(0.1, weight_decay=0.5)


def linen_step(metric: spips_jax.Metric) -> tuple[float, Any, Any]:
    class Model(nn.Module):
        metric: spips_jax.Metric

        @nn.compact
        def __call__(self, reference, distorted):
            output = nn.Conv(3, (1, 1))(distorted)
            return perceptual_loss(self.metric, reference, output)

    model = Model(metric)
    params = jax.jit(model.init)(jax.random.key(0), REFERENCE, DISTORTED)
    loss, slopes = jax.jit(jax.value_and_grad(model.apply))(
        params, REFERENCE, DISTORTED
    )
    updates, _ = optimiser().update(slopes, optimiser().init(params), params)
    return loss, (params, optax.apply_updates(params, updates)), model.metric


def nnx_step(metric: spips_jax.Metric) -> tuple[float, Any, Any]:
    class Model(nnx.Module):
        def __init__(self, metric, *, rngs):
            self.conv = nnx.Conv(3, 3, (1, 1), rngs=rngs)
            self.metric = metric
            self.features = metric.features(REFERENCE)

        def __call__(self, distorted):
            output = self.conv(distorted)
            return perceptual_loss(self.metric, self.features, output)

    model = Model(metric, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    trained = nnx.Optimizer(model, optimiser(), wrt=nnx.Param)

    @nnx.jit
    def step(model, trained):
        loss, slopes = nnx.value_and_grad(lambda model: model(DISTORTED))(model)
        trained.update(model, slopes)
        return loss

    loss = step(model, trained)
    return loss, (before, nnx.state(model, nnx.Param)), model.metric


class Denoiser(equinox.Module):
    """As docs/loss.md has it."""

    conv: equinox.nn.Conv2d
    metric: Any

    def __call__(self, reference, distorted):
        output = jax.vmap(self.conv)(jnp.moveaxis(distorted, -1, -3))
        output = jnp.moveaxis(output, -3, -1)
        if isinstance(self.metric, spips_jax.Metric):
            return perceptual_loss(self.metric, reference, output)
        return self.metric(reference, output).mean()


def equinox_method_step(metric: spips_jax.Metric) -> tuple[float, Any, Any]:
    conv = equinox.nn.Conv2d(3, 3, 1, key=jax.random.key(0))
    model = Denoiser(conv, metric.__call__)
    trained = equinox.filter(model, equinox.is_inexact_array)
    loss, slopes = equinox.filter_jit(
        equinox.filter_value_and_grad(lambda model: model(REFERENCE, DISTORTED))
    )(model)
    updates, _ = optimiser().update(slopes, optimiser().init(trained), trained)
    updated = equinox.apply_updates(model, updates)
    saved = io.BytesIO()
    equinox.tree_serialise_leaves(saved, updated)
    kept = equinox.tree_deserialise_leaves(io.BytesIO(saved.getvalue()), model)
    assert kept.metric == metric.__call__
    return loss, (model.conv, updated.conv), updated.metric.__self__


def equinox_partition_step(metric: spips_jax.Metric) -> tuple[float, Any, Any]:
    conv = equinox.nn.Conv2d(3, 3, 1, key=jax.random.key(0))
    model = Denoiser(conv, metric)
    spec = jax.tree.map(equinox.is_inexact_array, model)
    spec = equinox.tree_at(lambda model: model.metric, spec, False)
    trained, fixed = equinox.partition(model, spec)

    @equinox.filter_jit
    @equinox.filter_value_and_grad
    def loss_of(trained, fixed):
        return equinox.combine(trained, fixed)(REFERENCE, DISTORTED)

    loss, slopes = loss_of(trained, fixed)
    updates, _ = optimiser().update(slopes, optimiser().init(trained), trained)
    updated = equinox.combine(equinox.apply_updates(trained, updates), fixed)
    return loss, (model.conv, updated.conv), updated.metric


@pytest.mark.parametrize(
    "step", [linen_step, nnx_step, equinox_method_step, equinox_partition_step]
)
def test_a_field_that_is_a_metric_works_and_is_not_trained(metric, step):
    before = jax.tree.map(np.asarray, metric)
    loss, models, after = step(metric)
    assert np.isfinite(loss)
    first, second = (jax.tree.leaves(model) for model in models)
    assert len(first) == 2, "kernel and bias"
    assert all((a != b).any() for a, b in zip(first, second, strict=True))
    jax.tree.map(np.testing.assert_array_equal, after, before)
