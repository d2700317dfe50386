"""Trained SPIPS models as files: what was learned, and a card that says how.

A file is safetensors, as the weight files are, with the parameters of the streams, the
attention, the head and the gain. The backbone's are in it only where they were trained
too; otherwise the header has their digest, and loading the model checks that the
backbone at hand is the one it was trained on. Those of "lite" are stored as float16,
half as large; arithmetic stays float32. A calibration, which is fitted after training,
is in the header, too.

Some models come with the package; `embedded` finds their files. The card to read lies
beside each, in Markdown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from spips_jax import backbones, weights
from spips_jax.calibration import Calibration
from spips_jax.images import MIN_SIZE
from spips_jax.spips import Spips
from spips_jax.weights import BACKBONE, WeightsError

_AGAIN = "write it anew with `python train.py export --workdir DIR --output FILE`"


def embedded(name: str) -> Path | None:
    """Returns the file of the model `name` in the package; None where it has none."""
    path = weights.PACKAGE / f"{name}.safetensors"
    return path if path.is_file() else None


def write_model(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    *,
    name: str,
    network: str,
    options: Mapping[str, Any],
    whole: bool,
    card: Mapping[str, Any],
) -> None:
    """Writes a trained model, whole or not at all.

    Args:
      path: the file, .safetensors.
      params: of the network, those of the backbone among them.
      name: the model's.
      network: the backbone, a key of `backbones.BACKBONES`.
      options: attributes of `Spips` beside its backbone, for JSON.
      whole: whether the backbone's parameters go into the file.
      card: how the model was made and how good it is, for JSON.

    Raises:
      WeightsError: a parameter is missing, extra or misshapen.
    """
    flat = _stored(traverse_util.flatten_dict(dict(params), sep="."), network=network)
    stored = traverse_util.unflatten_dict(flat, sep=".")
    backbone = stored[BACKBONE] if whole else stored.pop(BACKBONE)
    weights.write_tensors(
        path,
        stored,
        shapes=_shapes(network, options=options, whole=whole),
        network=f"spips-{network}",
        metadata={
            "name": name,
            "backbone": network,
            "backbone_sha256": weights.digest(backbone),
            "options": json.dumps(dict(options)),
            "card": json.dumps(card),
        },
    )


def write_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Puts a calibration into a model's file, in place of any that it has.

    The file is replaced, whole or not at all. All else in it stays as it is.

    Raises:
      WeightsError: no such file, or not one of a trained model.
    """
    flat, metadata = _read(path)
    weights.write_tensors(
        path,
        _stored(flat, network=metadata["backbone"]),
        shapes={name: tensor.shape for name, tensor in flat.items()},
        network=metadata["network"],
        metadata={**metadata, "calibration": json.dumps(calibration.to_dict())},
    )


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the card of a model file, with its `name` and `backbone_sha256`.

    Raises:
      WeightsError: no such file, or not one of a trained model.
    """
    _, metadata = _read(path)
    return {
        **json.loads(metadata["card"]),
        "name": metadata["name"],
        "backbone_sha256": metadata["backbone_sha256"],
    }


def read_model(
    path: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | None = None,
    dtype: Any = jnp.float32,
) -> tuple[str, Spips, dict[str, Any], Calibration | None]:
    """Reads a trained model.

    Args:
      path: the file.
      backbone: the backbone's weight file, for a model that leaves it out; by default
        the one in the cache folder.
      dtype: of the backbone's arithmetic.

    Returns:
      Its name, its network, the network's parameters, and its calibration if it has
      one.

    Raises:
      WeightsError: a file is missing, damaged or not a model's, or the backbone is
        another than the one that the model was trained on.
    """
    path = Path(path)
    flat, metadata = _read(path)
    calibration = _calibration(path, metadata)
    network = metadata["backbone"]
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(metadata["options"]).items()
    }
    whole = any(name.startswith(f"{BACKBONE}.") for name in flat)
    weights.check_shapes(
        path,
        flat,
        shapes=_shapes(network, options=options, whole=whole),
        network=metadata["network"],
    )
    params = traverse_util.unflatten_dict(flat, sep=".")
    if whole:
        if backbone is not None:
            raise WeightsError(
                f"{backbone}: {path.name} has a backbone of its own: leave weights out"
            )
    else:
        file = Path(backbone) if backbone else weights.weights_path(network)
        params[BACKBONE] = weights.read_weights(file, network=network)
        found = weights.digest(params[BACKBONE])
        if found != metadata["backbone_sha256"]:
            raise WeightsError(
                f"{file}: the digest of its weights is {found[:16]}...,"
                f" {path.name} was trained on {metadata['backbone_sha256'][:16]}...:"
                f" {weights.how_to_get(network)}"
            )
    module = Spips(backbone=backbones.build(network, dtype=dtype), **options)
    return metadata["name"], module, jax.tree.map(jnp.asarray, params), calibration


def _calibration(path: Path, metadata: Mapping[str, str]) -> Calibration | None:
    if "calibration" not in metadata:
        return None
    try:
        return Calibration.from_dict(json.loads(metadata["calibration"]))
    except ValueError as error:
        raise WeightsError(
            f"{path}: its calibration is damaged ({error}); {_AGAIN}"
        ) from None


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    flat, metadata = weights.read_tensors(
        path, remedy="give a file that `train.py export` wrote", again=_AGAIN
    )
    if metadata.get("format") != weights.FORMAT or "card" not in metadata:
        holds = metadata.get("network", "something else")
        raise WeightsError(f"{path}: holds {holds}, not a trained model; {_AGAIN}")
    if metadata.get("backbone") not in backbones.BACKBONES:
        raise WeightsError(
            f"{path}: is over the backbone {metadata.get('backbone')}, which is none of"
            f" {', '.join(backbones.BACKBONES)}: install a newer spips-jax"
        )
    return flat, metadata


def _stored(flat: Mapping[str, Any], *, network: str) -> dict[str, Any]:
    """A model's parameters by name in the types in which its file has them."""
    if network != "lite":
        return dict(flat)
    return {
        name: np.asarray(x, np.float16) if name.startswith(f"{BACKBONE}.") else x
        for name, x in flat.items()
    }


def _shapes(
    network: str, *, options: Mapping[str, Any], whole: bool
) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters, without computing anything."""
    module = Spips(backbone=backbones.build(network), **options)
    image = jax.ShapeDtypeStruct((MIN_SIZE, MIN_SIZE, 3), jnp.float32)
    init = partial(module.init, jax.random.key(0))
    params = jax.eval_shape(init, image, image)["params"]
    flat = traverse_util.flatten_dict(params, sep=".")
    return {
        name: tuple(tensor.shape)
        for name, tensor in flat.items()
        if whole or not name.startswith(f"{BACKBONE}.")
    }
