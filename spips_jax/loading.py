"""Loading metrics by name: SPIPS models, and the baselines they are compared with."""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from spips_jax import backbones, spips
from spips_jax import weights as weight_files
from spips_jax.baselines import BASELINES
from spips_jax.messages import UserError, one_of
from spips_jax.metric import Metric
from spips_jax.weights import BACKBONE, WeightsError

MODELS = {f"spips-{network}": network for network in backbones.BACKBONES}
"""Names of the SPIPS models and of the backbone that each stands on."""

NAMES = (*MODELS, *BASELINES)
"""Names of all metrics that `load` takes."""

ENDING = ".safetensors"
"""Of the file of a trained model."""

UNTRAINED = "-untrained"
"""Ends the name of a SPIPS model with the uniform head."""


def networks(name: str) -> tuple[str, ...]:
    """Returns the networks whose weights a metric needs, the backbone first.

    Args:
      name: one of `NAMES`.
    """
    if name in MODELS:
        return (MODELS[name],)
    baseline = BASELINES[name]
    head = (name,) if baseline.head else ()
    return (baseline.backbone, *head) if baseline.backbone else head


def comes_trained(name: str) -> bool:
    """Whether `load` gives a metric of `NAMES` as it was trained or published.

    False for a SPIPS model that the package has no trained file of.
    """
    return name not in MODELS or weight_files.embedded(name) is not None


def check_name(name: str) -> None:
    """Raises `UserError` unless `load` takes a name: a metric's or a model file's."""
    if name not in NAMES and not name.endswith(ENDING):
        raise UserError(one_of("model", name, NAMES, more=f", nor a {ENDING} file"))


def load(
    name: str | os.PathLike[str] = "spips-lite",
    *,
    trained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    head: str | os.PathLike[str] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Metric:
    """Loads a metric: a SPIPS model or a baseline.

    "spips-lite", "spips-alexnet" and "spips-squeezenet" come trained with the package;
    spips-lite needs no other file. "spips-vgg16" and "spips-vgg19" come untrained.

    Args:
      name: one of `NAMES`, or the .safetensors file of a trained SPIPS model, as
        `Metric.save` and `spips train export` write it.
      trained: False takes the uniform head of a SPIPS model by name, the mean of the
        three streams, in place of the learned one.
      weights: the backbone's file, as `spips convert` writes it; by default
        `alexnet.safetensors` and so on in the cache folder (SPIPS_HOME, else the
        system's place for caches), and for spips-lite the one in the package. A
        trained model that has a backbone of its own takes no other.
      head: the file of LPIPS's linear heads or of DISTS's alpha and beta, as `spips
        convert` writes it; by default the one in the cache folder.
      dtype: of the backbone's arithmetic; float32 for scores to report, bfloat16 where
        speed counts more.

    Returns:
      The metric, with the calibration of the trained model. The name of a SPIPS model
      that is not trained ends with "-untrained".

    Raises:
      ValueError: there is no metric of that name, or it does not take an option.
      WeightsError: a file is missing, damaged, another network's, or the backbone is
        not the one that the model was trained on; the message says what to do.
    """
    name = os.fspath(name)
    check_name(name)
    if head is not None and (name not in BASELINES or BASELINES[name].head is None):
        raise UserError(f"{name} has no second file: leave head {head} out")
    if not trained and name not in MODELS:
        raise UserError(
            f"trained is False, but {name} has no uniform head: only"
            f" {', '.join(MODELS)} have"
        )
    if name in BASELINES:
        return _load_baseline(name, weights=weights, head=head, dtype=dtype)
    if name not in MODELS:
        return Metric.load(name, weights=weights, dtype=dtype)
    file = weight_files.embedded(name)
    if weights is None:
        _check_at_hand(MODELS[name])
    if file is not None and trained:
        return Metric.load(file, weights=weights, dtype=dtype)
    module = spips.Spips(backbone=backbones.build(MODELS[name], dtype=dtype))
    backbone = weight_files.read_network(MODELS[name], weights)
    params = {**spips.initialize(module), BACKBONE: backbone}
    return Metric(variables={"params": params}, module=module, name=name + UNTRAINED)


def _load_baseline(
    name: str,
    *,
    weights: str | os.PathLike[str] | None,
    head: str | os.PathLike[str] | None,
    dtype: DTypeLike,
) -> Metric:
    record = BASELINES[name]
    params: dict[str, Any] = {}
    options = {}
    if record.backbone:
        options["backbone"] = backbones.build(
            record.backbone, dtype=dtype, **dict(record.options)
        )
        params[BACKBONE] = weight_files.read_network(record.backbone, weights)
    elif weights is not None:
        raise UserError(f"{name} has no weights: leave weights {weights} out")
    if record.head is not None:
        params |= record.head.params(weight_files.read_network(name, head))
    variables = {"params": params} if params else {}
    return Metric(variables=variables, module=record.module(**options), name=name)


def _check_at_hand(network: str) -> None:
    """Raises `WeightsError` where a published backbone was not yet converted."""
    path = weight_files.weights_path(network)
    if network in weight_files.PUBLISHED and not path.is_file():
        raise WeightsError(
            f"{path}: no such file; {weight_files.how_to_get(network)}, or take"
            " spips-lite, which needs no file"
        )
