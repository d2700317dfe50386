"""How many bits a channel of an image file has, by what the file says of itself.

Pillow decodes most deeper files to 8 bits without a word, some of them wrongly, and
tells the depth of few formats. So it is read from each format's own header:

- PNG: IHDR; TIFF: BitsPerSample and SampleFormat; PPM: the greatest value;
- JPEG 2000: the SIZ marker (ISO/IEC 15444-1, A.5.1);
- AVIF: the AV1 codec configuration, `av1C`; HEIF: what its plug-in reports;
- JPEG XL: the image's metadata (ISO/IEC 18181-1, "ImageMetadata");
- SGI: bytes a channel; DDS: the masks of the channels, or the DXGI format;
- XPM: hexadecimal digits of a colour; icons: the images in them.

Other formats are always of 8 bits, or Pillow's mode tells. One that is in no table here
has no known depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from spips_jax.images import ImageError

_EIGHT = frozenset((
    # By definition, or because Pillow opens these with 8 bits only.
    "BLP", "BMP", "DCX", "DIB", "FLI", "FTEX", "GBR", "GIF", "IMT", "JPEG", "MPO",
    "MSP", "PCD", "PCX", "PIXAR", "PSD", "QOI", "SUN", "TGA", "WEBP", "XBM", "XVTHUMB",
    # Deeper ones get a mode of Pillow's that says so.
    "FITS", "IM", "MCIDAS", "SPIDER",
))  # fmt: skip


def bits_per_channel(data: bytes, file: Any) -> int:
    """Returns the bits a channel of a file, the most of all its channels.

    Args:
      data: the whole file.
      file: the same, opened by Pillow, not yet decoded.

    Raises:
      ImageError: the depth is not known, or samples are signed or no integers.
    """
    if file.mode.startswith(("I", "F")):
        deeper = _DEPTHS.get(file.format)
        return max(9, deeper(data, file)) if deeper else 16
    if file.format in _EIGHT:
        return 8
    if file.format not in _DEPTHS:
        raise ImageError(
            f"it is not known how many bits a channel {file.format} files have; convert"
            " it to PNG"
        )
    return _DEPTHS[file.format](data, file)


def is_hdr(data: bytes, file: Any) -> bool:
    """Whether a file says that its values are PQ or HLG (Rec. ITU-R BT.2100).

    By the transfer characteristics of ITU-T H.273: `cICP` of PNG, `nclx` of AVIF and
    HEIF.
    """
    marks = {"PNG": b"cICP", "AVIF": b"nclx", "HEIF": b"nclx"}
    mark = marks.get(file.format)
    if mark is None:
        return False
    at = data.find(mark, 0, _HEAD)
    if at < 0:
        return False
    told = data[at + 4 : at + 8]
    transfer = told[1:2] if mark == b"cICP" else told[3:4]
    return transfer in (b"\x10", b"\x12")


_HEAD = 1 << 16
"""Metadata before the pixels: ours end long before, a profile may be longer."""


def _png(data: bytes, file: Any) -> int:
    return data[24]  # IHDR: signature 8, chunk 8, sizes 8, depth


def _tiff(data: bytes, file: Any) -> int:
    formats = _numbers(file.tag_v2.get(339, 1))  # SampleFormat
    if set(formats) - {1}:
        raise ImageError("its samples are signed or floating; convert it to 16 bits")
    return max(_numbers(file.tag_v2.get(258, 1)))  # BitsPerSample


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _ppm(data: bytes, file: Any) -> int:
    header = re.sub(rb"#[^\r\n]*", b" ", data[:_HEAD]).split(maxsplit=4)
    if header[0] in (b"P1", b"P4"):
        return 1
    if header[0] not in (b"P2", b"P3", b"P5", b"P6"):
        raise ImageError("it is not known how many bits a channel it has")
    return int(header[3]).bit_length()


def _jpeg2000(data: bytes, file: Any) -> int:
    at = data.find(b"\xff\x4f\xff\x51")  # start of codestream, then SIZ at once
    if at < 0:
        raise ImageError("damaged: it has no codestream")
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    depths = data[at + 42 : at + 42 + 3 * count : 3]
    if not depths:
        raise ImageError("damaged: it has no channels")
    if any(one & 0x80 for one in depths):
        raise ImageError("its samples are signed; convert it to 16 bits")
    found = [(one & 0x7F) + 1 for one in depths]
    palette = data.find(b"pclr", 0, at)
    if palette >= 0:  # entries 2 bytes, columns 1, then a depth for each
        columns = data[palette + 6]
        found += [(one & 0x7F) + 1 for one in data[palette + 7 : palette + 7 + columns]]
    return max(found)


def _avif(data: bytes, file: Any) -> int:
    # Marker and version 1 begin each configuration: of the colours, of alpha.
    told = re.findall(rb"av1C\x81.(.)", data, re.DOTALL)
    if not told:
        raise ImageError("damaged: it has no AV1 configuration")
    return max(8 if not one[0] & 0x40 else 12 if one[0] & 0x20 else 10 for one in told)


def _heif(data: bytes, file: Any) -> int:
    return int(file.info["bit_depth"])


def _sgi(data: bytes, file: Any) -> int:
    return 8 * data[3]


def _dds(data: bytes, file: Any) -> int:
    flags = int.from_bytes(data[80:84], "little")
    if data[84:88] == b"DX10":
        code = int.from_bytes(data[128:132], "little")
        # R8G8B8A8, BC1 to BC5, BC7: DXGI_FORMAT's numbers.
        if code in (*range(27, 32), *range(70, 85), *range(97, 100)):
            return 8
        raise ImageError(
            f"it is not known how many bits a channel it has (DXGI format {code})"
        )
    if not flags & (0x40 | 0x20000):  # neither RGB nor luminance: compressed, 8 bits
        return 8
    masks = [int.from_bytes(data[at : at + 4], "little") for at in range(92, 108, 4)]
    return max(mask.bit_count() for mask in masks)


def _xpm(data: bytes, file: Any) -> int:
    digits = {len(one) for one in re.findall(rb"#([0-9A-Fa-f]+)", data)}
    if digits - {6}:
        raise ImageError(
            f"its colours have {max(digits)} hexadecimal digits, only 6 are read;"
            " convert it to PNG"
        )
    return 8


def _icon(data: bytes, file: Any) -> int:
    """The deepest image in an icon, whose other images have 8 bits at most."""
    depths = [8]
    for found in re.finditer(rb"\x89PNG\r\n\x1a\n.{16}(.)", data, re.DOTALL):
        depths.append(found[1][0])
    for found in re.finditer(rb"\xff\x4f\xff\x51", data):
        depths.append(_jpeg2000(data[found.start() :], file))
    return max(depths)


class _Bits:
    """Reads JPEG XL's fields: the least significant bit of a byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = int.from_bytes(data[:64], "little")

    def u(self, count: int) -> int:
        value = self._data & ((1 << count) - 1)
        self._data >>= count
        return value

    def u32(self, *choices: int | tuple[int, int]) -> int:
        """One of four numbers, or of ranges (bits, offset)."""
        choice = choices[self.u(2)]
        if isinstance(choice, int):
            return choice
        return self.u(choice[0]) + choice[1]


