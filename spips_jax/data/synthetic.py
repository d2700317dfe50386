"""Graded synthetic distortions of photographs, labelled by their level.

No human rated these pairs. Their label is the level, 1 to 5, of one distortion of one
photograph. It only ranks pairs within that group: a higher level of the same distortion
of the same photograph looks worse. That is what a rank loss needs, and it adds scenes
and distortions that no human-scored set has.

Photographs come from a folder or, so that nothing need be downloaded, are painted by
`spips_jax.data.scenes`.
"""

from __future__ import annotations

import functools
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from spips_jax.data.builder import (
    Card,
    DataError,
    IqaBuilder,
    Row,
    check_config,
    encode_png,
)
from spips_jax.data.distortions import DISTORTIONS, LEVELS, distort
from spips_jax.data.scenes import scene
from spips_jax.image_files import is_image_name, read_image
from spips_jax.images import MIN_SIZE, ImageError
from spips_jax.kinds import RANKS
from spips_jax.messages import one_of, some_of


@dataclass(frozen=True)
class _Rendering:
    """An image to render: a photograph or a tile of one, possibly distorted."""

    photograph: Path | int  # a file, or the number of a painted scene
    corner: tuple[int, int] | None = None  # top and left of a tile
    kind: str = ""
    level: int = 0
    seed: int = 0


