"""PieAPP: which of two distorted images is closer to their reference.

Three lists, `train_reference_list.txt` and so on, name the references of the splits,
one file name per line. Each reference has a table of pairs,
`labels/train/ref_1_pairwise_labels.csv`, with a blank after each comma of the header.
In test, either image of a pair may be the reference itself, and each reference has a
second table, with a score for each image.

The preference columns are for image A, here `p0`, while a judgement is the share for
`p1`: 1 minus the preference.
"""

from __future__ import annotations

import abc
import math
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
    read_table,
)

_URL = "https://github.com/prashnani/PerceptualImageError"
_LICENCE = "non-commercial and educational use only, with citation"
_ROOTS = (
    "PieAPP_dataset_CVPR_2018",
    "all_data_PieAPP_dataset_CVPR_2018",
    "pieapp",
    "pieapp/PieAPP_dataset_CVPR_2018",
)
_CITATION = """\
@inproceedings{prashnani2018pieapp,
  title     = {{PieAPP}: Perceptual Image-Error Assessment through Pairwise Preference},
  author    = {Prashnani, Ekta and Cai, Hong and Mostofi, Yasamin and Sen, Pradeep},
  booktitle = {CVPR},
  year      = {2018}
}"""

_NAME = re.compile(r"distort_\d+_(?P<kind>.+?)(?:_(?:inter|intra)[a-z]*)?_[^_]+", re.I)
_PEOPLE = 40
"""Number of people asked about a pair, as published."""


class _Pieapp(IqaBuilder):
    """The attributes of `IqaBuilder`, and:

    SPLITS: the splits that have a table.
    TABLE: suffix of the tables' names.
    """

    ROOTS = _ROOTS
    SPLITS: ClassVar[tuple[str, ...]]
    TABLE: ClassVar[str]

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        splits = {}
        for split in self.SPLITS:
            names = root / f"{split}_reference_list.txt"
            if names.is_file():
                splits[split] = list(self._read(root, split, names))
            elif not self.partial:
                raise DataError(
                    f"{names}: {self.card.title} has this file, but it is missing;"
                    " complete it, or build what is there with --partial"
                )
        if not splits:
            raise DataError(
                f"{root}: {self.card.title} has no {self.SPLITS[0]}_reference_list.txt"
                " there, nor another split's"
            )
        return splits

    def _read(self, root: Path, split: str, names: Path) -> Iterator[Row]:
        title = self.card.title
        references = Folder(root / "reference_images" / split, title=title)
        tables = Folder(root / "labels" / split, title=title)
        distorted = root / "distorted_images" / split
        for where, name in read_lines(names, title=title):
            stem = name.removesuffix(".png")
            table = tables.find(f"{stem}{self.TABLE}", where=where)
            images = _Images(
                f"{stem}.png",
                references.find(f"{stem}.png", where=where),
                Folder(distorted / stem, title=title),
            )
            yield from self._read_table(table, stem, images)

    @abc.abstractmethod
    def _read_table(self, path: Path, stem: str, images: _Images) -> Iterator[Row]:
        """Yields the rows of one table, that of the reference called `stem`."""


class _Images:
    """The image files of one reference, by the names in its tables."""

    def __init__(self, name: str, reference: Path, distorted: Folder) -> None:
        self.reference = reference
        self._name = name.lower()
        self._distorted = distorted

    def is_reference(self, name: str) -> bool:
        return name.lower() == self._name

    def find(self, name: str, *, where: str) -> Path:
        if self.is_reference(name):
            return self.reference
        return self._distorted.find(name, where=where)

    def check(self, row: Mapping[str, str], *, where: str) -> None:
        """Raises for a line about another reference: its images are elsewhere."""
        if not self.is_reference(row["ref. image"]):
            raise DataError(
                f"{where}: is of {row['ref. image']!r}, in the table of"
                f" {self.reference.name}"
            )


