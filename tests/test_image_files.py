"""Reading image files, good and bad, of any depth."""

from __future__ import annotations

import builtins
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from spips_jax import image_files
from spips_jax.image_files import open_image, read_image
from spips_jax.images import ImageError


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_files_come_back_unchanged(tmp_path, ending):
    array = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    path = tmp_path / f"image.{ending}"
    Image.fromarray(array).save(
        path, **({"lossless": True} if ending == "webp" else {})
    )
    np.testing.assert_array_equal(read_image(path), array)


def test_grey_is_repeated_to_three_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 33), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=-1)
    )


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (40, 33, 4), np.uint8)
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), rgba[..., :3])


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    array = np.zeros((40, 64, 3), np.uint8)
    array[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (64, 40, 3)
    assert turned[0, -1, 0] == 255
    assert turned[0, 0, 0] == 0


def png_16(samples: np.ndarray, *, more: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, by its specification: Pillow writes no colour."""
    height, width, channels = samples.shape
    header = struct.pack(
        ">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0
    )
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def ramp(bits: int, channels: int) -> np.ndarray:
    """Samples from 0 to the greatest of a depth, different in each channel."""
    y, x = np.mgrid[:40, :33]
    parts = np.stack([x / 32, y / 39, 1 - x / 32], axis=-1)[..., :channels]
    return np.rint(parts * ((1 << bits) - 1)).astype(np.uint16)


def tiff(samples: np.ndarray, bits: int, **options: object) -> bytes:
    colour = {1: "minisblack", 3: "rgb"}[samples.shape[-1]]
    options = {"photometric": colour, **options}
    if bits < 16:
        options["bitspersample"] = bits
    if options.get("planarconfig"):
        samples = np.moveaxis(samples, -1, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, samples.squeeze(), **options)
    return file.getvalue()


DEEP = {
    "png": (lambda samples, bits: png_16(samples), (16,)),
    "tif": (tiff, (10, 12, 16)),
    "jp2": (
        lambda samples, bits: imagecodecs.jpeg2k_encode(
            samples.squeeze(), level=0, bitspersample=bits
        ),
        (9, 10, 12, 14, 16),
    ),
    "j2k": (
        lambda samples, bits: imagecodecs.jpeg2k_encode(
            samples.squeeze(), level=0, bitspersample=bits, codecformat="j2k"
        ),
        (9, 10, 12, 14, 16),
    ),
    "avif": (
        lambda samples, bits: imagecodecs.avif_encode(
            samples.squeeze(), level=100, bitspersample=bits
        ),
        (10, 12),
    ),
    "jxl": (
        lambda samples, bits: imagecodecs.jpegxl_encode(
            samples.squeeze(), lossless=True, bitspersample=bits
        ),
        (9, 10, 12, 14, 16),
    ),
}
"""By ending: what writes samples without loss, and at which depths."""

CASES = [
    pytest.param(ending, bits, channels, id=f"{ending} {bits} x{channels}")
    for ending, (_, depths) in DEEP.items()
    for bits in depths
    for channels in (1, 3)
]


@pytest.mark.parametrize(("ending", "bits", "channels"), CASES)
def test_deep_files_are_read_at_their_own_depth(tmp_path, ending, bits, channels):
    samples = ramp(bits, channels)
    path = tmp_path / f"deep.{ending}"
    path.write_bytes(DEEP[ending][0](samples, bits))
    expected = np.broadcast_to(samples / ((1 << bits) - 1), (40, 33, 3))
    pixels = read_image(path)
    assert pixels.dtype == np.float32
    # float32 keeps 24 bits.
    np.testing.assert_allclose(pixels, expected, rtol=1e-7, atol=1e-7)
    with pytest.raises(ImageError, match=f"has {bits} bits a channel; convert it to 8"):
        read_image(path, deep=False)


@pytest.mark.parametrize(("ending", "bits", "channels"), CASES[::4])
def test_deep_files_name_the_extra_that_reads_them(
    tmp_path, monkeypatch, ending, bits, channels
):
    path = tmp_path / f"deep.{ending}"
    path.write_bytes(DEEP[ending][0](ramp(bits, channels), bits))
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "imagecodecs":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match=rf"has {bits} bits.*extra \[formats\]"):
        read_image(path)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "miniswhite"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"tile": (16, 16)},
    ],
    ids=str,
)
def test_deep_tiffs_are_read_however_they_are_stored(tmp_path, options):
    samples = ramp(16, 1 if "photometric" in options else 3)
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(samples, 16, **options))
    expected = samples / 65535
    if "photometric" in options:
        expected = 1 - expected
    expected = np.broadcast_to(expected, (40, 33, 3))
    np.testing.assert_allclose(read_image(path), expected, atol=1e-7)  # float32


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_files_are_turned_as_pillow_turns(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    samples = ramp(16, 3)
    more = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "deep.png").write_bytes(png_16(samples, more=more))
    high = Image.fromarray((samples >> 8).astype(np.uint8))
    high.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(high)) / 255
    pixels = read_image(tmp_path / "deep.png")
    np.testing.assert_allclose(pixels, expected, atol=1 / 255)  # its low bits


def test_alpha_of_deep_files_must_be_opaque(tmp_path):
    samples = np.concatenate([ramp(16, 3), np.full((40, 33, 1), 65535, np.uint16)], -1)
    path = tmp_path / "alpha.png"
    path.write_bytes(png_16(samples))
    np.testing.assert_allclose(read_image(path), samples[..., :3] / 65535, atol=1e-7)
    samples[3, 3, 3] = 65534
    path.write_bytes(png_16(samples))
    with pytest.raises(ImageError, match=r"alpha down to 65534 of 65535.*flatten"):
        read_image(path)


@pytest.mark.parametrize("ending", ["jxl", "heic"])
def test_formats_of_plug_ins_are_read(tmp_path, ending):
    array = np.zeros((40, 64, 3), np.uint8)
    array[:20] = (255, 128, 0)
    path = tmp_path / f"image.{ending}"
    read_image(save(tmp_path / "any.png", array))  # which registers the plug-ins
    options = {"lossless": True} if ending == "jxl" else {"quality": -1}
    Image.fromarray(array).save(path, **options)
    # HEIC turns RGB into YCbCr of 8 bits and back, at half the resolution of colour.
    tolerance = 0 if ending == "jxl" else 3
    assert np.abs(read_image(path)[::4].astype(int) - array[::4]).max() <= tolerance


@pytest.mark.parametrize("ending", ["jxl", "heic", "hif"])
def test_a_plug_in_that_is_missing_is_named(tmp_path, monkeypatch, ending):
    path = tmp_path / f"image.{ending}"
    path.write_bytes(b"\0\0\0\x0cftypheic")
    for name in ("JXL", "HEIF"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
        monkeypatch.setattr(Image, "ID", [one for one in Image.ID if one != name])
    plugin = "pillow-jxl-plugin" if ending == "jxl" else "pillow-heif"
    with pytest.raises(ImageError, match=rf"needs {plugin}: .*\[formats\]"):
        read_image(path)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def profile(name: str) -> bytes:
    """Makes sRGB's profile under another name, of as many letters."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    old = "sRGB built-in"
    assert len(name) == len(old)
    for code in ("ascii", "utf-16-be"):
        data = data.replace(old.encode(code), name.encode(code))
    return data


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "sRGB"),
        ("sRGB built-in", "sRGB"),
        ("SRGB of theirs", "sRGB"),
        ("Mine is this.", "Mine is this."),
    ],
)
def test_profiles_are_named(tmp_path, name, told):
    array = np.zeros((40, 40, 3), np.uint8)
    options = {} if name is None else {"icc_profile": profile(name[:13])}
    file = open_image(save(tmp_path / "image.png", array, **options))
    assert file.profile == told[:13]


