"""TID2013 and TID2008: 25 references, many distortions, one layout.

`mos_with_names.txt` has no header: a line is `5.51429 I01_01_1.bmp`. Names are in upper
case there and partly in lower case on disk (`i01_01_1.bmp`, `I25.BMP`). `mos_std.txt`,
if present, has one number per line in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from spips_jax import kinds
from spips_jax.data.builder import (
    Card,
    DataError,
    Folder,
    IqaBuilder,
    Row,
    number,
    read_lines,
)

_NAME = re.compile(r"i(?P<reference>\d\d)_(?P<kind>\d\d)_(?P<level>\d)\.bmp", re.I)

_LAYOUT = """\
reference_images/I01.BMP
distorted_images/i01_01_1.bmp
mos_with_names.txt
mos_std.txt"""

_KINDS = (
    "additive_gaussian_noise",
    "chroma_noise",
    "spatially_correlated_noise",
    "masked_noise",
    "high_frequency_noise",
    "impulse_noise",
    "quantization_noise",
    "gaussian_blur",
    "denoising",
    "jpeg",
    "jpeg2000",
    "jpeg_transmission_errors",
    "jpeg2000_transmission_errors",
    "non_eccentricity_pattern_noise",
    "local_blocks",
    "mean_shift",
    "contrast_change",
    "saturation_change",
    "multiplicative_gaussian_noise",
    "comfort_noise",
    "lossy_compression_of_noisy_images",
    "color_quantization_with_dither",
    "chromatic_aberrations",
    "sparse_sampling",
)
"""Types 01 to 24 of TID2013; TID2008 has the first 17."""


class _Tid(IqaBuilder):
    MARKER = "mos_with_names.txt"

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        title = self.card.title
        references = Folder(root / "reference_images", title=title)
        distorted = Folder(root / "distorted_images", title=title)
        lines = list(read_lines(root / self.MARKER, title=title))
        deviations = self._deviations(root, len(lines))
        rows = []
        for (where, line), std in zip(lines, deviations, strict=True):
            score, _, name = line.partition(" ")
            match = _NAME.fullmatch(name.strip())
            if match is None:
                raise DataError(
                    f"{where}: {line!r} is not a score and a name like I01_01_1.bmp"
                )
            kind = int(match["kind"])
            if not 1 <= kind <= len(_KINDS):
                raise DataError(
                    f"{where}: distortion type {kind}, {title} has {len(_KINDS)}"
                )
            reference = f"I{match['reference']}"
            values = {
                "id": match[0].rpartition(".")[0].upper(),
                "reference_id": reference,
                "distortion": _KINDS[kind - 1],
                "level": int(match["level"]),
                "mos": number(score, where=where, name="mos"),
            }
            if "std" in self.card.extras:
                values["std"] = std
            images = {
                "reference": references.find(f"{reference}.bmp", where=where),
                "distorted": distorted.find(match[0], where=where),
            }
            rows.append(Row(images, values, where))
        return {"full": rows}

    def _deviations(self, root: Path, count: int) -> Sequence[float]:
        if "std" not in self.card.extras:
            return [0.0] * count
        lines = list(read_lines(root / "mos_std.txt", title=self.card.title))
        if len(lines) != count:
            raise DataError(
                f"mos_std.txt has {len(lines)} lines, {self.MARKER} has {count}: they"
                " must agree"
            )
        return [number(line, where=where, name="std") for where, line in lines]


class Tid2013(_Tid):
    """TID2013: 3000 images, 25 references, 24 distortions at 5 levels."""

    CARD: ClassVar[Card] = Card(
        title="TID2013",
        kind=kinds.PAIRS,
        opinion="mos",
        within="reference",
        scale=(0.0, 9.0),
        extras=("std",),
        counts={"full": (3000, 25)},
        layout=_LAYOUT,
        url="https://www.ponomarenko.info/tid2013.htm",
        licence="free for research, with citation",
        citation="""\
@article{ponomarenko2015tid2013,
  title   = {Image database {TID2013}: peculiarities, results and perspectives},
  author  = {Ponomarenko, Nikolay and Jin, Lina and Ieremeiev, Oleg and Lukin, Vladimir
             and Egiazarian, Karen and Astola, Jaakko and Vozel, Benoit and Chehdi,
             Kacem and Carli, Marco and Battisti, Federica and Kuo, C.-C. Jay},
  journal = {Signal Processing: Image Communication},
  volume  = {30},
  pages   = {57--77},
  year    = {2015}
}""",
    )


class Tid2008(_Tid):
    """TID2008: 1700 images, 25 references, 17 distortions at 4 levels."""

    CARD: ClassVar[Card] = Card(
        title="TID2008",
        kind=kinds.PAIRS,
        opinion="mos",
        within="reference",
        scale=(0.0, 9.0),
        counts={"full": (1700, 25)},
        layout="\n".join(_LAYOUT.splitlines()[:3]),
        url="https://www.ponomarenko.info/tid2008.htm",
        licence="free for research, with citation",
        citation="""\
@article{ponomarenko2009tid2008,
  title   = {{TID2008} - a database for evaluation of full-reference visual quality
             assessment metrics},
  author  = {Ponomarenko, Nikolay and Lukin, Vladimir and Zelensky, Alexander and
             Egiazarian, Karen and Carli, Marco and Battisti, Federica},
  journal = {Advances of Modern Radioelectronics},
  volume  = {10},
  pages   = {30--45},
  year    = {2009}
}""",
    )