def _jxl(data: bytes, file: Any) -> int:
    if data[:2] == b"\xff\x0a":
        bits = _Bits(data[2:])
    else:  # a container: the codestream whole (jxlc), or in parts with a number (jxlp)
        found = re.search(rb"jxlc\xff\x0a|jxlp.{4}\xff\x0a", data, re.DOTALL)
        if found is None:
            raise ImageError("damaged: it has no codestream")
        bits = _Bits(data[found.end() : found.end() + 64])
    _jxl_size(bits)
    if bits.u(1):  # all by default
        return 8
    if bits.u(1):
        bits.u(3)  # orientation
        if bits.u(1):  # intrinsic size
            _jxl_size(bits)
        if bits.u(1):
            raise ImageError(
                "it has a preview, and how many bits a channel is not read then;"
                " convert it to PNG"
            )
        if bits.u(1):
            raise ImageError("is animated; SPIPS scores still images, extract one")
    if bits.u(1):
        raise ImageError("its samples are floating; convert it to 16 bits")
    return bits.u32(8, 10, 12, (6, 1))


def _jxl_size(bits: _Bits) -> None:
    sizes = ((9, 1), (13, 1), (18, 1), (30, 1))
    small = bits.u(1)
    bits.u(5) if small else bits.u32(*sizes)
    if not bits.u(3):  # no ratio: the width follows
        bits.u(5) if small else bits.u32(*sizes)


_DEPTHS: dict[str, Callable[[bytes, Any], int]] = {
    "AVIF": _avif,
    "CUR": _icon,
    "DDS": _dds,
    "HEIF": _heif,
    "ICNS": _icon,
    "ICO": _icon,
    "JPEG2000": _jpeg2000,
    "JXL": _jxl,
    "PNG": _png,
    "PPM": _ppm,
    "SGI": _sgi,
    "TIFF": _tiff,
    "XPM": _xpm,
}
