"""LIVE Image Quality Assessment Database, release 2: 29 references, 5 distortions.

Scores are in MATLAB files, one entry per image, ordered by folder (`jp2k`, `jpeg`,
`wn`, `gblur`, `fastfading`), then by the number in the file name (`img1.bmp`, ...):

- `refnames_all.mat`: `refnames_all`, the file name of each entry's reference;
- `dmos_realigned.mat`: `dmos_new`, `dmos_std`, and `orgs`, which is 1 where the image
  is a reference that was shown among the others. Those 203 are excluded.

`dmos.mat` is not used: its scores are on a separate scale for each session. A further
study put the sessions on one scale; only its scores, in `dmos_realigned.mat`, can be
compared across distortions. They go a little beyond 0 to 100, which `slack` allows for.

The levels of the distortions are not in these files: `level` is 0.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spips_jax import kinds
from spips_jax.data.builder import (
    Card,
    DataError,
    Folder,
    IqaBuilder,
    Row,
    number,
)
from spips_jax.messages import one_line

_REFERENCE_NAMES = "refnames_all.mat"
_IMAGE = re.compile(r"img\d+\.bmp", re.I)

_KINDS = {
    "jp2k": ("jpeg2000", 227),
    "jpeg": ("jpeg", 233),
    "wn": ("white_noise", 174),
    "gblur": ("gaussian_blur", 174),
    "fastfading": ("fast_fading", 174),
}
"""By folder, our name of the distortion and the number of images, in entry order."""


class Live(IqaBuilder):
    """LIVE release 2: 779 images, 29 references, 5 distortions, realigned DMOS."""

    MARKER = "dmos_realigned.mat"
    ROOTS = ("databaserelease2",)
    CARD: ClassVar[Card] = Card(
        title="LIVE (release 2)",
        kind=kinds.PAIRS,
        opinion="dmos",
        scale=(0.0, 100.0),
        slack=30.0,
        extras=("std",),
        counts={"full": (779, 29)},
        layout="""\
dmos_realigned.mat
refnames_all.mat
refimgs/bikes.bmp
jp2k/img1.bmp
jpeg/img1.bmp
wn/img1.bmp
gblur/img1.bmp
fastfading/img1.bmp""",
        url="https://live.ece.utexas.edu/research/Quality/subjective.htm",
        licence="free to use and distribute, with its copyright notice and citation",
        citation="""\
@article{sheikh2006live,
  title   = {A statistical evaluation of recent full reference image quality assessment
             algorithms},
  author  = {Sheikh, Hamid R. and Sabir, Muhammad F. and Bovik, Alan C.},
  journal = {IEEE Transactions on Image Processing},
  volume  = {15},
  number  = {11},
  pages   = {3440--3451},
  year    = {2006}
}
@misc{sheikh2005live,
  title        = {{LIVE} Image Quality Assessment Database Release 2},
  author       = {Sheikh, Hamid R. and Wang, Zhou and Cormack, Lawrence and
                  Bovik, Alan C.},
  howpublished = {\\url{https://live.ece.utexas.edu/research/quality}},
  year         = {2005}
}""",
    )

    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        title = self.card.title
        references = Folder(root / "refimgs", title=title)
        folders = {kind: Folder(root / kind, title=title) for kind in _KINDS}
        scores = root / self.MARKER
        dmos, std, flags = _load(scores, ("dmos_new", "dmos_std", "orgs"), title=title)
        path = root / _REFERENCE_NAMES
        (names,) = _load(path, ("refnames_all",), title=title)
        counts = self._counts(folders, len(dmos))
        for values, what in (
            (std, f"{scores}: dmos_std"),
            (flags, f"{scores}: orgs"),
            (names, f"{path}: refnames_all"),
        ):
            if len(values) != len(dmos):
                raise DataError(
                    f"{what} has {len(values)} entries, dmos_new has {len(dmos)}: they"
                    " must agree"
                )
        images = [
            (kind, image)
            for kind, count in counts.items()
            for image in range(1, count + 1)
        ]
        rows = []
        for entry, (kind, image) in enumerate(images):
            where = f"{self.MARKER}, entry {entry + 1} ({kind}/img{image}.bmp)"
            if flags[entry] not in (0, 1):
                raise DataError(f"{where}: orgs is {flags[entry]}, it must be 0 or 1")
            if flags[entry] == 1:
                continue
            reference = names[entry]
            if not (isinstance(reference, str) and reference.lower().endswith(".bmp")):
                raise DataError(
                    f"{where}: {_REFERENCE_NAMES} has {reference!r} there, not a name"
                    " like bikes.bmp"
                )
            example = {
                "id": f"{kind}/img{image}",
                "reference_id": reference.lower().removesuffix(".bmp"),
                "distortion": _KINDS[kind][0],
                "level": 0,
                "dmos": number(str(dmos[entry]), where=where, name="dmos_new"),
                "std": number(str(std[entry]), where=where, name="dmos_std"),
            }
            paths = {
                "reference": references.find(reference, where=where),
                "distorted": folders[kind].find(f"img{image}.bmp", where=where),
            }
            rows.append(Row(paths, example, where))
        return {"full": rows}

    def _counts(self, folders: Mapping[str, Folder], entries: int) -> dict[str, int]:
        """Returns the number of entries for each folder.

        These are the published numbers or, in a partial set, the numbers of files
        present, which must add up to the number of entries.
        """
        if self.partial:
            counts = {
                kind: sum(map(bool, map(_IMAGE.fullmatch, os.listdir(folder.path))))
                for kind, folder in folders.items()
            }
        else:
            counts = {kind: count for kind, (_, count) in _KINDS.items()}
        total = sum(counts.values())
        if entries == total:
            return counts
        listed = ", ".join(f"{kind} {count}" for kind, count in counts.items())
        if self.partial:
            raise DataError(
                f"{self.MARKER}: dmos_new has {entries} entries, the folders have"
                f" {total} images ({listed}): entries are matched to images by"
                " these numbers, so they must agree"
            )
        raise DataError(
            f"{self.MARKER}: dmos_new has {entries} entries, {self.card.title} has"
            f" {total} ({listed}); complete it, or build what is there with --partial"
        )


def _load(path: Path, names: Sequence[str], *, title: str) -> list[list[Any]]:
    """Returns variables of a MATLAB file, each flattened.

    Raises:
      DataError: no such file, a damaged one, a missing variable.
    """
    import scipy.io

    if not path.is_file():
        raise DataError(f"{path}: {title} has this file, but it is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about variables that are not needed
            # Opened here, so that it is closed whatever SciPy raises.
            with path.open("rb") as stream:
                found = scipy.io.loadmat(stream, squeeze_me=True)
    except Exception as error:  # a damaged file raises many types
        raise DataError(
            f"{path}: damaged, or not a MATLAB file ({one_line(error)})"
        ) from None
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: has no variable {', '.join(missing)}")
    return [np.ravel(found[name]).tolist() for name in names]
