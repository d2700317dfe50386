"""Training: from a config to a model file, on one device, eight or a pod.

    spips train --config tid2013 --workdir=DIR
    spips train export --workdir=DIR --output=model.safetensors

Needs the extra [train].
"""

try:
    from spips_jax.training.checkpoint import CheckpointError
    from spips_jax.training.config import TrainingError, default, held, source
    from spips_jax.training.export import export
    from spips_jax.training.loop import Outcome, train
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed: install spips-jax with the extra [train]",
        name=error.name,
    ) from error

__all__ = [
    "CheckpointError",
    "Outcome",
    "TrainingError",
    "default",
    "export",
    "held",
    "source",
    "train",
]
