"""The shapes that annotations promise, checked at run time by jaxtyping and beartype.

In a process of its own, where names that are imported for type checkers alone exist:
users pay nothing for the annotations.
"""

from __future__ import annotations

import subprocess
import sys

SET_UP = """
import typing
import beartype, dm_pix, flax.linen, flax.nnx, flax.struct, jax, safetensors.numpy
import scipy.stats
from jaxtyping import TypeCheckError, install_import_hook
typing.TYPE_CHECKING = True  # of what is imported from here on
CHECKED = ("losses", "classical", "streams", "facts")
with install_import_hook([f"spips_jax.{one}" for one in CHECKED], "beartype.beartype"):
    import spips_jax
    from spips_jax import classical, facts, losses, streams
import jax.numpy as jnp
import numpy as np
jax.config.update("jax_disable_most_optimizations", True)
rng = np.random.default_rng(0)
images = [jnp.asarray(rng.random((2, 37, 44, 3)), jnp.float32) for _ in range(2)]
taps = [jnp.asarray(rng.random((2, 5, 6, 4)), jnp.float32) for _ in range(2)]
columns = [jnp.asarray(rng.random(6), jnp.float32) for _ in range(2)]
mask = jnp.arange(6) < 4
"""

RIGHT = """
for measure in (
    classical.psnr, classical.ssim, classical.ms_ssim, classical.gmsd, classical.mdsi,
    classical.haarpsi, facts.facts
):
    jax.eval_shape(measure, *images)
    jax.eval_shape(jax.vmap(measure), *images)
jax.eval_shape(classical.quality_maps, *images)
for measure in (classical.vif, classical.fsim, classical.fsimc, classical.vsi):
    jax.eval_shape(measure, *(jnp.tile(image, (1, 2, 1, 1)) for image in images))
for difference in (
    streams.squared_difference, streams.texture_difference, streams.structure_difference
):
    jax.eval_shape(difference, *taps)
streams.resize(taps[0][..., 0], 9, 11)
for loss in (losses.plcc_loss, losses.rank_loss, losses.l1_loss):
    jax.eval_shape(jax.value_and_grad(loss), *columns, mask=mask)
jax.eval_shape(losses.choice_cross_entropy, *columns)
metric = spips_jax.load()
jax.eval_shape(jax.grad(lambda y: metric(images[0], y).sum()), images[1])
"""


WRONG = [
    "classical.structural.squared_error(images[0], images[1][:, :30])",
    "classical.structural.squared_error(images[0][..., :1], images[1][..., :1])",
    "streams.texture_difference(taps[0], taps[1][..., :3])",
    "losses.rank_loss(columns[0], columns[1][:5])",
    "losses.plcc_loss(*columns, mask=mask[:5])",
    "facts.facts(images[0], images[1].astype(jnp.int32))",
]

REFUSED = """
import sys
for call in sys.argv[1:]:
    try:
        eval(call)
    except TypeCheckError:
        print(call)
"""


def run(program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + program, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_right_passes() -> None:
    run(RIGHT)


def test_what_is_wrong_is_refused() -> None:
    """Otherwise the test above would say nothing."""
    assert run(REFUSED, *WRONG).splitlines() == WRONG
