"""The base of all IQA dataset builders: the card, the rows, the checks, the writing.

A set is a TFDS builder that writes ArrayRecord files without TensorFlow. Each subclass
describes the set (`CARD`) and turns the set's official folder into rows (`read_rows`);
the rest is here:

- before anything is written, every image file that a row names must exist; while the
  set is written, each is decoded, checked and compared in size with its reference. A
  row that fails then is left out, if the caller wants to hear of it, else an error;
- image files are stored unchanged (bytes of a PNG, BMP or JPEG) where their pixels
  are RGB as stored, and otherwise as a PNG of the pixels that `read_image` returns;
- beside the records is `index.csv`: one line for each example, in the order of the
  records, with everything but the images. Splits, folds and tables need only this file;
- `protocol.json` says over what the set's opinions can be compared, what the set was
  made with, and which rows were left out.
"""

from __future__ import annotations

import abc
import csv
import functools
import io
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

from spips_jax.agreement import OPINIONS
from spips_jax.image_files import decode_image, read_file
from spips_jax.images import ImageError
from spips_jax.kinds import Kind
from spips_jax.messages import UserError, hint, one_line

INDEX = "index.csv"
PROTOCOL = "protocol.json"
SHARD_BYTES = 128 << 20  # about; TFDS holds a shard in memory while writing it

TEXT = ("id", "reference_id", "distortion")
WHOLE = ("level", "votes", "height", "width")


class DataError(UserError):
    """A dataset that cannot be built or read; one line that says where and why."""


@dataclass(frozen=True)
class Card:
    """The description of a set; the table in docs/data.md follows it.

    Attributes:
      title: the set's own name.
      kind: what an example holds, a record of `spips_jax.kinds`.
      opinion: the feature with the human score, a key of `agreement.OPINIONS`, which
        has its direction.
      scale: the nominal (lowest, highest) opinion, in the set's own units. Values a
        little outside are kept; see `slack`.
      layout: the official folder layout, one line per file or folder.
      url: where to get the set.
      licence: its terms, in one line.
      citation: BibTeX.
      counts: examples and references of each split, as published.
      extras: further features: `std`, `votes`, or others as numbers.
      slack: how far an opinion may lie outside `scale`, in the set's units.
      within: "reference" if two opinions can be compared only if their images have the
        same reference, as the points of a tournament among the versions of each;
        "" where the protocol supports what the kind does, `Kind.comparable`.
    """

    title: str
    kind: Kind
    opinion: str
    scale: tuple[float, float]
    layout: str
    url: str
    licence: str
    citation: str
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    slack: float = 0.0
    within: str = ""

    @property
    def comparable(self) -> str:
        """Over what two opinions can be compared, one of `kinds.COMPARABLE`."""
        return self.within or self.kind.comparable


@dataclass(frozen=True)
class Row:
    """One example, before its images are read.

    Attributes:
      images: by image feature, its file, or whatever else the builder's `encode`
        accepts.
      values: every other feature but `height` and `width`: `id`, `reference_id`,
        `distortion` ("" if unknown), `level` (0 if unknown), the opinion, the extras.
      where: the file and line that named it, for errors: "dmos.csv, line 7".
    """

    images: Mapping[str, Any]
    values: Mapping[str, Any]
    where: str


class Folder:
    """A folder whose files are found regardless of case.

    Sets were made on file systems that ignore case; their score files may name
    `I01.BMP` where the file is `i01.bmp`.
    """

    def __init__(self, path: Path, *, title: str) -> None:
        if not path.is_dir():
            raise DataError(f"{path}: {title} has this folder, but it is missing")
        self.path = path
        self._names = {name.lower(): name for name in os.listdir(path)}

    def find(self, name: str, *, where: str) -> Path:
        """Returns the path of a file, or raises `DataError` naming `where`."""
        actual = self._names.get(name.lower())
        if actual is None:
            raise DataError(f"{where}: no such file: {self.path / name}")
        return self.path / actual

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names


def read_lines(path: Path, *, title: str) -> Iterator[tuple[str, str]]:
    """Yields (where, line) for the non-empty lines of a text file, stripped.

    Raises:
      DataError: no such file, or not text.
    """
    if not path.is_file():
        raise DataError(f"{path}: {title} has this file, but it is missing")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path.name}, line {number}", line.strip()