def test_a_profile_is_converted_on_request(tmp_path):
    """By littleCMS, from a profile with the gamma of 1 that its maker gives."""
    array = np.full((40, 40, 3), 64, np.uint8)
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = save(tmp_path / "s.png", array, icc_profile=profile("Mine is this."))
    np.testing.assert_array_equal(read_image(srgb), array)
    # The same curve and primaries under another name: nothing moves but by rounding.
    moved = read_image(srgb, convert_profile=True).astype(int) - array
    assert np.abs(moved).max() <= 1
    assert open_image(srgb, convert_profile=True).profile == "sRGB"
    broken = save(tmp_path / "b.png", array, icc_profile=linear)
    with pytest.raises(ImageError, match="colour profile cannot be converted"):
        read_image(broken, convert_profile=True)
    deep = tmp_path / "deep.png"
    text = b"mine\0\0" + zlib.compress(profile("Mine is this."))
    deep.write_bytes(png_16(ramp(16, 3), more=chunk(b"iCCP", text)))
    with pytest.raises(ImageError, match="profiles are converted in 8 bits only"):
        read_image(deep, convert_profile=True)


def icon_of_16_bits() -> bytes:
    picture = png_16(ramp(16, 3))
    entry = struct.pack("<BBBBHHII", 33, 40, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture


def dds(*, masks: tuple[int, ...] = (), dxgi: int = 0) -> bytes:
    """A DDS of 40 x 40: 32 bits a pixel by masks, or of a DXGI format."""
    flags, code = (0x40, bytes(4)) if masks else (0x4, b"DX10")
    head = struct.pack("<4sIIIIIII44x", b"DDS ", 124, 0x1007, 40, 40, 160, 0, 1)
    head += struct.pack("<II4sI", 32, flags, code, 32)
    head += struct.pack("<IIII", *(masks or (0, 0, 0)), 0) + bytes(20)
    head += b"" if masks else struct.pack("<IIIII", dxgi, 3, 0, 1, 0)
    return head + bytes(40 * 40 * 4)


def xpm(digits: int) -> bytes:
    rows = ['"' + "a" * 40 + '"'] * 40
    lines = ['"40 40 1 1"', '"a c #' + "F" * digits + '"', *rows]
    return ("/* XPM */\nstatic char *x[] = {\n" + ",\n".join(lines) + "};\n").encode()


def sgi_of_16_bits() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(file, "SGI", bpc=2)
    return file.getvalue()


def avif(transfer: int) -> bytes:
    """One of 10 bits, of a transfer function by its number in ITU-T H.273."""
    return imagecodecs.avif_encode(
        ramp(10, 3),
        level=90,
        bitspersample=10,
        primaries=9,
        transfer=transfer,
        matrix=9,
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (avif(16), "dynamic range"),
        (avif(18), "dynamic range"),
        (sgi_of_16_bits(), "has 16 bits"),
        (icon_of_16_bits(), "has 16 bits"),
        (dds(masks=(0x3FF00000, 0xFFC00, 0x3FF)), "has 10 bits"),
        (dds(dxgi=95), "not known.*DXGI format 95"),
        (xpm(12), "have 12 hexadecimal digits"),
        (xpm(3), "have 3 hexadecimal digits"),
        (b"P6\n# a comment\n40 40\n1023\n" + bytes(9600), "has 10 bits"),
        (b"P5 40 40 65535\n" + bytes(3200), "has 16 bits"),
        (png_16(ramp(16, 3), more=chunk(b"cICP", b"\x09\x10\0\1")), "dynamic range"),
        (
            png_16(ramp(16, 3), more=chunk(b"tRNS", bytes(6))),
            "has a transparent colour",
        ),
        (tiff((ramp(16, 1) / 2).astype(np.int16), 16), "signed or floating"),
        (tiff(ramp(16, 1).astype(np.float32), 16), "signed or floating"),
        (tiff(ramp(16, 1).astype(np.uint32), 16), "has 32 bits"),
    ],
    ids=lambda one: one[:12] if isinstance(one, str) else "",
)
def test_depth_is_what_the_file_says(tmp_path, data, message):
    path = tmp_path / "deep.dat"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_shallow_files_of_the_same_formats_are_read(tmp_path):
    for data in (
        dds(masks=(0xFF0000, 0xFF00, 0xFF)),
        xpm(6),
        b"P6\n40 40\n100\n" + bytes(4800),
    ):
        path = tmp_path / "shallow.dat"
        path.write_bytes(data)
        assert read_image(path).shape == (40, 40, 3)


