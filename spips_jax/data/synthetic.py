"""Graded synthetic distortions of photographs, labelled by their level.

No human judged these pairs. Their label is the level, 1 to 5, of one distortion of one
photograph, which only ranks the levels among themselves: a stronger level of the same
distortion of the same photograph looks worse. That is what a rank loss needs, and it
brings scenes and distortions that no human-scored set has.

Photographs come from a folder or, so that nothing need be downloaded, are made:
`spips_jax.data.scenes`.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from spips_jax.data.builder import Card, DataError, IqaBuilder, Row, encode_png
from spips_jax.data.distortions import DISTORTIONS, LEVELS, distort
from spips_jax.data.scenes import scene
from spips_jax.images import ImageError, read_image

_ENDINGS = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class _Rendering:
    """An image to be made: a photograph, or one distorted."""

    photograph: Path | int  # a file, or the number of a made scene
    kind: str = ""
    level: int = 0
    seed: int = 0


class Synthetic(IqaBuilder):
    """Pairs of photographs and their distortions, `synthetic/<config>`."""

    def __init__(
        self,
        *,
        config: str = "scenes",
        photographs: str | os.PathLike[str] | None = None,
        scenes: int = 16,
        size: int | None = None,
        kinds: Sequence[str] = (),
        seed: int = 0,
        **options: Any,
    ) -> None:
        """A builder of `synthetic/<config>`.

        Args:
          config: what to call the set.
          photographs: a folder of images; without one, scenes are made.
          scenes: how many to make.
          size: side of the square cut from each photograph's middle, or made. By
            default photographs stay whole and scenes are 160 pixels.
          kinds: distortions, all of `distortions.DISTORTIONS` by default.
          seed: fixes the random distortions.
          **options: as of `IqaBuilder`.

        Raises:
          DataError: an unknown distortion, fewer than one scene.
        """
        unknown = [kind for kind in kinds if kind not in DISTORTIONS]
        if unknown:
            raise DataError(
                f"no distortion {', '.join(unknown)}; there are"
                f" {', '.join(DISTORTIONS)}"
            )
        if scenes < 1:
            raise DataError(f"{scenes} scenes: make one at least")
        self._folder = None if photographs is None else Path(photographs)
        self._scenes = scenes
        self._size = size
        self._kinds = tuple(kinds) or tuple(DISTORTIONS)
        self._seed = seed
        card = Card(
            title=f"synthetic pairs ({config})",
            kind="ranks",
            opinion="level",
            scale=(1, LEVELS),
            layout="a folder of photographs, or nothing",
            url="",
            licence="that of the photographs; made scenes are the project's",
            citation="",
        )
        named = tfds.core.BuilderConfig(name=config, version=self.VERSION)
        super().__init__(config=named, card=card, **options)

    def find_root(self, manual_dir: Path | None) -> Path:
        return self._folder or Path()

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        rows = []
        for reference_id, photograph in self._photographs().items():
            seed = zlib.crc32(f"{self._seed}/{reference_id}".encode())
            for kind in self._kinds:
                for level in range(1, LEVELS + 1):
                    images = {
                        "reference": _Rendering(photograph),
                        "distorted": _Rendering(photograph, kind, level, seed),
                    }
                    values = {
                        "id": f"{reference_id}/{kind}/{level}",
                        "reference_id": reference_id,
                        "distortion": kind,
                        "level": level,
                    }
                    rows.append(Row(images, values, f"{reference_id}, {kind} {level}"))
        return {"full": rows}

    def _photographs(self) -> dict[str, Path | int]:
        if self._folder is None:
            return {f"scene{number:03d}": number for number in range(self._scenes)}
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: no such folder of photographs")
        files = sorted(
            path
            for path in self._folder.iterdir()
            if path.suffix.lower() in _ENDINGS and path.is_file()
        )
        if not files:
            raise DataError(f"{self._folder}: holds no images ({', '.join(_ENDINGS)})")
        photographs: dict[str, Path | int] = {}
        for path in files:
            if path.stem in photographs:
                raise DataError(
                    f"{path}: {photographs[path.stem]} has the same name: rename one"
                )
            photographs[path.stem] = path
        return photographs

    def encode(self, source: _Rendering) -> tuple[bytes, tuple[int, int]]:
        pixels = _photograph(source.photograph, self._size)
        if source.kind:
            pixels = distort(pixels, source.kind, source.level, seed=source.seed)
        height, width, _ = pixels.shape
        return encode_png(pixels), (height, width)


@functools.lru_cache(maxsize=1)  # rows come photograph by photograph
def _photograph(photograph: Path | int, size: int | None) -> np.ndarray:
    if isinstance(photograph, int):
        side = size or 160
        return scene(photograph, height=side, width=side)
    pixels = read_image(photograph)
    if size is None:
        return pixels
    height, width, _ = pixels.shape
    if min(height, width) < size:
        raise ImageError(
            f"{photograph}: is {width}x{height} (width x height), too small to cut"
            f" {size}x{size} from"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]