def read_table(
    path: Path, columns: Sequence[str], *, title: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (where, row) for the rows of a CSV file with a header line.

    Names and values are stripped of blanks; names are matched regardless of case. A row
    holds every column, the required `columns` and others, by lower-case name.

    Raises:
      DataError: no such file, a required column missing, a row of another length.
    """
    lines = read_lines(path, title=title)
    first = next(lines, None)
    if first is None:
        raise DataError(
            f"{path}: is empty; its first line must name"
            f" {', '.join(columns) or 'its columns'}"
        )
    header = [name.strip().lower() for name in next(csv.reader([first[1]]))]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: has the columns {', '.join(header)}: {', '.join(twice)} more than"
            " once"
        )
    missing = [name for name in columns if name.lower() not in header]
    if missing:
        raise DataError(
            f"{path}: has the columns {', '.join(header)}; it needs"
            f" {', '.join(missing)} too{hint(missing[0], header, cutoff=0.8)}"
        )
    for where, line in lines:
        values = [value.strip() for value in next(csv.reader([line]))]
        if len(values) != len(header):
            raise DataError(
                f"{where}: has {len(values)} values, the header names {len(header)}"
            )
        yield where, dict(zip(header, values, strict=True))


def number(text: str, *, where: str, name: str) -> float:
    """Parses a finite number, or raises `DataError` naming `where`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {name} is {text!r}, which is not a number")
    return value


_FORBIDDEN = frozenset('<>:"/\\|?*,')


def check_config(name: str) -> None:
    """Raises `DataError` unless a set of one's own can be called so.

    Its name is that of a folder, beside folders of versions, and stands in lists.
    """
    if (
        not 1 <= len(name) <= 100
        or not name.isprintable()
        or _FORBIDDEN.intersection(name)
        or name.startswith((".", "-", "~"))
        or name.endswith(".")
        or name != name.strip()
        or ("." in name and name.replace(".", "").isdigit())
    ):
        raise DataError(
            f"a set cannot be called {name!r}, which names a folder, too: use letters,"
            " digits, - and _"
        )


class IqaBuilder(tfds.core.ShardBasedBuilder):
    """Base of the builders; the module describes what it does.

    TFDS's `GeneratorBasedBuilder` buffers a whole split before writing it and, above
    1 GB, does so in files opened with TensorFlow; this base writes shard by shard.

    Attributes:
      CARD: the set's description.
      MARKER: a file or folder in the set's root, by which the root is found.
      ROOTS: names of the set's folder when its archive is unpacked.
      OPTIONS: what the builder takes besides the options of this class. A builder that
        takes `config` makes sets that the user names, `<builder>/<config>`.
      DEFAULT_CONFIG: the name of such a set unless another is given; "" for none.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    CARD: ClassVar[Card]
    MARKER: ClassVar[str]
    ROOTS: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    DEFAULT_CONFIG: ClassVar[str] = ""

    def __init__(
        self,
        *,
        card: Card | None = None,
        partial: bool = False,
        progress: Callable[[Sequence[Row], str], Iterable[Row]] | None = None,
        problem: Callable[[str], object] | None = None,
        **options: Any,
    ) -> None:
        """A builder.

        Args:
          card: the set's description, if not the constant `CARD`.
          partial: allows fewer examples than published.
          progress: wraps the rows of a split while they are written.
          problem: called with a line for each row whose images are bad, which is left
            out; without it, such a row is a `DataError` that ends the build.
          **options: those of TFDS's builders.
        """
        self.card = card or self.CARD
        self.partial = partial
        self._progress = progress
        self._problem = problem
        options.setdefault("file_format", "array_record")
        super().__init__(**options)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 - TFDS's own name
        return how_to_get(self.name, self.card)

    @property
    def made_with(self) -> dict[str, Any]:
        """The options that make this set another one, as JSON's values."""
        return {}

    @abc.abstractmethod
    def read_rows(self, root: Path) -> Mapping[str, Sequence[Row]]:
        """Returns the rows of each split of the set whose official folder is `root`.

        Raises:
          DataError: a missing file, a malformed line.
        """

    def encode(self, source: Any) -> tuple[bytes, tuple[int, int]]:
        """Checks an image file; returns the bytes to store and (height, width).

        Raises:
          ImageError: a file that `read_image` rejects.
        """
        data = read_file(source)
        pixels = decode_image(data, name=str(source), deep=False).pixels
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as file:
            warnings.simplefilter("ignore")  # as `read_image` does
            as_is = (
                file.format in _STORED_AS_IS
                and file.mode == "RGB"
                and file.getexif().get(ExifTags.Base.Orientation, 1) == 1
            )
        return data if as_is else encode_png(pixels), pixels.shape[:2]

    def find_root(self, manual_dir: Path | None) -> Path:
        """Returns the set's official folder: `manual_dir` or one inside it.

        Raises:
          DataError: the set is not there.
        """
        if manual_dir is None:
            raise DataError(
                f"the folder to build {self.card.title} from is empty or not there;"
                f" {how_to_get(self.name, self.card)}"
            )
        for name in ("", self.name, *self.ROOTS):
            if (manual_dir / name / self.MARKER).exists():
                return manual_dir / name
        raise DataError(
            f"{manual_dir}: {self.card.title} is not there ({self.MARKER} is missing);"
            f" {how_to_get(self.name, self.card)}"
        )

    def check_rows(self, splits: Mapping[str, Sequence[Row]], root: Path) -> None:
        """Raises `DataError` for invalid rows or unexpected numbers of them."""
        card = self.card
        for split, rows in splits.items():
            if not rows:
                raise DataError(f"{root}: {card.title} has no examples in {split}")
            for row in rows:
                _check_row(row, card)
            _check_unique(rows)
            if split not in card.counts or self.partial:
                continue
            found = len(rows), len({row.values["reference_id"] for row in rows})
            for count, expected, what in zip(
                found, card.counts[split], ("examples", "references"), strict=True
            ):
                if count != expected:
                    raise DataError(
                        f"{root}: {split} has {count} {what}, {card.title} has"
                        f" {expected}; complete it, or build what is there with"
                        " --partial"
                    )

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        # TFDS warns about a config that its class does not list, such as a user's own.
        if isinstance(builder_config, tfds.core.BuilderConfig):
            return builder_config
        return super()._create_builder_config(builder_config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        card = self.card
        features: dict[str, Any] = {
            name: tfds.features.Image(shape=(None, None, 3))
            for name in card.kind.images
        }
        for name in _columns(card):
            features[name] = (
                tfds.features.Text()
                if name in TEXT
                else np.int32
                if name in WHOLE
                else np.float32
            )
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{card.title}. {card.opinion}:"
            f" {OPINIONS[card.opinion].meaning}.",
            features=tfds.features.FeaturesDict(features),
            homepage=card.url,
            citation=card.citation,
            license=card.licence,
            disable_shuffling=True,  # as written: in the order of the index
            metadata=_Index(_columns(card), card.comparable, self.made_with),
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        try:
            manual_dir = Path(dl_manager.manual_dir)
        except AssertionError:  # TFDS's folder is missing or empty
            manual_dir = None
        root = self.find_root(manual_dir)
        splits = self.read_rows(root)
        self.check_rows(splits, root)
        self.info.metadata.root = os.fspath(root.resolve())
        shards: dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]] = {}
        for split, rows in splits.items():
            # Without the progress: there is one bar at a time.
            first = next(self._encoded(rows, split), None)
            if first is None:
                continue
            _, images, _ = first
            size = max(1, SHARD_BYTES // sum(map(len, images.values())))
            progress = self._progress(rows, split) if self._progress else rows
            encoded = self._encoded(progress, split)
            shards[split] = [
                functools.partial(
                    self._generate_examples,
                    itertools.islice(encoded, size),
                    split,
                    first_row,
                )
                for first_row in range(0, len(rows), size)
            ]
        if not shards:
            bad = self.info.metadata.left_out
            raise DataError(
                f"{root}: {self.card.title} has no example whose images can be read;"
                f" the first: {bad[0]['why']}"
            )
        return shards

    def leave_out(self, split: str, name: str, why: str) -> None:
        """Notes an example that the set will not have, and tells of it.

        Args:
          split: its split.
          name: its id.
          why: what is wrong with it, in a line.

        Raises:
          DataError: with that line, if nobody is there to be told.
        """
        if self._problem is None:
            raise DataError(why)
        self.info.metadata.left_out.append({"split": split, "id": name, "why": why})
        self._problem(why)

    def _encoded(self, rows: Iterable[Row], split: str) -> Iterator[_Encoded]:
        """Yields the rows whose images are good, with their bytes and size."""
        encode = functools.lru_cache(maxsize=2)(self.encode)  # rows share references
        known = self.info.metadata.left_out
        skip = {one["id"] for one in known if one["split"] == split}
        bad: dict[Any, str] = {}  # rows share bad references, too
        for row in rows:
            name = row.values["id"]
            if name in skip:
                continue
            why = next((bad[one] for one in row.images.values() if one in bad), "")
            try:
                if why:
                    raise ImageError(why)
                images, size = _encode_row(row, encode, bad)
            except (DataError, ImageError) as error:
                self.leave_out(split, name, f"{row.where}: {error}")
            except MemoryError:
                files = ", ".join(map(str, row.images.values()))
                self.leave_out(
                    split, name, f"{row.where}: no memory is left for {files}"
                )
            except Exception as error:  # of a file that went away; of any decoder
                if self._problem is None:
                    raise
                self.leave_out(split, name, f"{row.where}: {one_line(error)}")
            else:
                yield row, images, size

    def _generate_examples(
        self, encoded: Iterable[_Encoded], split: str, first: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        index = self.info.metadata
        for key, (row, images, size) in enumerate(encoded, start=first):
            values = {**row.values, "height": size[0], "width": size[1]}
            index.append(split, values)
            yield key, {**images, **values}


_Encoded = tuple[Row, dict[str, bytes], tuple[int, int]]


def _encode_row(
    row: Row,
    encode: Callable[[Any], tuple[bytes, tuple[int, int]]],
    bad: dict[Any, str],
) -> tuple[dict[str, bytes], tuple[int, int]]:
    """Returns the bytes of a row's images and their common size.

    Raises `ImageError` for a bad image, and adds it to `bad` with what is wrong.
    """
    encoded = {}
    sizes = {}
    for name, source in row.images.items():
        try:
            encoded[name], sizes[name] = encode(source)
        except ImageError as error:
            bad[source] = str(error)
            raise
    first = next(iter(sizes))
    for name, (height, width) in sizes.items():
        if (height, width) != sizes[first]:
            raise DataError(
                f"{row.images[first]} is {sizes[first][1]}x"
                f"{sizes[first][0]}, {row.images[name]} is {width}x{height} (width x"
                " height): they must have the same size"
            )
    return encoded, sizes[first]


def how_to_get(name: str, card: Card) -> str:
    """One line: where to get a set and where to put it."""
    return (
        f"get it from {card.url} ({card.licence}) and unpack it into"
        f" <manual_dir>/{name}, so that there is {'; '.join(card.layout.splitlines())}"
    )


def _columns(card: Card) -> tuple[str, ...]:
    """The features of a set that are not images, in the order of the index."""
    opinion = () if card.opinion == "level" else (card.opinion,)
    return (*TEXT, "level", *opinion, *card.extras, "height", "width")


def _check_row(row: Row, card: Card) -> None:
    for source in row.images.values():
        if isinstance(source, Path) and not source.is_file():
            raise DataError(f"{row.where}: no such file: {source}")
    low, high = card.scale
    value = row.values[card.opinion]
    if not low - card.slack <= value <= high + card.slack:
        raise DataError(
            f"{row.where}: {card.opinion} {value:g} is outside the scale of"
            f" {card.title}, {low:g} to {high:g}"
        )


def _check_unique(rows: Sequence[Row]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        name = row.values["id"]
        if name in seen:
            raise DataError(f"{row.where}: {name} is in {seen[name]} already")
        seen[name] = row.where


_STORED_AS_IS = ("BMP", "JPEG", "PNG")


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels `(H, W, 3)` losslessly, favouring speed over size."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class _Index(tfds.core.Metadata):
    """Collects one line per example; writes them and the protocol beside the records.

    Attributes:
      root: the folder that the set is built from.
      left_out: the examples that the set lacks: `split`, `id` and `why`.
    """

    def __init__(
        self, columns: Sequence[str], comparable: str, made_with: Mapping[str, Any]
    ) -> None:
        self.root = ""
        self.left_out: list[dict[str, str]] = []
        self._columns = ("split", *columns)
        self._comparable = comparable
        self._made_with = made_with
        self._rows: list[dict[str, Any]] = []

    def append(self, split: str, values: Mapping[str, Any]) -> None:
        self._rows.append({"split": split, **values})

    def save_metadata(self, data_dir: Any) -> None:
        with (Path(data_dir) / INDEX).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        protocol = {
            "comparable": self._comparable,
            "made_with": self._made_with,
            "root": self.root,
            "left_out": self.left_out,
        }
        (Path(data_dir) / PROTOCOL).write_text(json.dumps(protocol) + "\n")

    def load_metadata(self, data_dir: Any) -> None:
        """Does nothing: `spips_jax.data.dataset` reads the index when needed."""
