"""Our side: a worker, or with other words a process measured as a whole.

python benchmarks/ours.py memory METRIC HEIGHT WIDTH     # one score; prints MiB
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import worker

import spips_jax
from spips_jax import Metric, backbones, cache, weights, winograd
from spips_jax.baselines import BASELINES
from spips_jax.loading import MODELS, networks
from spips_jax.spips import CLASSICAL, Spips


def load(name: str) -> Metric:
    """A metric; with random weights if they are not in the package."""
    if name == "spips-lite" or not networks(name):
        return spips_jax.load(name)
    if name in MODELS:
        module = Spips(backbone=backbones.build(MODELS[name]), classical=maps(name))
    else:
        record = BASELINES[name]
        backbone = backbones.build(record.backbone, **dict(record.options))
        module = record.module(backbone=backbone)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def whole(module: Any, image: jax.Array) -> Any:
        return module.compare(module.extract(image), module.extract(image))

    init = partial(module.init, method=whole)
    shapes = jax.eval_shape(init, jax.random.key(0), image)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) == 4:
            return worker.kernel(path[-2].key, leaf.shape)
        return np.full(leaf.shape, worker.HEAD, np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return Metric(variables=jax.device_put(variables), module=module, name=name)


def maps(name: str) -> tuple[str, ...]:
    """The classical maps that a model comes with."""
    file = weights.embedded(name)
    if file is None:
        return CLASSICAL
    with safetensors.safe_open(file, framework="np") as opened:
        options = json.loads(opened.metadata()["options"])
    return tuple(options["classical"])


def total(distorted: jax.Array, metric: Metric, reference: jax.Array) -> jax.Array:
    """The loss whose gradient is timed."""
    return metric(reference, distorted).sum()


def loss(distorted: jax.Array, metric: Metric, reference: Any) -> jax.Array:
    """As a model's training has it."""
    return spips_jax.perceptual_loss(metric, reference, distorted)


def taps(metric: Metric, images: jax.Array) -> list[jax.Array]:
    """The backbone's activations, shallow to deep."""
    params = metric.variables["params"]["backbone"]
    backbone = metric.module.backbone
    found = backbone.apply({"params": params}, backbone.normalize(images))
    return [found[name] for name in backbone.taps]


def make(spec: worker.Spec) -> worker.Job:
    """What a request asks for, ready to run."""
    what = spec["what"]
    if what != "loss":  # two sides of a case, whose programs the worker keeps
        jax.clear_caches()
    if what == "matmul":
        x = jnp.full((spec["side"],) * 2, 0.5)
        return blocking(jax.jit(partial(jnp.matmul, precision="highest")), x, x)
    if what == "copy":
        x = np.ones(spec["bytes"], np.uint8)
        return partial(np.copyto, np.ones_like(x), x)
    metric = load(spec["metric"])
    if what == "count":
        return partial(count, metric, spec["size"])
    reference, distorted = jax.device_put(worker.pairs(spec["size"]))
    if what == "score":
        return blocking(metric, reference, distorted)
    if what == "gradient":
        return blocking(jax.jit(jax.grad(total)), distorted, metric, reference)
    if what == "loss":
        first = metric.features(reference) if spec.get("kept") else reference
        step = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(step(distorted, metric, first))[1]
    if what == "backbone":
        images = jnp.concatenate([reference, distorted])
        if not spec.get("winograd", True):
            winograd.MIN_CHANNELS, kept = sys.maxsize, winograd.MIN_CHANNELS
        program = jax.jit(taps).lower(metric, images).compile()
        if not spec.get("winograd", True):
            winograd.MIN_CHANNELS = kept
        return lambda: jax.block_until_ready(program(metric, images))[-1]
    if what == "set":

        def compare() -> np.floating:
            features = metric.features(reference[0])
            return np.mean([metric(features, image) for image in distorted])

        return compare
    function = jax.grad(total) if spec["of"] == "gradient" else total
    lower = lambda: jax.jit(function).lower(distorted, metric, reference)  # noqa: E731
    return partial(compiled, lower, what)


def blocking(function: Callable[..., Any], *arguments: Any) -> worker.Job:
    return lambda: jax.block_until_ready(function(*arguments))


def compiled(lower: Callable[[], Any], what: str) -> worker.Seconds:
    """Seconds of tracing and lowering, of compiling what was lowered, or of both."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = lower()
    middle = time.perf_counter()
    if what == "lower":
        return worker.Seconds(middle - start)
    lowered.compile()
    end = time.perf_counter()
    return worker.Seconds(end - (start if what == "first" else middle))


def count(metric: Metric, size: list[int]) -> dict[str, float]:
    """Operations and bytes of the convolutions of one image, from their shapes.

    A multiplication and an addition are two operations. Every convolution reads its
    input and weights and writes its output once, in float32.
    """
    counts = {"operations": 0.0, "bytes": 0.0}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            (x,) = args
            weights = np.prod(context.module.kernel_size) * x.shape[-1]
            counts["operations"] += 2.0 * result.size * weights
            numbers = x.size + result.size + weights * result.shape[-1]
            counts["bytes"] += 4.0 * numbers
        return result

    image = jax.ShapeDtypeStruct((1, *size[1:], 3), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(partial(taps, metric), image)
    return {name: float(value) for name, value in counts.items()}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        about = {"jax": jax.__version__, "spips-jax": spips_jax.__version__}
        worker.serve(make, about)
    else:
        cache.cache_compilations()  # as the command line does
        height, width = map(int, sys.argv[3:])
        load(sys.argv[2])(*worker.large_pair(height, width)).block_until_ready()
        print(worker.peak_mib())
