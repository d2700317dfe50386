"""Evaluation: how well metrics agree with people, as tables, figures and every score.

    spips evaluate --model spips-lite --model psnr --data tid2013 --output DIR

Needs the extra [eval].
"""

try:
    from spips_jax.evaluation.config import EvaluationError, dataset, default, model
    from spips_jax.evaluation.run import Evaluation, calibrate, evaluate
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed: install spips-jax with the extra [eval]",
        name=error.name,
    ) from error

__all__ = [
    "Evaluation",
    "EvaluationError",
    "calibrate",
    "dataset",
    "default",
    "evaluate",
    "model",
]
