"""Exports a run as a model file for `spips_jax.load`, with its card."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from spips_jax import backbones
from spips_jax.files import replacing
from spips_jax.kinds import PROTOCOLS
from spips_jax.loading import ENDING, MODELS
from spips_jax.model_file import Model, read_card, write_model
from spips_jax.outputs import check_files
from spips_jax.training import setup, state, step
from spips_jax.training.checkpoint import Checkpoints, describe
from spips_jax.training.config import TrainingError
from spips_jax.training.loop import CHECKPOINTS

_PACKAGES = ("spips-jax", "jax", "jaxlib", "flax", "optax", "numpy", "grain")


def export(workdir: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Writes the best model of a run, by validation, and its card beside it.

    Args:
      workdir: of the run.
      output: the file, .safetensors; the card has the same name, .md.

    Returns:
      The card's path.

    Raises:
      TrainingError: there is no run, or the output is no .safetensors file.
      UserError: the output is there and is no model of ours, or the card is not.
      CheckpointError, WeightsError: the checkpoint or the backbone cannot be read.
    """
    output = Path(output).expanduser()
    if output.suffix != ENDING:
        raise TrainingError(f"{output}: a model file is named *{ENDING}")
    check_files([output, output.with_suffix(".md")], option="--output")
    folder = epath.Path(workdir).expanduser() / CHECKPOINTS
    saved = describe(folder)
    if saved is None:
        raise TrainingError(
            f"{folder}: there is no checkpoint to export: train first, with --workdir"
            f" {os.fspath(workdir)}"
        )
    config = ConfigDict(saved.record["config"])
    model = setup.build_model(config)
    if model.backbone != saved.record["backbone"]:
        raise TrainingError(
            f"{workdir}: was trained on a backbone of digest"
            f" {saved.record['backbone'][:16]}..., model.weights now has"
            f" {model.backbone[:16]}...: restore the weights it was trained on"
        )
    fresh = setup.build_state(config, model, setup.build_optimizer(config))
    with Checkpoints(folder, read_only=True) as checkpoints:
        best = checkpoints.best(fresh)
    if best is None:
        raise TrainingError(f"{folder}: all checkpoints in it are damaged")
    params = state.unflatten(model.frozen, best.state.evaluation_params)
    for beside in step.BESIDE:
        params.pop(beside, None)
    network = MODELS[config.model.name]
    published = backbones.BACKBONES[network].published is not None
    tuned = model.fixed is None
    whole = tuned or config.model.weights == setup.RANDOM or not published
    name = f"{config.model.name}-{config.name}" if config.name else config.model.name
    card = {
        "step": best.step,
        "agreements": best.record["agreements"],
        "data": best.record["data"],
        "config": best.record["config"],
        "packages": {one: importlib.metadata.version(one) for one in _PACKAGES},
    }
    module = model.network.module
    written = Model(name, module, jax.device_get(params), None, card)
    write_model(output, written, with_backbone=whole)
    path = output.with_suffix(".md")
    with replacing(path) as partial:
        text = _markdown(output.name, read_card(output))
        Path(partial).write_text(text, encoding="utf-8")
    return path


def _markdown(file: str, card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    backbone = (
        "in the file"
        if card["backbone_in_file"]
        else f"not in the file: `spips convert {card['backbone']}` gets it"
    )
    lines = [
        f"# {card['name']}",
        "",
        f'A SPIPS model: `spips_jax.load("{file}")`, `spips score --model {file}`.'
        " Its score is a distance: 0 for identical images, larger is worse.",
        "",
        f"- trained for {card['step']} batches of {card['config']['batch_size']}",
        f"- backbone {card['backbone']}, {backbone}",
        f"- SHA-256 of the backbone's parameters: `{card['backbone_sha256']}`",
        f"- trained parameters: `{card['config']['model']['trainable']}`",
        "",
        "| data | set | examples | references | opinions compare | losses |",
        "|---|---|---|---|---|---|",
    ]
    for use in ("training", "validation"):
        for one in card["data"][use].values():
            losses = ", ".join(
                f"{loss} x {weight:g}" for loss, weight in one.get("losses", {}).items()
            )
            lines.append(
                f"| {use} | {one['set']} | {one['examples']} | {one['references']} |"
                # Earlier runs compared all opinions of a set, and did not say so.
                f" {PROTOCOLS[one.get('comparable', 'set')]} | {losses} |"
            )
    lines += ["", "Agreement on the validation data, at the exported step:", ""]
    for label, values in card["agreements"].items():
        numbers = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
        lines.append(f"- {label}: {numbers}")
    versions = ", ".join(f"{key} {value}" for key, value in card["packages"].items())
    config = json.dumps(card["config"], indent=2)
    lines += ["", f"Made with {versions}.", "", "```json", config, "```", ""]
    return "\n".join(lines)