def test_a_format_of_unknown_depth_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "image.bmp", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.format", "NEW")
    with pytest.raises(ImageError, match="not known how many bits a channel NEW"):
        read_image(path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "too large for the memory"),
        (RuntimeError("two\nlines"), r"damaged or truncated \(two lines\)"),
        (Image.DecompressionBombError("too many pixels"), "too large"),
        (type("PanicException", (BaseException,), {})("rust"), "damaged or truncated"),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path, monkeypatch, error, message
):
    def fails(*args, **options):
        raise error

    path = save(tmp_path / "image.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(ImageError, match=f"{path}: {message}"):
        read_image(path)


def test_the_warnings_of_other_threads_are_shown(tmp_path, monkeypatch):
    """Two threads decode; the first ends first, where filters of all would stay."""
    steps = {name: threading.Event() for name in ("a in", "b in", "a end", "b end")}
    real = image_files._decode

    def slow(data, **options):
        name = threading.current_thread().name
        steps[f"{name} in"].set()
        assert steps[f"{name} end"].wait(10)
        warnings.warn(f"of decoder {name}", stacklevel=1)
        return real(data, **options)

    monkeypatch.setattr(image_files, "_decode", slow)
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 40)).save(path)
    threads = [
        threading.Thread(target=read_image, args=(path,), name=name) for name in "ab"
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
            assert steps[f"{thread.name} in"].wait(10)
            warnings.warn(f"while {thread.name} decodes", stacklevel=1)
        for thread in threads:
            steps[f"{thread.name} end"].set()
            thread.join(10)
            warnings.warn(f"when {thread.name} is done", stacklevel=1)
    assert [str(warning.message) for warning in caught] == [
        "while a decodes",
        "while b decodes",
        "when a is done",
        "when b is done",
    ]


def test_devices_are_not_read():
    with pytest.raises(ImageError, match="/dev/zero: is a device"):
        read_image("/dev/zero")


def write_bad_file(kind: str, path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    match kind:
        case "text":
            path.write_text("this is no image")
        case "empty":
            path.touch()
        case "truncated png":
            rgb.save(path, "PNG")
            path.write_bytes(path.read_bytes()[:-500])
        case "truncated jpeg":
            rgb.save(path, "JPEG")
            path.write_bytes(path.read_bytes()[:-500])
        case "alpha":
            rgba = rgb.convert("RGBA")
            rgba.putpixel((3, 3), (1, 2, 3, 200))
            rgba.save(path, "PNG")
        case "transparent palette":
            rgb.quantize(16).save(path, "PNG", transparency=0)
        case "cmyk":
            rgb.convert("CMYK").save(path, "JPEG")
        case "lab":
            rgb.convert("HSV").convert("RGB").convert("LAB").save(path, "TIFF")
        case "animated":
            rgb.save(path, "GIF", save_all=True, append_images=[rgb.rotate(90)])
        case "small":
            rgb.resize((40, 20)).save(path, "PNG")
        case "folder":
            path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("text", "not an image"),
        ("empty", "not an image"),
        ("truncated png", "damaged or truncated"),
        ("truncated jpeg", "damaged or truncated"),
        ("alpha", "alpha down to 200 of 255.*flatten"),
        ("transparent palette", "alpha down to 0 of 255.*flatten"),
        ("cmyk", "CMYK, not RGB"),
        ("lab", "LAB, not RGB"),
        ("animated", "has 2 frames"),
        ("small", "height 20 is below the 32"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, kind, message):
    path = tmp_path / "bad.dat"
    write_bad_file(kind, path)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
