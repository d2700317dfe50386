"""What a command may write: never over an input, nor over files of others.

Checked before any work, so that a mistake in a path costs nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from spips_jax.messages import UserError

SOFTWARE = "spips-jax"
"""The mark in the metadata of pictures and of files of weights that we write."""

SCORE_COLUMNS = ("reference", "distorted", "model", "score")
"""What each row of a file of scores begins with, by which such a file is known."""


def check_files(
    outputs: Iterable[str | os.PathLike[str]],
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
    option: str,
    own: bool = False,
) -> None:
    """Checks files that are going to be written.

    Args:
      outputs: the files.
      inputs: files that are read. Another spelling of a path, a link or another case
        where the system ignores case are the same file.
      option: what names the outputs, for the error.
      own: whether they lie in the package's own cache, where it may replace anything.

    Raises:
      UserError: an output is an input, or is there and was not made by this package.
    """
    read = {_identity(path): os.fspath(path) for path in inputs}
    for output in map(Path, outputs):
        same = read.get(_identity(output))
        if same is not None:
            raise UserError(
                f"{output}: is an input, too ({same}), and would be lost: give another"
                f" {option}"
            )
        there = output.exists() or output.is_symlink()
        if there and not own and not made_here(output):
            raise UserError(
                f"{output}: is there already, and is none of ours to replace: move it,"
                f" or give another {option}"
            )


def check_folder(folder: Path, *, marks: Iterable[str], option: str) -> None:
    """Checks a folder that is going to be filled.

    Args:
      folder: it may be missing, empty, or filled by this package before.
      marks: names of which a folder that this package filled has one.
      option: what names the folder, for the error.

    Raises:
      UserError: it holds something, and nothing of ours.
    """
    if holds_others(
        folder, ours=lambda: any((folder / mark).exists() for mark in marks)
    ):
        raise UserError(
            f"{folder}: is not empty, and holds nothing of ours to continue: give an"
            f" empty folder or a new one by {option}"
        )


def holds_others(folder: Path, *, ours: Callable[[], bool]) -> bool:
    """Whether a folder holds something, and nothing of ours, which `ours` tells."""
    return folder.is_dir() and any(folder.iterdir()) and not ours()


def made_here(path: Path) -> bool:
    """Whether a file's content says that this package made it."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 12)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            from PIL import Image

            with Image.open(path) as image:
                return image.info.get("Software") == SOFTWARE
        if path.suffix.lower() == ".csv":
            return start.startswith(",".join(SCORE_COLUMNS).encode())
        if path.suffix.lower() in (".json", ".jsonl"):
            row = start.removeprefix(b"[\n").partition(b"\n")[0].rstrip(b",")
            return tuple(json.loads(row))[: len(SCORE_COLUMNS)] == SCORE_COLUMNS
        if path.suffix == ".md":
            return "\nA SPIPS model" in path.read_text(encoding="utf-8")
        if path.suffix in (".onnx", ".stablehlo"):
            content = path.read_bytes()
            return any(name in content for name in (b"spips-jax", b"spips_jax_score"))
        if path.suffix.lower() in (".html", ".htm"):
            return f'name="generator" content="{SOFTWARE}"'.encode() in start
        if path.suffix == ".pt2":
            import zipfile

            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(SOFTWARE) for name in archive.namelist())
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as tensors:
            return (tensors.metadata() or {}).get("format") == SOFTWARE
    except Exception:  # whatever a damaged or another file raises: it is not ours
        return False


def _identity(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """The same for all names of a file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # no such file, or no name of one
        return ("name", os.path.realpath(path) if "\0" not in str(path) else path)
    return ("file", status.st_dev, status.st_ino)
