"""Throws damaged files, odd names and broken lists at the command; deterministic.

`python tests/fuzz.py --cases 100000` is the long run by hand; test_fuzz.py of commands/
runs a short one. A case is one file among others of a call, so that a run is seen to
go on past it. After each call:

- it ended with 0, 1 or 2, without an exception, within `LIMIT_S`;
- every line on standard error is an error or a warning, and prints;
- every row on standard output can be read back, and has a score or an error;
- no input has changed.

The limit of pixels is lowered, so that sizes in damaged headers cost no minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spips_jax.commands import main as command

LIMIT_S = 20
PIXELS = 1 << 18
SIDE = 40
A_CALL = 25  # cases


class FuzzError(AssertionError):
    """What a case broke."""


def seeds() -> dict[str, bytes]:
    """A sound file of every format and mode that Pillow and its plug-ins write."""
    from spips_jax.image_files import is_image_name

    is_image_name(Path("any.png"))  # registers the plug-ins
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([6 * x, 6 * y, 3 * (x + y)], -1) + rng.integers(
        0, 9, (SIDE, SIDE, 3)
    )
    colour = Image.fromarray(pixels.astype(np.uint8))
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, list[dict[str, Any]]] = {
        "PNG": [{}, {"exif": exif}],
        "JPEG": [{}, {"exif": exif, "progressive": True}],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}],
        "WEBP": [{}, {"lossless": True}],
        "SGI": [{}, {"bpc": 2}],
        "GIF": [{}, {"save_all": True, "append_images": [colour.rotate(90)]}],
        "JPEG2000": [{}, {"no_jp2": True}],
        "AVIF": [{"speed": 10}],
        "HEIF": [{"quality": 50}],
    }
    made = {}
    for name in sorted(Image.SAVE):
        if name in ("PDF", "PALM", "GRIB", "BUFR", "HDF5", "WMF"):
            continue  # no images that Pillow opens again, or handled by others
        for mode in modes:
            for number, more in enumerate(options.get(name, [{}])):
                with contextlib.suppress(Exception):  # a mode that a format has not
                    file = io.BytesIO()
                    colour.convert("L" if mode == "I;16" else mode).convert(mode).save(
                        file, name, **more
                    )
                    made[f"{name} {mode} {number}"] = file.getvalue()
    return made | dict(deep())


def deep() -> Iterator[tuple[str, bytes]]:
    """Files of more than 8 bits."""
    import imagecodecs
    import tifffile

    y, x = np.mgrid[:SIDE, :SIDE]
    for bits in (10, 12, 16):
        top = (1 << bits) - 1
        samples = np.stack([x * top // 39, y * top // 39, (x + y) * top // 78], -1)
        samples = np.ascontiguousarray(samples.astype(np.uint16))
        yield (
            f"deep jp2 {bits}",
            imagecodecs.jpeg2k_encode(samples, level=0, bitspersample=bits),
        )
        yield (
            f"deep jxl {bits}",
            imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits),
        )
        if bits < 16:
            yield (
                f"deep avif {bits}",
                imagecodecs.avif_encode(
                    samples, level=90, speed=10, bitspersample=bits
                ),
            )
        file = io.BytesIO()
        extra = {"bitspersample": bits} if bits < 16 else {"compression": "zlib"}
        tifffile.imwrite(file, samples, photometric="rgb", **extra)
        yield f"deep tiff {bits}", file.getvalue()
        if bits == 16:
            yield "deep png 16", imagecodecs.png_encode(samples)


def damaged(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A file with one to three faults."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = len(found)
        if not size:
            break
        # Half of the faults are in the first bytes, where sizes and depths are.
        at = rng.randrange(min(size, 64) if rng.random() < 0.5 else size)
        match rng.randrange(8):
            case 0 | 1:
                found[at] = rng.randrange(256)
            case 2:
                found[at] ^= 1 << rng.randrange(8)
            case 3:  # a field
                value = rng.choice((0, 1, 2, 9, 16, 255, 65535, 2**31 - 1, 2**32 - 1))
                order = rng.choice("<>")
                field = (
                    struct.pack(f"{order}I", value)
                    if rng.random() < 0.5
                    else (struct.pack(f"{order}H", value & 0xFFFF))
                )
                found[at : at + len(field)] = field
            case 4:
                del found[at:]
            case 5:
                del found[at : at + rng.randint(1, 16)]
            case 6:
                found[at:at] = rng.randbytes(rng.randint(1, 16))
            case 7:
                other = rng.choice(others)
                found[at:] = other[rng.randrange(len(other)) :]
    return bytes(found)


def odd_name(rng: random.Random) -> bytes:
    """A file's name of any bytes but the two that no name has."""
    if rng.random() < 0.3:
        name = rng.randbytes(rng.randint(1, 40))
    else:
        planes = ((0x20, 0x7F), (0, 0x20), (0x80, 0x800), (0x2000, 0x2070))
        planes += ((0xD7FF, 0xD800), (0xE000, 0xFFFF), (0x10000, 0x110000))
        characters = [
            chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randint(1, 40))
        ]
        name = "".join(characters).encode()
    name = name.replace(b"/", b"_").replace(b"\0", b"0")[:200]
    return name if name.strip(b".") else b"dots"


