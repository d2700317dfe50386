"""BAPPS: patches of 64x64 with human judgements, from the LPIPS paper.

Two experiments, two sets. 2AFC (`Bapps`): which of two patches is closer to a third?
JND (`BappsJnd`): are two patches, seen for a moment, the same? Each subset has a
folder, with subfolders for each image and for the answers, one file per example:
`2afc/val/cnn/judge/000000.npy` holds one float32, a share of votes.

The photographs that the patches were cut from are not published, so every example is
its own reference; its path, `val/cnn/000000`, is its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from spips_jax import kinds
from spips_jax.data.builder import (
    Card,
    DataError,
    Folder,
    IqaBuilder,
    Row,
)
from spips_jax.messages import one_line

_FOLDERS = {"reference": "ref", "judgement": "judge"}
"""Folder names that differ from the feature's name."""

_URL = "https://github.com/richzhang/PerceptualSimilarity"
_LICENCE = "code BSD-2-Clause; images from MIT-Adobe 5k and RAISE, for research"
_CITATION = """\
@inproceedings{zhang2018perceptual,
  title     = {The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author    = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman,
               Eli and Wang, Oliver},
  booktitle = {CVPR},
  year      = {2018}
}"""


class _Bapps(IqaBuilder):
    """The attributes of `IqaBuilder`, and:

    SUBSETS: (part, subset), the folders under `MARKER`.
    VOTES: number of votes per example in each part, as published.
    """

    SUBSETS: ClassVar[tuple[tuple[str, str], ...]]
    VOTES: ClassVar[Mapping[str, int]]

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        splits = {}
        for part, subset in self.SUBSETS:
            path = root / self.MARKER / part / subset
            if path.is_dir():
                splits[f"{part}_{subset}"] = list(self._read(path, part, subset))
            elif not self.partial:
                raise DataError(
                    f"{path}: {self.card.title} has this folder, but it is missing;"
                    " complete it, or build what is there with --partial"
                )
        if not splits:
            raise DataError(
                f"{root / self.MARKER}: {self.card.title} has none of its subsets:"
                f" {', '.join('/'.join(names) for names in self.SUBSETS)}"
            )
        return splits

    def _read(self, path: Path, part: str, subset: str) -> Iterator[Row]:
        title, opinion = self.card.title, self.card.opinion
        images = {
            name: Folder(path / _FOLDERS.get(name, name), title=title)
            for name in self.card.kind.images
        }
        answers = Folder(path / _FOLDERS.get(opinion, opinion), title=title)
        # The union over all folders, so that a file missing from one folder is reported
        # and not taken for an example that is not in the set.
        stems = _stems(answers.path, ".npy").union(
            *(_stems(folder.path, ".png") for folder in images.values())
        )
        for stem in sorted(stems):
            name = f"{part}/{subset}/{stem}"
            files = {
                image: folder.find(f"{stem}.png", where=name)
                for image, folder in images.items()
            }
            values = {
                "id": name,
                "reference_id": name,
                "distortion": subset,
                "level": 0,
                opinion: read_share(answers.find(f"{stem}.npy", where=name)),
                "votes": self.VOTES[part],
            }
            yield Row(files, values, name)


def _stems(path: Path, suffix: str) -> set[str]:
    """Stems of the files with `suffix`, without the hidden files that macOS adds."""
    return {
        file.stem
        for file in path.iterdir()
        if file.suffix.lower() == suffix and not file.name.startswith(".")
    }


def read_share(path: Path) -> float:
    """Reads the one number in [0, 1] that an NPY file holds.

    Raises:
      DataError: not an NPY file, truncated, not one number, outside [0, 1].
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header raises nearly any type
        raise DataError(
            f"{path}: not an NPY file of numbers ({one_line(error)})"
        ) from None
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: not an NPY file of numbers")
    if array.size != 1:
        raise DataError(f"{path}: has the shape {array.shape}, it must hold one number")
    share = float(array.reshape(()))
    if not 0 <= share <= 1:
        raise DataError(f"{path}: {share:g} is not a share of votes, 0 to 1")
    return share


class Bapps(_Bapps):
    """BAPPS, 2AFC: which of two patches is closer to the reference.

    `judgement` is the share of votes for p1, of 2 in train and of 5 in val (`votes`).
    Each subset is a split: `train_traditional`, `val_superres` and so on. Train is
    published as 56.6k, 38.1k and 56.6k examples, rounded, so only val's number is
    checked.
    """

    name = "bapps"
    MARKER = "2afc"
    ROOTS = ("dataset", "bapps/dataset")
    SUBSETS = (
        ("train", "traditional"),
        ("train", "cnn"),
        ("train", "mix"),
        ("val", "traditional"),
        ("val", "cnn"),
        ("val", "superres"),
        ("val", "deblur"),
        ("val", "color"),
        ("val", "frameinterp"),
    )
    VOTES: ClassVar[Mapping[str, int]] = {"train": 2, "val": 5}
    CARD: ClassVar[Card] = Card(
        title="BAPPS (2AFC)",
        kind=kinds.CHOICES,
        opinion="judgement",
        scale=(0.0, 1.0),
        extras=("votes",),
        counts={
            "val_traditional": (4720, 4720),
            "val_cnn": (4720, 4720),
            "val_superres": (10856, 10856),
            "val_deblur": (9440, 9440),
            "val_color": (4720, 4720),
            "val_frameinterp": (1888, 1888),
        },
        layout="""\
2afc/train/{traditional,cnn,mix}/{ref,p0,p1}/000000.png
2afc/train/{traditional,cnn,mix}/judge/000000.npy
2afc/val/{traditional,cnn,superres,deblur,color,frameinterp}/ the same""",
        url=_URL,
        licence=_LICENCE,
        citation=_CITATION,
    )


class BappsJnd(_Bapps):
    """BAPPS, JND: whether people took two patches for the same.

    `same` is the share who did, of 3 (`votes`). Splits `val_traditional` and
    `val_cnn`.
    """

    name = "bapps_jnd"
    MARKER = "jnd"
    ROOTS = ("dataset", "bapps", "bapps/dataset")
    SUBSETS = (("val", "traditional"), ("val", "cnn"))
    VOTES: ClassVar[Mapping[str, int]] = {"val": 3}
    CARD: ClassVar[Card] = Card(
        title="BAPPS (JND)",
        kind=kinds.JND,
        opinion="same",
        scale=(0.0, 1.0),
        extras=("votes",),
        counts={"val_traditional": (4800, 4800), "val_cnn": (4800, 4800)},
        layout="""\
jnd/val/{traditional,cnn}/{p0,p1}/000000.png
jnd/val/{traditional,cnn}/same/000000.npy""",
        url=_URL,
        licence=_LICENCE,
        citation=_CITATION,
    )
