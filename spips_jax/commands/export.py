"""`spips export`: a metric for programs without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from spips_jax.metric import Metric

EXIT_DIFFERENT = 1

TOLERANCE = 1e-5
"""Of scores, relative: what another compiler's rounding leaves is 1e-6."""

_ENDINGS = (".stablehlo", ".onnx")

_EPILOG = """\
examples:
  spips export spips-lite.stablehlo --size 512x384
      for JAX alone, on CPUs, GPUs and TPUs, any number of pairs at once:
        from jax import export
        program = export.deserialize(open("spips-lite.stablehlo", "rb").read())
        scores = program.call(reference, distorted)
  spips export spips-alexnet.stablehlo --model spips-alexnet --size 256x256 --gradient
      jax.grad goes through it
  spips export program.stablehlo --weights-apart weights.safetensors --size 256x256
      program.call(safetensors.numpy.load_file("weights.safetensors"), x, y)
  spips export spips-lite.onnx --size 256x256 --batch 8
      for ONNX Runtime; needs the extra [onnx], which does not go with [train]

Images are (N, H, W, 3), float32 in [0, 1], and are not checked where the file is used.

exit codes: 0 written, and its scores here are the metric's; 1 they differ; 2 an error,
in one line
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "export",
        help="write a metric as StableHLO or ONNX",
        description="Write a metric, for images of one size, as a file that needs no"
        " spips-jax: StableHLO,\nwhich JAX alone runs, or ONNX.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "output", type=Path, metavar="FILE", help="its ending says which"
    )
    parser.add_argument(
        "--model", default="spips-lite", help="a name or a file (default: %(default)s)"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the backbone's file"
    )
    parser.add_argument(
        "--size", required=True, metavar="WIDTHxHEIGHT", help="of images, in pixels"
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="the number of pairs (default: any for .stablehlo, 1 for .onnx)",
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        metavar="NAME",
        help="those that .stablehlo is for (default: cpu cuda tpu)",
    )
    parser.add_argument(
        "--gradient", action="store_true", help=".stablehlo that jax.grad can enter"
    )
    parser.add_argument(
        "--weights-apart",
        type=Path,
        metavar="FILE",
        help="write the weights to a safetensors file, which is .stablehlo's first"
        " argument",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import numpy as np

    from spips_jax import export, loading
    from spips_jax.cache import cache_compilations
    from spips_jax.files import replacing
    from spips_jax.messages import printable

    width, height = _size(args.size)
    _check_options(args)
    cache_compilations()
    metric = loading.load(args.model, weights=args.weights)
    if args.output.suffix == ".onnx":
        pairs = args.batch or 1
        content = export.onnx(metric, size=(height, width), batch=pairs)
    else:
        pairs = args.batch or 2  # to try it on, where any number will do
        content = export.stablehlo(
            metric,
            size=(height, width),
            batch=args.batch,
            platforms=args.platforms or export.PLATFORMS,
            weights=args.weights_apart is None,
            gradient=args.gradient,
        )
    if args.weights_apart:
        from safetensors.numpy import save_file

        from spips_jax.outputs import SOFTWARE

        with replacing(args.weights_apart) as partial_file:
            about = {"format": SOFTWARE, "of": metric.name}
            save_file(export.parameters(metric), partial_file, metadata=about)
    with replacing(args.output) as partial_file:
        Path(partial_file).write_bytes(content)
    print(printable(f"{args.output}: {len(content) / 1e6:.1f} MB"))
    rng = np.random.default_rng(0)
    shape = (pairs, height, width, 3)
    reference = rng.random(shape, np.float32)
    distorted = (0.9 * reference + 0.1 * rng.random(shape, np.float32)).astype("f4")
    found = _scores(args, metric, content, reference, distorted)
    if found is None:
        return 0
    scores = np.asarray(metric(reference, distorted))
    apart = float(np.max(np.abs(found - scores) / np.abs(scores)))
    print(f"its scores are those of {printable(metric.name)} to {apart:.1g} relative")
    return 0 if apart <= TOLERANCE else EXIT_DIFFERENT


def _size(text: str) -> tuple[int, int]:
    from spips_jax.messages import UserError

    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size {text}: give width and height, as in 512x384")
    return int(width), int(height)


def _check_options(args: argparse.Namespace) -> None:
    """Raises `UserError` for what does not go together, or would lose a file."""
    from spips_jax.messages import UserError
    from spips_jax.outputs import check_files

    ending = args.output.suffix
    if ending not in _ENDINGS:
        raise UserError(
            f"{args.output}: its ending must say how to write it: {', '.join(_ENDINGS)}"
        )
    if args.batch is not None and args.batch < 1:
        raise UserError(f"--batch is {args.batch}: give 1 or more")
    if ending == ".onnx":
        for option in ("platforms", "gradient", "weights_apart"):
            if getattr(args, option):
                name = option.replace("_", "-")
                raise UserError(f"--{name} goes with .stablehlo, not with .onnx")
    inputs = [path for path in (args.weights, args.model) if path]
    check_files([args.output], inputs=inputs, option="output")
    if args.weights_apart:
        inputs.append(args.output)
        check_files([args.weights_apart], inputs=inputs, option="--weights-apart")


def _scores(
    args: argparse.Namespace,
    metric: Metric,
    content: bytes,
    reference: np.ndarray,
    distorted: np.ndarray,
) -> np.ndarray | None:
    """What the file's program returns here; None where it is for other platforms."""
    import jax
    import numpy as np

    from spips_jax.export import PLATFORMS, parameters

    if args.output.suffix == ".onnx":
        from onnxruntime import InferenceSession  # jax2onnx brings it

        pair = {"reference": reference, "distorted": distorted}
        return InferenceSession(content).run(None, pair)[0]
    platform = jax.default_backend().replace("gpu", "cuda")
    if platform not in (args.platforms or PLATFORMS):
        print(f"not run here, on {platform}")
        return None
    from jax import export

    given = [parameters(metric)] if args.weights_apart else []
    program = export.deserialize(bytearray(content))
    return np.asarray(program.call(*given, reference, distorted))