HEADERS: list[list[str]] = [
    ["reference", "distorted"],
    ["reference", "distorted", "dmos"],
    ["distorted", "reference", "mos"],
    ["Reference", "distorted"],
    ["reference"],
    ["reference", "reference"],
    [],
]


CELLS = ("", "nowhere.png", "1", "2.5", "nan", "1e999", "../a.png", "\0", "x" * 300)


def odd_list(rng: random.Random, names: list[str]) -> bytes:
    """A pair list in which something may be wrong."""
    separator = rng.choice((",", ",", ",", ";", "\t", "|"))
    quote = rng.choice(("", "", '"', "'"))
    ending = rng.choice(("\n", "\r\n", "\r", "\n\n"))
    header = rng.choice(HEADERS)
    lines = [separator.join(header)]
    for _ in range(rng.randint(0, 4)):
        cells = [
            rng.choice(CELLS)
            if rng.random() < 0.1
            else f"{rng.uniform(0, 5):.3g}"
            if column.endswith("mos")
            else rng.choice(names)
            for column in header
        ]
        cells += ["more"] * (rng.random() < 0.1)
        lines.append(separator.join(f"{quote}{cell}{quote}" for cell in cells))
    text = ending.join(lines) + rng.choice(("", ending))
    data = text.encode(
        rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")),
        "replace",
    )
    return damaged(rng, data, [data]) if rng.random() < 0.5 and data else data


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raises where a call takes longer than `LIMIT_S`."""

    def too_long(*args: object) -> None:
        raise FuzzError(f"it took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Runs the command in-process; checks what holds for every call."""
    before = content(folder)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    code: Any = None
    with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command(words)
        except SystemExit as ended:
            code = ended.code
    err.flush()
    written = out.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
    errors = err.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
    if code not in (0, 1, 2):
        raise FuzzError(f"exit code {code}")
    for line in errors.split("\n")[:-1]:
        if not line.startswith(("error: ", "warning: ")):
            raise FuzzError(f"a line that is no error: {line!r}")
        if any(ord(one) < 32 for one in line):
            raise FuzzError(f"a line with control characters: {line!r}")
    if code == 0 and "error: " in errors:
        raise FuzzError(f"exit code 0 with errors: {errors!r}")
    if content(folder) != before:
        raise FuzzError("an input has changed")
    return code, written, errors


