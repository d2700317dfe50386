"""Trained SPIPS models as files: what was learned, and a card that says how.

A file is safetensors, as the weight files are, with the parameters of the streams, the
head and the gain. The backbone's are in it only where they are not published; otherwise
the header has their digest, and reading the model checks that the backbone is the one
it was trained on. A calibration, which is fitted after training, is in the header, too.
`Metric.load` and `Metric.save` are the way to use these files.

Version 3 of the format has a gain of three facts. The gain of versions 1 and 2 had
seven, two of the reference alone, from which heads learned what misleads on other sets:
such models are refused, unless their gain was never trained. Version 1, besides, did
not name the classical maps of the model, which were the paper's three, and had the
parameter of an attention, which was 0: every position counted alike, as now.

A file that does not name the constant of texture and structure was trained with DISTS's
1e-6, and is read with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from spips_jax import backbones, weights
from spips_jax.calibration import Calibration
from spips_jax.files import replacing
from spips_jax.outputs import made_here
from spips_jax.process import check_process
from spips_jax.spips import Spips
from spips_jax.weights import BACKBONE, WeightsError

OPTIONS = (
    "width", "streams", "statistics", "classical", "monotone", "moment_epsilon",
)  # fmt: skip
"""The attributes of `Spips` that a file keeps, beside the backbone's name."""

_KNOWN = ("name", "backbone", "backbone_in_file", "backbone_sha256", "calibration")
"""Entries of a card that come from the rest of the file."""

_AGAIN = "write it again with `spips train export --workdir DIR --output FILE`"
_UNNAMED = {"moment_epsilon": 1e-6}
_VERSION_1 = {"classical": ["psnr", "ssim", "ms_ssim"]}
_GONE = {
    "attention.weight": "attention over positions",
    "gain.output": "gain of other facts",
}
"""Parameters of older versions, of what SPIPS no longer has. Where they are 0, nothing
of it was ever learned."""


@dataclass(frozen=True)
class Model:
    """A SPIPS model as a file has it.

    Attributes:
      name: the model's.
      module: the network.
      params: its parameters, those of the backbone among them.
      calibration: a map from scores to opinions; None where there is none.
      card: how the model was made and how good it is, for JSON; the calibration is
        not in it.
    """

    name: str
    module: Spips
    params: Mapping[str, Any]
    calibration: Calibration | None
    card: Mapping[str, Any]


def write_model(
    path: str | os.PathLike[str], model: Model, *, with_backbone: bool
) -> None:
    """Writes a model, whole or not at all.

    Args:
      path: the file, .safetensors.
      model: the model.
      with_backbone: whether the backbone's parameters go into the file. Without them
        reading the file needs the backbone's own.

    Raises:
      WeightsError: a parameter is missing, extra or misshapen.
    """
    network = model.module.backbone.network
    dtype = backbones.BACKBONES[network].stored_dtype
    params = dict(model.params)
    backbone = jax.tree.map(lambda x: np.asarray(x, dtype), params.pop(BACKBONE))
    if with_backbone:
        params[BACKBONE] = backbone
    options = {name: getattr(model.module, name) for name in OPTIONS}
    metadata = {
        "name": model.name,
        "backbone": network,
        "backbone_sha256": weights.digest(backbone),
        "options": json.dumps(options),
        "card": json.dumps(
            {name: one for name, one in model.card.items() if name not in _KNOWN}
        ),
    }
    if model.calibration is not None:
        metadata["calibration"] = json.dumps(model.calibration.to_dict())
    weights.write_tensors(
        path,
        params,
        shapes=_shapes(model.module, with_backbone=with_backbone),
        network=f"spips-{network}",
        metadata=metadata,
    )


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the card of a model file.

    The file adds to it `name`, `backbone`, `backbone_in_file`, `backbone_sha256` and,
    where it has one, `calibration`.

    Raises:
      WeightsError: no such file, or not one of a trained model.
    """
    flat, metadata = _read(path)
    card = _card(flat, metadata)
    if "calibration" in metadata:
        card["calibration"] = json.loads(metadata["calibration"])
    return card


def read_model(
    path: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Reads a trained model.

    Args:
      path: the file.
      backbone: the backbone's weight file, for a model that leaves it out; by default
        the one in the cache folder.
      dtype: of the backbone's arithmetic.

    Raises:
      WeightsError: a file is missing, damaged or not a model's, or the backbone is
        another than the one that the model was trained on.
    """
    path = Path(path)
    check_process()
    flat, metadata = _read(path)
    network = metadata["backbone"]
    options: dict[str, Any] = {**_UNNAMED, **json.loads(metadata["options"])}
    if metadata["version"] == "1":
        options = {**_VERSION_1, **options}
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    module = Spips(backbone=backbones.build(network, dtype=dtype), **options)
    with_backbone = _has_backbone(flat)
    shapes = _shapes(module, with_backbone=with_backbone)
    if metadata["version"] != weights.VERSION:
        flat = _renewed(path, flat, shapes, version=metadata["version"])
    weights.check_shapes(
        path,
        flat,
        shapes=shapes,
        network=metadata["network"],
    )
    params = traverse_util.unflatten_dict(flat, sep=".")
    if not with_backbone:
        params[BACKBONE] = _read_backbone(path, backbone, metadata)
    elif backbone is not None:
        raise WeightsError(
            f"{backbone}: {path.name} has a backbone of its own: leave weights out"
        )
    return Model(
        name=metadata["name"],
        module=module,
        # Not by `jnp.asarray`, which compiles a program for each shape.
        params=jax.device_put(params),
        calibration=_calibration(path, metadata),
        card=_card(flat, metadata),
    )


