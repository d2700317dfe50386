"""KADID-10k: 81 references, 25 distortions at 5 levels.

`dmos.csv` has the header `dist_img,ref_img,dmos,var`. Two of its names mislead:

- `dmos` is the mean of a five-point degradation category rating, from 1 (very annoying)
  to 5 (imperceptible). Higher is better, so the feature is `mos`.
- `var` is the standard deviation of the votes, not their variance: `1.1,0.3` is 27
  votes for 1 and 3 for 2. It is the feature `std`, unchanged.
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
    read_table,
)

_NAME = re.compile(r"(?P<reference>i\d\d)_(?P<kind>\d\d)_0(?P<level>[1-5])\.png", re.I)

_KINDS = (
    "gaussian_blur",
    "lens_blur",
    "motion_blur",
    "color_diffusion",
    "color_shift",
    "color_quantization",
    "color_saturation_1",
    "color_saturation_2",
    "jpeg2000",
    "jpeg",
    "white_noise",
    "white_noise_in_color_component",
    "impulse_noise",
    "multiplicative_noise",
    "denoise",
    "brighten",
    "darken",
    "mean_shift",
    "jitter",
    "non_eccentricity_patch",
    "pixelate",
    "quantization",
    "color_block",
    "high_sharpen",
    "contrast_change",
)
"""Types 01 to 25."""


class Kadid10k(IqaBuilder):
    """KADID-10k: 10125 images of 512x384, 81 references, 25 distortions, 5 levels."""

    MARKER = "dmos.csv"
    CARD: ClassVar[Card] = Card(
        title="KADID-10k",
        kind=kinds.PAIRS,
        opinion="mos",
        scale=(1.0, 5.0),
        extras=("std",),
        counts={"full": (10125, 81)},
        layout="""\
dmos.csv
images/I01.png
images/I01_01_01.png""",
        url="https://database.mmsp-kn.de/kadid-10k-database.html",
        licence="free for research, with citation",
        citation="""\
@inproceedings{lin2019kadid10k,
  title     = {{KADID-10k}: A Large-scale Artificially Distorted {IQA} Database},
  author    = {Lin, Hanhe and Hosu, Vlad and Saupe, Dietmar},
  booktitle = {International Conference on Quality of Multimedia Experience (QoMEX)},
  pages     = {1--3},
  year      = {2019}
}""",
    )

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        title = self.card.title
        images = Folder(root / "images", title=title)
        columns = ("dist_img", "ref_img", "dmos", "var")
        rows = []
        for where, line in read_table(root / self.MARKER, columns, title=title):
            name = line["dist_img"]
            match = _NAME.fullmatch(name)
            if match is None:
                raise DataError(f"{where}: {name!r} is not a name like I01_01_01.png")
            kind = int(match["kind"])
            if not 1 <= kind <= len(_KINDS):
                raise DataError(
                    f"{where}: distortion type {kind}, {title} has {len(_KINDS)}"
                )
            reference = match["reference"].upper()
            if line["ref_img"].lower() != f"{reference}.png".lower():
                raise DataError(
                    f"{where}: {name} is made of {reference}.png, ref_img is"
                    f" {line['ref_img']!r}"
                )
            values = {
                "id": name.rpartition(".")[0].upper(),
                "reference_id": reference,
                "distortion": _KINDS[kind - 1],
                "level": int(match["level"]),
                "mos": number(line["dmos"], where=where, name="dmos"),
                "std": number(line["var"], where=where, name="var"),
            }
            paths = {
                "reference": images.find(f"{reference}.png", where=where),
                "distorted": images.find(name, where=where),
            }
            rows.append(Row(paths, values, where))
        return {"full": rows}
