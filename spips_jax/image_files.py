"""Reading image files: what they hold, as stored, or why it cannot be scored.

Files are decoded by Pillow. What has more than 8 bits a channel is decoded by
imagecodecs and tifffile instead, of the extra [formats]: Pillow would drop bits. That
extra also brings Pillow's plug-ins for JPEG XL and HEIF.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from spips_jax.images import MIN_SIZE, ImageError, check_images
from spips_jax.messages import one_line, out_of_memory

SRGB = "sRGB"
"""The colour profile that is assumed where a file has none."""

_PLUGINS = {
    ".jxl": "pillow-jxl-plugin",
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".hif": "pillow-heif",
}
"""Endings of files that Pillow opens with a plug-in, and which."""

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
"""Pillow's names of what can be scored: grey, palettes and RGB of 8 bits."""

_GREATEST_DEPTH = 16


@dataclass(frozen=True)
class ImageFile:
    """A decoded image file.

    Attributes:
      pixels: `(H, W, 3)`, RGB as stored: uint8 of a file with up to 8 bits a channel,
        float32 in [0, 1] of one with 9 to 16.
      profile: the name of the embedded colour profile, `SRGB` if it has none.
    """

    pixels: np.ndarray
    profile: str


def read_image(
    path: str | os.PathLike[str],
    *,
    min_size: int = MIN_SIZE,
    deep: bool = True,
    convert_profile: bool = False,
) -> np.ndarray:
    """Reads an image file as an array `(H, W, 3)`, RGB as stored. Needs Pillow.

    Grey images are repeated to three channels, palettes resolved, an alpha channel is
    dropped where it is fully opaque, and the EXIF orientation is applied, as viewers
    do.

    Args:
      path: the file.
      min_size: smallest height and width, in pixels.
      deep: whether to read 9 to 16 bits a channel, of PNG, TIFF, AVIF, JPEG 2000 and
        JPEG XL files, which needs the extra [formats]; refused if not.
      convert_profile: whether to convert an embedded colour profile to sRGB; if not,
        values are as stored.

    Returns:
      uint8 of a file with up to 8 bits a channel; float32 in [0, 1] of one with 9 to
      16, its greatest value as 1. The metrics take both as they are.

    Raises:
      ImageError: not an image, truncated, of a depth that is not known or not read,
        CMYK or another colour model, transparent pixels, several frames, high dynamic
        range, a side below `min_size`, too large for the memory. The message is one
        line that begins with the path.
    """
    return open_image(
        path, min_size=min_size, deep=deep, convert_profile=convert_profile
    ).pixels


def open_image(
    path: str | os.PathLike[str],
    *,
    min_size: int = MIN_SIZE,
    deep: bool = True,
    convert_profile: bool = False,
) -> ImageFile:
    """Reads an image file and what it says of its colours; see `read_image`."""
    # All of it at once: a file that is written meanwhile is one version or damaged.
    return decode_image(
        read_file(path),
        name=str(path),
        min_size=min_size,
        deep=deep,
        convert_profile=convert_profile,
    )


def decode_image(
    data: bytes,
    *,
    name: str,
    min_size: int = MIN_SIZE,
    deep: bool = True,
    convert_profile: bool = False,
) -> ImageFile:
    """Decodes the bytes of an image file; see `read_image`.

    Args:
      data: the whole file.
      name: what errors call it; its ending tells a format whose plug-in is missing.
      min_size: as of `read_image`, like the others.
      deep: likewise.
      convert_profile: likewise.
    """
    with _named(name):
        found = _decode(data, deep=deep, convert_profile=convert_profile)
    check_images(found.pixels, name=name, min_size=min_size)
    return found


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a file at once; raises `ImageError` in one line where that fails."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
            raise ImageError(f"{path}: is a device, not an image")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not an image") from None
    except PermissionError:
        raise ImageError(f"{path}: may not be read (permission denied)") from None
    except MemoryError:
        raise ImageError(f"{path}: too large for the memory") from None
    except (OSError, ValueError) as error:  # a name with a null character
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(f"{path}: cannot be read ({reason})") from None