def _renewed(
    path: Path,
    flat: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    version: str,
) -> dict[str, Any]:
    """The parameters of a file of an older version, with an untrained gain."""
    for name, what in _GONE.items():
        if np.any(flat.get(name, 0)):
            raise WeightsError(
                f"{path}: is of version {version} of the format, and has learned"
                f" {what}, which SPIPS no longer has: train it again"
            )
    gain = {
        name: np.zeros(shape, np.float32)
        for name, shape in shapes.items()
        if name.startswith("gain.")
    }
    removed = ("attention.", "gain.")
    return {k: v for k, v in flat.items() if not k.startswith(removed)} | gain


def _read_backbone(
    path: Path, backbone: str | os.PathLike[str] | None, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """The parameters of the backbone that the model in `path` was trained on."""
    network = metadata["backbone"]
    file = Path(backbone) if backbone else weights.weights_path(network)
    params = weights.read_weights(file, network=network)
    found = weights.digest(params)
    if found != metadata["backbone_sha256"]:
        raise WeightsError(
            f"{file}: the digest of its weights is {found[:16]}...,"
            f" {path.name} was trained on {metadata['backbone_sha256'][:16]}...:"
            f" {weights.how_to_get(network)}"
        )
    return params


def _card(flat: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    return {
        **json.loads(metadata["card"]),
        "name": metadata["name"],
        "backbone": metadata["backbone"],
        "backbone_in_file": _has_backbone(flat),
        "backbone_sha256": metadata["backbone_sha256"],
    }


_MEANING = "## What a score means"


def note_calibration(
    path: str | os.PathLike[str], calibration: Calibration, *, seen: int | None
) -> Path | None:
    """Writes what scores mean into the card beside a model file, FILE.md.

    It replaces what the card said of an earlier calibration; the rest stays.

    Args:
      path: the model file.
      calibration: what is in it now.
      seen: how many of the calibration's examples the model has seen in training; None
        if that is not known.

    Returns:
      The card; None, and nothing is written, if there is none of ours.

    Raises:
      OSError: the card cannot be written.
    """
    page = Path(path).with_suffix(".md")
    if not made_here(page):
        return None
    text = page.read_text(encoding="utf-8")
    start, _, rest = text.partition(f"\n{_MEANING}\n")
    _, there, after = rest.partition("\n## ")
    section = "\n".join(_meaning(calibration, seen))
    end = f"\n## {after}" if there else ""
    with replacing(page) as partial_page:
        Path(partial_page).write_text(
            f"{start.rstrip()}\n\n{section}\n{end}", encoding="utf-8"
        )
    return page


def _meaning(calibration: Calibration, seen: int | None) -> list[str]:
    """The section of a card that says what people would say of scores."""
    one = calibration
    what = (
        "The share of people who prefer the other image"
        if one.opinion == "preference"
        else f"{one.opinion.upper()}, from {one.scale[0]:g} to {one.scale[1]:g}"
    )
    trained = {
        None: "Whether the model was trained on them is not known.",
        0: "The model was not trained on them.",
    }.get(
        seen,
        f"The model has seen {seen:,} of them, or their photographs, in training, so"
        " expect a larger error on others.",
    )
    return [
        _MEANING,
        "",
        f"{what}: a curve fitted to {one.examples:,} examples of {one.dataset}, RMSE"
        f" {one.rmse:.3g}. {trained}",
        "",
        "| score | |",
        "|---|---|",
        *(
            f"| {low:.3f} and more | {words} |"
            if math.isinf(high)
            else f"| {low:.3f} to {high:.3f} | {words} |"
            for words, low, high in one.legend()
        ),
        "",
    ]


def _has_backbone(flat: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{BACKBONE}.") for name in flat)


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
        path, remedy="give a file that `spips train export` wrote", again=_AGAIN
    )
    if metadata.get("format") != weights.FORMAT or "card" not in metadata:
        holds = metadata.get("network", "something else")
        raise WeightsError(f"{path}: holds {holds}, not a trained model; {_AGAIN}")
    if metadata.get("backbone") not in backbones.BACKBONES:
        raise WeightsError(
            f"{path}: stands on the backbone {metadata.get('backbone')}, which is none"
            f" of {', '.join(backbones.BACKBONES)}: install a newer spips-jax"
        )
    return flat, metadata


def _shapes(module: Spips, *, with_backbone: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters, without computing anything."""
    image = jax.ShapeDtypeStruct((module.min_size, module.min_size, 3), jnp.float32)
    init = partial(module.init, method="touch")
    key = jax.eval_shape(partial(jax.random.key, 0))
    params = jax.eval_shape(init, key, image)["params"]
    return {
        name: shape
        for name, shape in weights.flat_shapes(params).items()
        if with_backbone or not name.startswith(f"{BACKBONE}.")
    }