class Synthetic(IqaBuilder):
    """Pairs of photographs and their distortions, `synthetic/<config>`."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"2.0.0": "Other painted scenes."}
    OPTIONS: ClassVar[tuple[str, ...]] = (
        "config", "photographs", "scenes", "size", "tiles", "kinds", "sample", "seed",
    )  # fmt: skip
    DEFAULT_CONFIG: ClassVar[str] = "scenes"

    def __init__(
        self,
        *,
        config: str = DEFAULT_CONFIG,
        photographs: str | os.PathLike[str] | None = None,
        scenes: int = 16,
        size: int | None = None,
        tiles: bool = False,
        kinds: Sequence[str] = (),
        sample: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """A builder of `synthetic/<config>`.

        Args:
          config: the set's name.
          photographs: a folder of images; without one, scenes are painted.
          scenes: the number of scenes.
          size: side of the square cut from each photograph's centre, or of a scene. By
            default photographs stay whole and scenes are 160 pixels.
          tiles: whether to cut each photograph into all whole, adjacent squares of
            `size`, each a reference `"photograph#row-column"`. Folds keep the tiles of
            one photograph together.
          kinds: distortions, all of `distortions.DISTORTIONS` by default.
          sample: the number of kinds applied to each reference, drawn at random, so
            that many references cost little; all kinds by default.
          seed: fixes the random distortions and the kinds drawn.
          **options: those of `IqaBuilder`.

        Raises:
          DataError: an unknown distortion or one named twice, fewer than one scene, a
            size too small to score, tiles without photographs or size, a sample of more
            kinds than there are, a name that no folder can have.
        """
        check_config(config)
        for kind in kinds:
            if kind not in DISTORTIONS:
                raise DataError(one_of("distortion", kind, DISTORTIONS))
        if len(set(kinds)) < len(kinds):
            raise DataError(f"kinds are {', '.join(kinds)}: name each once")
        if size is not None and size < MIN_SIZE:
            raise DataError(f"size is {size}: images need {MIN_SIZE} pixels at least")
        if scenes < 1:
            raise DataError(f"{scenes} scenes: there must be at least one")
        if tiles and (photographs is None or size is None):
            raise DataError(
                "tiles are cut from photographs: give their folder and size"
            )
        self._kinds = tuple(kinds) or tuple(DISTORTIONS)
        if sample is not None and not 1 <= sample <= len(self._kinds):
            raise DataError(
                f"a sample of {sample} kinds: there are {len(self._kinds)}, draw at"
                " least 1 and at most all"
            )
        self._folder = None if photographs is None else Path(photographs)
        self._scenes = scenes
        self._size = size
        self._tiles = tiles
        self._sample = sample
        self._seed = seed
        self._made_with = {
            "photographs": self._folder and os.fspath(self._folder.resolve()),
            "scenes": scenes,
            "size": size,
            "tiles": tiles,
            "kinds": list(self._kinds),
            "sample": sample,
            "seed": seed,
        }
        card = Card(
            title=f"synthetic pairs ({config})",
            kind=RANKS,
            opinion="level",
            scale=(1, LEVELS),
            layout="a folder of photographs, or nothing",
            url="",
            licence="that of the photographs; made scenes are the project's",
            citation="",
        )
        named = tfds.core.BuilderConfig(name=config, version=self.VERSION)
        super().__init__(config=named, card=card, **options)

    @property
    def made_with(self) -> dict[str, Any]:
        return self._made_with

    def find_root(self, manual_dir: Path | None) -> Path:
        return self._folder or Path()

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        rows = []
        for reference_id, reference in self._references():
            seed = zlib.crc32(f"{self._seed}/{reference_id}".encode())
            for kind in self._kinds_of(seed):
                for level in range(1, LEVELS + 1):
                    distorted = replace(reference, kind=kind, level=level, seed=seed)
                    images = {"reference": reference, "distorted": distorted}
                    values = {
                        "id": f"{reference_id}/{kind}/{level}",
                        "reference_id": reference_id,
                        "distortion": kind,
                        "level": level,
                    }
                    rows.append(Row(images, values, f"{reference_id}, {kind} {level}"))
        return {"full": rows}

    def _kinds_of(self, seed: int) -> Sequence[str]:
        if self._sample is None:
            return self._kinds
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(self._kinds), size=self._sample, replace=False)
        return [self._kinds[k] for k in sorted(drawn)]

    def _references(self) -> Iterator[tuple[str, _Rendering]]:
        for name, photograph in self._photographs().items():
            if not self._tiles:
                yield name, _Rendering(photograph)
                continue
            assert self._size is not None  # __init__ checks it
            try:
                height, width, _ = _photograph(photograph, self._size).shape
            except (ImageError, MemoryError) as error:
                why = str(error) or f"{photograph}: no memory is left for it"
                self.leave_out("full", name, why)
                continue
            for row in range(height // self._size):
                for column in range(width // self._size):
                    corner = row * self._size, column * self._size
                    yield f"{name}#{row}-{column}", _Rendering(photograph, corner)

    def _photographs(self) -> dict[str, Path | int]:
        if self._folder is None:
            return {f"scene{number:03d}": number for number in range(self._scenes)}
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: no such folder of photographs")
        seen = sorted(p for p in self._folder.iterdir() if p.name[0] != ".")
        files = [path for path in seen if path.is_file() and is_image_name(path)]
        if not files:
            raise DataError(f"{self._folder}: holds no images")
        if others := [path.name for path in seen if path not in files]:
            warnings.warn(
                f"{self._folder}: left out, as no images by their names:"
                f" {some_of(others)}",
                stacklevel=2,
            )
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
        if self._size is not None:
            height, width, _ = pixels.shape
            middle = (height - self._size) // 2, (width - self._size) // 2
            top, left = source.corner or middle
            pixels = pixels[top : top + self._size, left : left + self._size]
        if source.kind:
            pixels = distort(pixels, source.kind, source.level, seed=source.seed)
        height, width, _ = pixels.shape
        return encode_png(pixels), (height, width)


@functools.lru_cache(maxsize=1)  # rows come photograph by photograph
def _photograph(photograph: Path | int, size: int | None) -> np.ndarray:
    """A whole photograph, at least `size` in height and width."""
    if isinstance(photograph, int):
        side = size or 160
        return scene(photograph, height=side, width=side)
    pixels = read_image(photograph, deep=False)
    height, width, _ = pixels.shape
    if size is not None and min(height, width) < size:
        raise ImageError(
            f"{photograph}: is {width}x{height} (width x height), too small to cut"
            f" {size}x{size} from"
        )
    return pixels