def is_image_name(path: Path) -> bool:
    """Whether a file's ending is one of an image format that is known here."""
    return path.suffix.lower() in _endings()


@functools.cache
def _endings() -> frozenset[str]:
    from PIL import Image

    _register_plugins()
    return frozenset((*Image.registered_extensions(), *_PLUGINS))


_registering = threading.Lock()


def _register_plugins() -> None:
    """Makes Pillow know the formats whose plug-ins are installed."""
    with _registering:  # or a second thread would not wait for the first
        _register_once()


@functools.cache  # once: registering again adds the formats again
def _register_once() -> None:
    # Or what they log is printed, beside our errors.
    for name in ("PIL", "imagecodecs", "tifffile"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    with contextlib.suppress(ImportError), _silent():
        import pillow_jxl  # noqa: F401 - it registers itself
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


class _Silent(threading.local):
    """A pattern of warnings' filters that fits all of them in threads that are silent.

    `warnings.catch_warnings` is of no use here: it exchanges the filters of all
    threads, and of two that overlap, the second to end restores those of the first.
    """

    on = False

    def match(self, text: str) -> bool:
        return self.on


_SILENT = _Silent()
_FILTER: Any = ("ignore", _SILENT, Warning, None, 0)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Leaves out the warnings of this thread, and of no other."""
    filters: Any = warnings.filters
    if not filters or filters[0] is not _FILTER:  # others may have come before it
        with contextlib.suppress(ValueError):
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)  # and left there: elsewhere it fits nothing
    before, _SILENT.on = _SILENT.on, True
    try:
        yield
    finally:
        _SILENT.on = before


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turns whatever a decoder raises into an `ImageError` that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of odd metadata and of large images that it reads all the same;
        # what it cannot read it raises.
        with _silent():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except UnidentifiedImageError:
        plugin = _PLUGINS.get(Path(path).suffix.lower())
        if plugin is None or plugin in _installed():
            raise ImageError(
                f"{path}: not an image in a format that is known"
            ) from None
        raise ImageError(
            f"{path}: needs {plugin}: install spips-jax with the extra [formats]"
        ) from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too large ({one_line(error)})") from None
    # Decoders raise nearly any type; those in Rust even one that is no Exception.
    except BaseException as error:
        if out_of_memory(error):
            raise ImageError(f"{path}: too large for the memory") from None
        raise ImageError(f"{path}: damaged or truncated ({one_line(error)})") from None


def _installed() -> set[str]:
    """The plug-ins that Pillow has got."""
    from PIL import Image

    formats = {"JXL": "pillow-jxl-plugin", "HEIF": "pillow-heif"}
    return {plugin for name, plugin in formats.items() if name in Image.OPEN}


def _decode(data: bytes, *, deep: bool, convert_profile: bool) -> ImageFile:
    from PIL import ImageOps

    from spips_jax.bit_depth import bits_per_channel, is_hdr

    _register_plugins()
    with _opened(data) as file:
        # Cameras store a preview behind the photograph as a second frame (MPO): fine.
        frames = getattr(file, "n_frames", 1)
        if frames > 1 and file.format != "MPO":
            raise ImageError(
                f"has {frames} frames; SPIPS scores still images, extract one"
            )
        bits = bits_per_channel(data, file)
        if is_hdr(data, file):
            raise ImageError(
                "is of high dynamic range (PQ or HLG), which SPIPS does not know;"
                " map it to sRGB"
            )
        if bits <= 8 and file.mode not in _MODES:
            raise ImageError(
                f"its colour model is {file.mode}, not RGB or grey; convert it to RGB"
            )
        profile = _profile_of(file)
        if bits > 8:
            if convert_profile and profile != SRGB:
                raise ImageError(
                    f"has {bits} bits a channel, and profiles are converted in 8 bits"
                    f" only: convert its profile {profile!r} to sRGB elsewhere"
                )
            return ImageFile(_decode_deep(data, file, bits, deep=deep), profile)
        # JPEG XL's pixels are upright once decoded, but for a JPEG inside, whatever
        # its EXIF says (ISO/IEC 18181-2).
        upright = file.format == "JXL" and not getattr(file, "jpeg", False)
        image = file if upright else ImageOps.exif_transpose(file)
        image.load()
        if image.has_transparency_data:
            image = image.convert("RGBA")
            _check_opaque(np.asarray(image.getchannel("A")), 255)
        if convert_profile and profile != SRGB:
            image, profile = _to_srgb(image, file.info["icc_profile"]), SRGB
        return ImageFile(np.array(image.convert("RGB")), profile)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Opens a file by Pillow; a TIFF that it does not know, as one of its files."""
    from PIL import UnidentifiedImageError

    try:
        with _open(data) as file:
            yield file
            return
    except UnidentifiedImageError:
        if data[:4] not in (b"II*\0", b"MM\0*"):
            raise
    # Pillow knows no colour TIFF of 12 bits, among others; `_decode_tiff` may.
    try:
        import tifffile
    except ModuleNotFoundError:
        raise ImageError(
            "is a TIFF that Pillow does not know; one of 9 to 16 bits a channel is read"
            " if spips-jax is installed with the extra [formats]"
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        profile = page.tags.get(34675)
        orientation = page.tags.get(_ORIENTATION)
        yield SimpleNamespace(
            format="TIFF",
            mode="I;16",  # more than 8 bits, or it is refused for its bits
            size=(page.imagewidth, page.imagelength),
            n_frames=len(tiff.pages),
            tag_v2={258: page.bitspersample, 339: int(page.sampleformat)},
            info={"icc_profile": profile.value} if profile else {},
            getexif=lambda: {_ORIENTATION: orientation.value if orientation else 1},
        )


def _open(data: bytes) -> Any:
    """Opens a file by Pillow."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Pillow loads its rare formats when it first meets a file that may need them.
        # A second thread that comes meanwhile does not find them.
        Image.init()
        return Image.open(io.BytesIO(data))


def _check_opaque(alpha: np.ndarray, greatest: int) -> None:
    lowest = int(alpha.min(initial=greatest))
    if lowest < greatest:
        raise ImageError(
            f"has transparent pixels (alpha down to {lowest} of {greatest}); flatten it"
            " onto the background that it will be seen on"
        )


def _profile_of(file: Any) -> str:
    """The name of a file's colour profile; one name for all that mean sRGB."""
    from PIL import ImageCms

    profile = file.info.get("icc_profile")
    if not profile:
        return SRGB
    try:
        name = ImageCms.getProfileDescription(io.BytesIO(profile))
    except ImageCms.PyCMSError:
        return "one that is damaged"
    name = one_line(Exception(name))
    if "srgb" in name.lower() and "linear" not in name.lower():
        return SRGB
    # As libjxl names it: white, primaries, intent and curve.
    return SRGB if re.fullmatch(r"(RGB_D65_SRG|Gra_D65)_\w+_SRG", name) else name


def _to_srgb(image: Any, profile: bytes) -> Any:
    """An image of 8 bits, its colours converted; an alpha channel is dropped."""
    from PIL import ImageCms

    image = image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    try:
        return ImageCms.profileToProfile(
            image,
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except ImageCms.PyCMSError as error:
        raise ImageError(
            f"its colour profile cannot be converted ({one_line(error)})"
        ) from None


def _decode_deep(data: bytes, file: Any, bits: int, *, deep: bool) -> np.ndarray:
    """float32 `(H, W, 3)` in [0, 1] of a file with more than 8 bits a channel."""
    if not deep:
        raise ImageError(f"has {bits} bits a channel; convert it to 8 bits")
    from PIL import Image

    width, height = file.size
    limit = 2 * (Image.MAX_IMAGE_PIXELS or width * height)
    if width * height > limit:
        raise ImageError(f"too large ({width * height} pixels, the limit is {limit})")
    decode = _DECODERS.get(file.format)
    if bits > _GREATEST_DEPTH or decode is None:
        raise ImageError(
            f"has {bits} bits a channel; convert it to a PNG of 8 or 16 bits"
        )
    try:
        samples = decode(data)
    except ModuleNotFoundError as error:
        raise ImageError(
            f"has {bits} bits a channel, which {error.name} reads: install spips-jax"
            " with the extra [formats]"
        ) from None
    samples = samples[..., None] if samples.ndim == 2 else samples
    if samples.ndim != 3 or not 1 <= samples.shape[-1] <= 4:
        raise ImageError(
            f"has channels of shape {samples.shape}, not grey or RGB; convert it to RGB"
        )
    if samples.shape[1::-1] != file.size or samples.dtype.kind != "u":
        raise ImageError(
            f"damaged: it says {file.size[0]}x{file.size[1]} (width x height), its"
            f" pixels are {samples.shape[1]}x{samples.shape[0]} of {samples.dtype}"
        )
    greatest = (1 << bits) - 1
    if samples.shape[-1] in (2, 4):
        _check_opaque(samples[..., -1], greatest)
        samples = samples[..., :-1]
    if samples.max() > greatest:
        raise ImageError(
            f"damaged: a sample is {samples.max()}, above the {greatest} of {bits} bits"
        )
    if file.format != "JXL":
        samples = _upright(samples, file.getexif().get(_ORIENTATION, 1))
    pixels = samples.astype(np.float32) / np.float32(greatest)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _decode_png(data: bytes) -> np.ndarray:
    import imagecodecs

    if b"tRNS" in data[: data.find(b"IDAT")]:
        raise ImageError("has a transparent colour; flatten it onto a background")
    return imagecodecs.png_decode(data)


def _decode_avif(data: bytes) -> np.ndarray:
    import imagecodecs

    return imagecodecs.avif_decode(data)


def _decode_jpeg2000(data: bytes) -> np.ndarray:
    import imagecodecs

    at = data.find(b"colr\x01", 0, data.find(b"\xff\x4f\xff\x51"))
    space = int.from_bytes(data[at + 7 : at + 11], "big") if at >= 0 else 16
    if space not in (16, 17):  # sRGB, grey
        raise ImageError(
            f"its colour space is number {space} of JPEG 2000's, not sRGB or grey;"
            " convert it to RGB"
        )
    return imagecodecs.jpeg2k_decode(data)


def _decode_jxl(data: bytes) -> np.ndarray:
    import imagecodecs

    return imagecodecs.jpegxl_decode(data)


def _decode_tiff(data: bytes) -> np.ndarray:
    import imagecodecs  # noqa: F401 - tifffile decompresses with it
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        photometric = int(page.photometric)
        if photometric not in (0, 1, 2):
            raise ImageError(
                f"its colour model is number {photometric} of TIFF's, not RGB or grey;"
                " convert it to RGB"
            )
        samples = page.asarray()
        if page.axes.startswith("S"):  # a plane for each channel
            samples = np.moveaxis(samples, 0, -1)
        if photometric == 0:  # white is 0
            samples = (1 << int(page.bitspersample)) - 1 - samples
        return samples


_DECODERS = {
    "AVIF": _decode_avif,
    "JPEG2000": _decode_jpeg2000,
    "JXL": _decode_jxl,
    "PNG": _decode_png,
    "TIFF": _decode_tiff,
}

_ORIENTATION = 0x0112
_QUARTERS = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1)}
_QUARTERS |= {5: (1, 1), 6: (3, 0), 7: (3, 1), 8: (1, 0)}
"""By EXIF orientation: quarter turns to the left, and whether mirrored before."""


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation to `(H, W, C)`, as Pillow's `exif_transpose`."""
    turns, mirrored = _QUARTERS.get(orientation, (0, 0))
    return np.rot90(samples[:, ::-1] if mirrored else samples, turns)
