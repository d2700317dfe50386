"""PIPAL: outputs of restoration algorithms, GANs among them, for 250 photographs.

A line of `Train_Label/A0001.txt` is `A0001_00_00.bmp,1520.0648`, without a header: the
photograph, the class of distortion, the number within the class, and the Elo score.
The distorted images come in four archives, unpacked into folders of various names:
`Train_Dist`, `Train_Distort_1` to `_4`, `Distortion_1` to `_4`.

Scores are Elo ratings from comparisons among images of one photograph: every image
started at 1400, and a lead of 200 points means 76 % of votes. Compare them only within
a photograph; across photographs they mean little.

The validation part was given to participants of the NTIRE challenges, its scores only
on request. It is built if present: `Val_Ref`, `Val_Dist` (or `Val_Distort`) and, with
lines as above, a folder `Val_Label` or a file `Val_Label.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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

_NAME = re.compile(r"(?P<reference>A\d{4})_(?P<kind>\d\d)_\d+\.bmp", re.I)

_DISTORTED = {
    "train": re.compile(r"train_dist.*|distortion_?\d+", re.I),
    "val": re.compile(r"val_dist.*", re.I),
}
"""The folders with a split's distorted images."""

_KINDS = (
    "traditional_sr",
    "psnr_oriented_sr",
    "sr_with_kernel_mismatch",
    "gan_based_sr",
    "denoising",
    "sr_and_denoising_jointly",
    "traditional_distortions",
)
"""Classes 00 to 06, which the release does not name.

Its authors refer to Table 10 of arXiv:2011.15002; the numbers of variants there, 12,
16, 10, 24, 13, 14 and 27, match the classes to the names in this order.
"""


class Pipal(IqaBuilder):
    """PIPAL: 200 + 25 references, 116 + 40 images of each, MOS as Elo ratings.

    The number within a class is only in the id: it is not a level, so `level` is 0. In
    validation the class may be 10, which has no meaning; `distortion` is then "".
    """

    MARKER = "Train_Ref"
    ROOTS = ("PIPAL",)

    CARD: ClassVar[Card] = Card(
        title="PIPAL",
        kind=kinds.PAIRS,
        opinion="mos",
        within="reference",
        # Elo is unbounded; the ratings lie between about 900 and 1850.
        scale=(800.0, 2000.0),
        slack=100.0,
        counts={"train": (23200, 200), "val": (1000, 25)},
        layout="""\
Train_Ref/A0001.bmp
Train_Dist/A0001_00_00.bmp (or Distortion_1 to Distortion_4)
Train_Label/A0001.txt""",
        url="https://www.jasongt.com/projectpages/pipal.html",
        licence="for research, with citation",
        citation="""\
@inproceedings{gu2020pipal,
  title     = {{PIPAL}: a Large-Scale Image Quality Assessment Dataset for Perceptual
               Image Restoration},
  author    = {Gu, Jinjin and Cai, Haoming and Chen, Haoyu and Ye, Xiaoxing and Ren,
               Jimmy S. and Dong, Chao},
  booktitle = {ECCV},
  year      = {2020}
}""",
    )

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        top = Folder(root, title=self.card.title)
        splits = {"train": list(self._read(root, top, "train"))}
        if "Val_Ref" in top:
            splits["val"] = list(self._read(root, top, "val"))
        return splits

    def _read(self, root: Path, top: Folder, split: str) -> Iterator[Row]:
        title = self.card.title
        references = Folder(
            top.find(f"{split}_Ref", where=str(root)), title=f"{title} ({split})"
        )
        distorted = _distorted(root, split, title)
        for path in _label_files(root, top, split, title):
            for where, line in read_lines(path, title=title):
                name, _, score = (part.strip() for part in line.partition(","))
                match = _NAME.fullmatch(name)
                if match is None:
                    raise DataError(
                        f"{where}: {line!r} is not a name like A0001_00_00.bmp and a"
                        " score"
                    )
                kind = int(match["kind"])
                if kind >= len(_KINDS) and split == "train":
                    raise DataError(
                        f"{where}: distortion class {match['kind']}, {title} has 00 to"
                        f" {len(_KINDS) - 1:02}"
                    )
                folder = next((it for it in distorted if name in it), distorted[0])
                values = {
                    "id": name.rpartition(".")[0].upper(),
                    "reference_id": match["reference"].upper(),
                    "distortion": _KINDS[kind] if kind < len(_KINDS) else "",
                    "level": 0,
                    "mos": number(score, where=where, name="mos"),
                }
                images = {
                    "reference": references.find(
                        f"{match['reference']}.bmp", where=where
                    ),
                    "distorted": folder.find(name, where=where),
                }
                yield Row(images, values, where)


def _distorted(root: Path, split: str, title: str) -> list[Folder]:
    """The folders with distorted images, and their subfolders: archives nest them."""
    paths = [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and _DISTORTED[split].fullmatch(path.name)
    ]
    if not paths:
        raise DataError(
            f"{root / f'{split.capitalize()}_Dist'}: {title} has this folder, but it"
            " is missing"
        )
    nested = [inner for path in paths for inner in sorted(path.iterdir())]
    paths += [path for path in nested if path.is_dir()]
    return [Folder(path, title=title) for path in paths]


def _label_files(root: Path, top: Folder, split: str, title: str) -> Sequence[Path]:
    """The score files of a split: all in a folder, or a single file."""
    name = f"{split.capitalize()}_Label"
    for spelled in (name, f"{name}.txt"):
        if spelled not in top:
            continue
        path = top.find(spelled, where=str(root))
        if path.is_file():
            return [path]
        return [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() == ".txt" and not file.name.startswith(".")
        ]
    without = (
        "; they are given on request; without them, remove Val_Ref to build train alone"
    )
    raise DataError(
        f"{root / name}: {title} has the scores of {split} there, but they are missing"
        f"{without if split == 'val' else ''}"
    )
