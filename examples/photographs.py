"""What the examples share: photographs, patches of them, pictures of results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

BUNDLED = ("astronaut", "coffee", "rocket", "chelsea")
"""Colour photographs that scikit-image brings."""


def arguments(doc: str, sizes: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all examples have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        choices=sizes,
        default="small",
        help="small: a few minutes on two cores; large: for a GPU",
    )
    parser.add_argument(
        "--photographs",
        type=Path,
        metavar="FOLDER",
        help="of .png and .jpg files; by default four that scikit-image brings",
    )
    parser.add_argument("--model", default="spips-lite", help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a new folder for the pictures",
    )
    return parser


def new_folder(path: Path) -> Path:
    """Makes the output's folder; ends the program where it exists."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise SystemExit(f"{path} exists: name a new folder") from None
    return path


def read(folder: Path | None, *, least: int) -> list[np.ndarray]:
    """Photographs `(H, W, 3)`, float32 in [0, 1], of sides of at least `least`."""
    if folder is None:
        from skimage import data

        found = [getattr(data, name)() for name in BUNDLED]
    else:
        from PIL import Image

        kinds = (".png", ".jpg", ".jpeg")
        files = [x for x in sorted(folder.iterdir()) if x.suffix.lower() in kinds]
        found = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    large = [image for image in found if min(image.shape[:2]) >= least]
    if len(large) < 2:
        raise SystemExit(
            f"{folder} has {len(large)} photographs of at least {least} pixels a side:"
            " two are needed, one to train on and one to judge by"
        )
    return [np.float32(image) / 255 for image in large]


def patches(
    images: Sequence[np.ndarray], side: int, count: int, *, seed: int
) -> Iterator[np.ndarray]:
    """Batches of random squares, mirrored at random: `(count, side, side, 3)`."""
    rng = np.random.default_rng(seed)
    while True:
        batch = []
        for number in rng.integers(len(images), size=count):
            image = images[number]
            top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
            patch = image[top : top + side, left : left + side]
            batch.append(patch[:, ::-1] if rng.random() < 0.5 else patch)
        yield np.stack(batch)


def sheet(
    path: Path,
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    scale: int,
    titles: Sequence[str] = (),
) -> None:
    """Rows of images with their names, each pixel `scale` wide."""
    plt = _pyplot()
    columns = max(len(images) for images in rows.values())
    height, width = next(iter(rows.values()))[0].shape[:2]
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(columns * width * scale / 100 + 1, len(rows) * height * scale / 100),
        squeeze=False,
        layout="constrained",
    )
    for (name, images), places in zip(rows.items(), axes, strict=True):
        for place in places:
            place.set_xticks([])
            place.set_yticks([])
            place.set_frame_on(False)
        for image, place in zip(images, places, strict=False):
            place.imshow(np.clip(image, 0, 1), interpolation="nearest")
        places[0].set_ylabel(name)
    for title, place in zip(titles, axes[0], strict=False):
        place.set_title(title, fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def curves(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
) -> None:
    """A panel for each measure: by name, its values `(step, value)`."""
    plt = _pyplot()
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(4 * len(panels), 3),
        squeeze=False,
        layout="constrained",
    )
    for (title, lines), place in zip(panels.items(), axes[0], strict=True):
        for name, points in lines.items():
            place.plot(*zip(*points, strict=True), label=name)
        place.set_title(title, fontsize=10)
        place.set_xlabel("step")
        place.grid(alpha=0.3)
        place.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of numbers under the names of their columns."""
    columns = list(next(iter(rows.values())))
    width = max(map(len, rows)) + 2
    lines = [" " * width + "".join(f"{name:>12}" for name in columns)]
    for name, values in rows.items():
        cells = "".join(f"{values[column]:12.4f}" for column in columns)
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