def content(folder: Path) -> dict[bytes, bytes]:
    """All files, by name."""
    return {
        os.fsencode(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "output.csv"
    }


def rows_of(text: str, pairs: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    if len(rows) != pairs:
        raise FuzzError(f"{len(rows)} rows of {pairs} pairs")
    for row in rows:
        if (row["score"] is None) != ("error" in row):
            raise FuzzError(f"neither a score nor an error, or both: {row}")
    return rows


def images(rng: random.Random, folder: Path, sound: dict[str, bytes]) -> Counter[str]:
    """Damaged files in a list, each against a sound one."""
    reference = folder / "reference.png"
    reference.write_bytes(sound["PNG RGB 0"])
    data = list(sound.values())
    lines = ["reference,distorted"]
    for number in range(A_CALL):
        name = rng.choice(list(sound))
        path = folder / f"{number}.{name.split()[0].lower()}"
        path.write_bytes(damaged(rng, sound[name], data))
        pair = [reference.name, path.name]
        lines.append(",".join(pair if rng.random() < 0.8 else pair[::-1]))
    lines.append("reference.png,reference.png")
    (folder / "pairs.csv").write_text("\n".join(lines))
    words = ["--convert-profiles"] if rng.random() < 0.2 else []
    words += ["--pairs", str(folder / "pairs.csv"), "--model", "psnr"]
    words += ["--json", "--output", str(folder / "output.csv")]
    _, out, _ = call(["score", *words], folder)
    rows = rows_of(out, A_CALL + 1)
    if rows[-1]["score"] is None:
        raise FuzzError("the run did not get to the last pair")
    return Counter("scored" if row["score"] is not None else "refused" for row in rows)


def names(rng: random.Random, folder: Path, sound: dict[str, bytes]) -> Counter[str]:
    """Sound files of odd names in folders."""
    distorted = folder / "distorted"
    distorted.mkdir()
    kept = set()
    for _ in range(A_CALL):
        name = odd_name(rng) + rng.choice((b".png", b".png", b".PNG", b"", b".txt"))
        with contextlib.suppress(OSError):  # a name that the system does not take
            with open(os.path.join(os.fsencode(distorted), name), "wb") as file:
                file.write(sound["PNG RGB 0"])
            if name.lower().endswith(b".png") and not name.startswith(b"."):
                kept.add(name)
    if not kept:
        return Counter()
    reference = folder / "reference.png"
    reference.write_bytes(sound["PNG RGB 0"])
    first = str(reference if rng.random() < 0.5 else distorted)
    words = ["score", first, str(distorted), "--model", "psnr", "--allow-missing"]
    words += ["--output", str(folder / "output.csv")]
    _, out, _ = call([*words, "--json"], folder)
    rows = rows_of(out, len(kept))
    found = {os.path.basename(os.fsencode(row["distorted"])) for row in rows}
    if found != kept:
        raise FuzzError(f"names were not kept: {found ^ kept}")
    _, out, _ = call(words, folder)
    if {line.count("\t") for line in out.split("\n")[:-1]} != {2}:
        raise FuzzError("a name broke the table")
    return Counter(named=len(rows))


def lists(rng: random.Random, folder: Path, sound: dict[str, bytes]) -> Counter[str]:
    """Pair lists, to score and to make a set of, and files to check."""
    there = ["a.png", 'b "b".png', "c,é.png"]
    for name in there:
        (folder / name).write_bytes(sound["PNG RGB 0"])
    ends: Counter[str] = Counter()
    for number in range(A_CALL):
        path = folder / f"{number}.csv"
        path.write_bytes(odd_list(rng, there))
        words = ["--pairs", str(path), "--model", "psnr", "--json"]
        code, _, _ = call(["score", *words], folder)
        ends[f"list, code {code}"] += 1
        row = {"reference": "a.png", "distorted": "a.png", "model": "psnr"}
        line = json.dumps({**row, "score": 100.0}).encode()
        (folder / "scores.jsonl").write_bytes(damaged(rng, line, [line]))
        if number % 5 == 0:
            words = ["--csv", str(path), "--name", "mine"]
            words += ["--data_dir", str(folder.with_suffix(".sets")), "--overwrite"]
            code, _, _ = call(["data", "prepare", "pair_list", *words], folder)
            ends[f"set, code {code}"] += 1
        code, _, _ = call(["check", str(folder / "scores.jsonl")], folder)
        ends[f"check, code {code}"] += 1
    return ends


KINDS: dict[str, Callable[[random.Random, Path, dict[str, bytes]], Counter[str]]] = {
    "images": images,
    "names": names,
    "lists": lists,
}
SHARES = {"images": 0.8, "names": 0.1, "lists": 0.1}


def fuzz(cases: int, *, seed: int = 0, seconds: float = float("inf")) -> Counter[str]:
    """Runs cases, until as many are done or time is over; returns how they ended.

    Raises:
      FuzzError: with the seed and the call that show it again.
    """
    sound = seeds()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, PIXELS
    ends: Counter[str] = Counter(files=len(sound))
    start = time.monotonic()
    try:
        for number in range(-(-cases // A_CALL)):
            if time.monotonic() - start > seconds:
                break
            one(seed, number, sound, ends)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return ends


def one(seed: int, number: int, sound: dict[str, bytes], ends: Counter[str]) -> None:
    """One call, with its `A_CALL` cases."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        ends += KINDS[kind](rng, folder, sound)
        ends["cases"] += A_CALL
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise FuzzError(f"seed {seed}, call {number}, {kind}: {error!r}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_suffix(".sets"), ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--call", type=int, help="run this call alone")
    args = parser.parse_args()
    if args.call is not None:
        Image.MAX_IMAGE_PIXELS = PIXELS
        ends: Counter[str] = Counter()
        one(args.seed, args.call, seeds(), ends)
    else:
        ends = fuzz(args.cases, seed=args.seed)
    print(dict(ends))
    return 0


if __name__ == "__main__":
    sys.exit(main())