class Pieapp(_Pieapp):
    """PieAPP, pairs: train, val and test with 140, 20 and 40 references.

    `judgement` is the share of 40 people's votes (`votes`). In train and val not all
    pairs were shown to people. `estimate` is a maximum-likelihood estimate from those
    that were; train and val have it for both sorts of pairs. Where nobody was asked,
    `votes` is 0 and `judgement` is the estimate; without an estimate, as in test,
    `estimate` is NaN.

    `distortion` names those of p0 and p1, as in `blur/jpeg`.
    """

    name = "pieapp"
    MARKER = "labels"
    SPLITS = ("train", "val", "test")
    TABLE = "_pairwise_labels.csv"
    CARD: ClassVar[Card] = Card(
        title="PieAPP",
        kind=kinds.CHOICES,
        opinion="judgement",
        scale=(0.0, 1.0),
        extras=("votes", "estimate"),
        layout="""\
{train,val,test}_reference_list.txt
reference_images/{train,val,test}/ref_1.png
distorted_images/{train,val,test}/ref_1/distort_1_*.png
labels/{train,val,test}/ref_1_pairwise_labels.csv""",
        url=_URL,
        licence=_LICENCE,
        citation=_CITATION,
    )

    def _read_table(self, path: Path, stem: str, images: _Images) -> Iterator[Row]:
        columns = ("ref. image", "distorted image A", "distorted image B")
        for where, row in read_table(path, columns, title=self.card.title):
            images.check(row, where=where)
            names = row["distorted image a"], row["distorted image b"]
            # Test has a single column, with another name.
            raw = "raw preference for A"
            plain = "preference for A"
            asked = _share(row, raw if raw.lower() in row else plain, where=where)
            estimate = _share(row, "processed preference for A", where=where)
            if math.isnan(asked) and math.isnan(estimate):
                raise DataError(
                    f"{where}: has no preference: the column {raw}, {plain} or"
                    " processed preference for A is missing or empty"
                )
            p0, p1 = (images.find(name, where=where) for name in names)
            values = {
                "id": "/".join(name.removesuffix(".png") for name in names),
                "reference_id": stem,
                "distortion": "/".join(map(_kind, names)),
                "level": 0,
                "judgement": 1 - (estimate if math.isnan(asked) else asked),
                "votes": 0 if math.isnan(asked) else _PEOPLE,
                "estimate": 1 - estimate,
            }
            files = {"reference": images.reference, "p0": p0, "p1": p1}
            yield Row(files, values, where)


class PieappScores(_Pieapp):
    """PieAPP, scores: the test split with an error for each image, higher is worse.

    Scores are maximum-likelihood estimates from the judgements of all pairs. They are
    relative: only differences are meaningful, and each reference is at 0. A score is
    negative where people preferred an image to its reference.
    """

    name = "pieapp_scores"
    MARKER = "labels/test"
    SPLITS = ("test",)
    TABLE = "_per_image_score.csv"
    CARD: ClassVar[Card] = Card(
        title="PieAPP (scores)",
        kind=kinds.PAIRS,
        opinion="dmos",
        within="reference",
        # Such scores are unbounded; these limits are beyond any that a model can reach.
        scale=(-10.0, 20.0),
        slack=10.0,
        counts={"test": (600, 40)},
        layout="""\
test_reference_list.txt
reference_images/test/ref_161.png
distorted_images/test/ref_161/distort_161_*.png
labels/test/ref_161_per_image_score.csv""",
        url=_URL,
        licence=_LICENCE,
        citation=_CITATION,
    )

    def _read_table(self, path: Path, stem: str, images: _Images) -> Iterator[Row]:
        columns = ("ref. image", "distorted image", "score for distorted image")
        for where, row in read_table(path, columns, title=self.card.title):
            images.check(row, where=where)
            name = row["distorted image"]
            score = number(
                row["score for distorted image"], where=where, name="the score"
            )
            # The reference against itself is 0 by definition, not an example.
            if images.is_reference(name):
                continue
            values = {
                "id": name.removesuffix(".png"),
                "reference_id": stem,
                "distortion": _kind(name),
                "level": 0,
                "dmos": score,
            }
            files = {
                "reference": images.reference,
                "distorted": images.find(name, where=where),
            }
            yield Row(files, values, where)


def _share(row: Mapping[str, str], column: str, *, where: str) -> float:
    """A preference, 0 to 1; NaN where the column is missing or empty."""
    text = row.get(column.lower(), "")
    if text.lower() in ("", "nan"):
        return math.nan
    share = number(text, where=where, name=column)
    if not 0 <= share <= 1:
        raise DataError(f"{where}: {column} is {share:g}, which is not in 0 to 1")
    return share


def _kind(name: str) -> str:
    """The distortion in a name like `distort_1_blur_inter_3.png`, or ""."""
    match = _NAME.fullmatch(name.removesuffix(".png"))
    return match["kind"].lower() if match else ""
