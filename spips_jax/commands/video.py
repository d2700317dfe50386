"""`spips video`: scores of the frames of a video, or of a folder of frames."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spips_jax.commands.rows import check_ending, direction, writers
from spips_jax.messages import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from spips_jax.metric import Metric

BATCH = 4
"""Frames that are scored at once: more gain little and take memory."""

_HDR = (16, 18)
"""PQ and HLG among the transfer functions of ITU-T H.273."""

_EPILOG = """\
examples:
  spips video original.mp4 coded.mp4
  spips video original.mp4 coded.webm --model spips-lite --model psnr --output s.csv
  spips video frames/original frames/coded --plot scores.png --every 5

Folders are matched by the order of their files' names. Frames are compared one by one:
nothing here knows of motion. The first frame of each is frame 0; videos whose frames
begin or go at another time must be brought into step before.

exit codes: 0 all frames were scored; 2 an error, in one line: one ends before the
other, or a frame cannot be read or scored; what was scored is shown
"""


def add_to(commands: Any) -> None:
    """Adds the command to a tree."""
    parser = commands.add_parser(
        "video",
        help="score the frames of a video",
        description="Score the frames of two videos, or of two folders, one by one:"
        " mean and percentiles,\na row for each, a plot.",
        epilog=_EPILOG,
    )
    parser.add_argument("reference", type=Path, metavar="REFERENCE")
    parser.add_argument("distorted", type=Path, metavar="DISTORTED")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a name or a file; may be given many times (default: spips-lite)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="score each N-th frame"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line and a frame"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a file of rows: .csv, .json, .jsonl",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the scores over time, as a PNG"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from spips_jax import loading
    from spips_jax.cache import cache_compilations
    from spips_jax.commands.pairs import Pair
    from spips_jax.commands.score import DEFAULT, check_once
    from spips_jax.commands.scoring import add_opinion, new_row
    from spips_jax.outputs import check_files
    from spips_jax.progress import Bar

    if args.every < 1:
        raise UserError(f"--every is {args.every}: give 1 or more")
    models = args.model or [DEFAULT]
    check_once(models)
    inputs = [args.reference, args.distorted, *models]
    if args.output is not None:
        check_ending(args.output)
        check_files([args.output], inputs=inputs, option="--output")
    if args.plot is not None:
        check_files([args.plot], inputs=inputs, option="--plot")
    sides = [_frames(path) for path in (args.reference, args.distorted)]
    cache_compilations()
    metrics = [loading.load(model) for model in models]
    sinks = writers(metrics, as_json=args.json, output=args.output)
    scored: list[tuple[int, list[float]]] = []
    try:
        with Bar("scoring frames", total=None, shown=True) as progress:
            pairs = itertools.islice(_together(args, *sides), 0, None, args.every)
            for batch in _batches(pairs):
                for frame, scores in _score(metrics, batch, args):
                    scored.append((frame, scores))
                    pair = Pair(
                        f"{args.reference}#{frame}", f"{args.distorted}#{frame}"
                    )
                    rows = [new_row(pair, metric) for metric in metrics]
                    for row, metric, score in zip(rows, metrics, scores, strict=True):
                        row["score"] = score
                        add_opinion(row, metric)
                    for sink in sinks:
                        sink.write(rows)
                    progress.advance(1)
    finally:
        for sink in sinks:
            sink.close()
        if scored and args.plot is not None:
            _plot(args.plot, metrics, scored)
    if args.plot is not None:
        import sys

        print(printable(f"drawn: {args.plot}"), file=sys.stderr)
    return 0


_Pair = tuple[int, "np.ndarray", "np.ndarray"]


def _together(
    args: argparse.Namespace, reference: Iterator[Any], distorted: Iterator[Any]
) -> Iterator[_Pair]:
    """Frames of both, while both have some."""
    for number, (x, y) in enumerate(itertools.zip_longest(reference, distorted)):
        if x is None or y is None:
            ended, other = args.reference, args.distorted
            if y is None:
                ended, other = other, ended
            raise UserError(
                f"{ended} ends after {number} frames, {other} goes on: compare what"
                " lasts equally long"
            )
        yield number, x, y


def _batches(pairs: Iterator[_Pair]) -> Iterator[list[_Pair]]:
    """Full batches; at the end, and before an error, what is left."""
    batch: list[_Pair] = []
    problem: Exception | None = None
    while problem is None:
        try:
            batch.append(next(pairs))
        except StopIteration:
            break
        except UserError as error:
            problem = error
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
    if problem is not None:
        raise problem


def _score(
    metrics: Sequence[Metric], batch: list[_Pair], args: argparse.Namespace
) -> Iterator[tuple[int, list[float]]]:
    import numpy as np

    first = batch[0][0]
    sizes = {image.shape for _, *pair in batch for image in pair}
    if len(sizes) > 1:
        shown = " and ".join(f"{w}x{h}" for h, w, _ in sorted(sizes))
        raise UserError(
            f"{args.reference}, {args.distorted}: frames from {first} on are of {shown}"
            " pixels: scale one of them"
        )
    # Full batches have one program; the last is filled up, and its scores left out.
    padded = [*batch, *[batch[-1]] * (BATCH - len(batch))]
    images = [np.stack([pair[side] for pair in padded]) for side in (1, 2)]
    found = [np.asarray(metric(*images)) for metric in metrics]
    for place, (number, *_) in enumerate(batch):
        yield number, [float(scores[place]) for scores in found]


def _frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video or of a folder, `(H, W, 3)` each.

    Raises:
      UserError: there is none, or what is there is neither.
    """
    if path.is_dir():
        from spips_jax.image_files import is_image_name, read_image

        files = sorted(one for one in path.iterdir() if is_image_name(one))
        if not files:
            raise UserError(f"{path}: holds no image file")
        return (read_image(file, min_size=1) for file in files)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _decoded(path)


def _decoded(path: Path) -> Iterator[np.ndarray]:
    import av
    import numpy as np

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: has no video")
            stream = container.streams.video[0]
            if stream.codec_context.color_trc in _HDR:
                raise UserError(
                    f"{path}: is of high dynamic range (PQ or HLG), which SPIPS does"
                    " not know; map it to SDR"
                )
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                deep = max(part.bits for part in frame.format.components) > 8
                pixels = frame.to_ndarray(format="rgb48le" if deep else "rgb24")
                yield np.asarray(pixels / 65535, np.float32) if deep else pixels
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read as a video ({reason})") from None


def _plot(
    path: Path, metrics: Sequence[Metric], scored: list[tuple[int, list[float]]]
) -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from spips_jax.files import replacing
    from spips_jax.outputs import SOFTWARE

    figure = Figure(
        figsize=(9, 0.6 + 2.2 * len(metrics)), dpi=110, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    frames = [frame for frame, _ in scored]
    for place, (axis, metric) in enumerate(zip(axes, metrics, strict=True)):
        scores = [found[place] for _, found in scored]
        low, high = np.quantile(scores, (0.05, 0.95))
        axis.axhspan(low, high, alpha=0.12, label="5th to 95th percentile")
        axis.axhline(
            np.mean(scores), ls="--", lw=1, label=f"mean {np.mean(scores):.4f}"
        )
        axis.plot(frames, scores, lw=1.2)
        axis.set_ylabel(f"{metric.name}\n{direction(metric)}", fontsize=8)
        axis.legend(fontsize=7, loc="upper right")
    axes[-1].set_xlabel("frame")
    with replacing(path) as partial_file:
        canvas.print_png(partial_file, metadata={"Software": SOFTWARE})
