"""The array contract and the reading of files, good and bad."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from spips_jax import images
from spips_jax.images import ImageError, check_images, read_image, to_unit_range


def test_value_ranges_map_to_the_unit_interval():
    stored = np.array([0, 51, 255], np.uint8)
    for value, value_range in (
        (stored, (0, 1)),  # uint8 means (0, 255) whatever is said
        (stored.astype(np.float32), (0, 255)),
        (stored / 255, (0, 1)),
        (stored / 255 * 2 - 1, (-1, 1)),
        (jnp.asarray(stored / 255, jnp.float32), (0, 1)),
    ):
        unit = to_unit_range(value, value_range=value_range)
        assert unit.dtype == jnp.float32
        np.testing.assert_allclose(unit, [0, 0.2, 1], atol=1e-7)  # float32


def test_imagenet_normalisation_uses_torchvisions_statistics():
    pixel = np.array([0.485 + 0.229, 0.456, 0.406 - 0.225], np.float32)
    actual = images.imagenet_normalize(jnp.asarray(pixel).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(actual.ravel(), [1, 0, -1], atol=1e-6)  # float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_one_value_that_is_not_finite_is_refused(make, value):
    array = np.full((33, 40, 3), 0.5, np.float32)
    array[20, 7, 1] = value
    with pytest.raises(ImageError, match="NaN or inf"):
        check_images(make(array))


@pytest.mark.parametrize(
    "transform",
    [jax.jit, jax.grad, jax.checkpoint, lambda f: jax.jit(jax.grad(f)), jax.vmap],
    ids=["jit", "grad", "checkpoint", "jit of grad", "vmap"],
)
def test_arrays_that_are_closed_over_are_checked_by_value(transform):
    def total(reference):
        def inner(distorted):
            check_images(reference)
            check_images(distorted)
            return distorted.sum()

        return inner

    distorted = jnp.full((2, 32, 32, 3), 0.5)
    transform(total(jnp.full((32, 32, 3), 0.5)))(distorted)
    with pytest.raises(ImageError, match="far outside its value_range"):
        transform(total(jnp.full((32, 32, 3), 255.0)))(distorted)


@pytest.mark.parametrize(
    ("array", "value_range", "message"),
    [
        (np.zeros((12, 40, 3)), (0, 1), "height 12 is below the 32"),
        (np.zeros((40, 31, 3)), (0, 1), "width 31 is below the 32"),
        (np.zeros((40, 40)), (0, 1), r"shape \(40, 40\)"),
        (np.zeros((40, 40, 4)), (0, 1), r"shape \(40, 40, 4\)"),
        (np.zeros((40, 40, 3), np.int32), (0, 1), "dtype int32"),
        (np.full((40, 40, 3), np.nan), (0, 1), "NaN or inf"),
        (jnp.full((40, 40, 3), jnp.inf), (0, 1), "NaN or inf"),
        (np.full((40, 40, 3), 255.0), (0, 1), r"from 255 to 255.*\(0, 1\)"),
        (np.full((40, 40, 3), -1.0), (0, 1), r"from -1 to -1.*\(0, 1\)"),
        (jnp.full((40, 40, 3), 3.0), (-1, 1), r"from 3 to 3.*\(-1, 1\)"),
        (np.zeros((40, 40, 3)), (1, 0), r"value_range is \(1, 0\)"),
        ([[0.5]], (0, 1), "builtins.list: give a NumPy or JAX array"),
    ],
)
def test_arrays_that_break_the_contract_are_named(array, value_range, message):
    with pytest.raises(ImageError, match=message) as caught:
        check_images(array, value_range=value_range, name="distorted")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(("distorted", "value_range"))


def test_a_small_overshoot_is_kept():
    check_images(np.full((32, 32, 3), 1.4), name="distorted")
    check_images(np.full((32, 32, 3), -0.4), name="distorted")


def test_values_are_not_looked_at_under_a_transformation():
    @jax.jit
    def traced(array):
        check_images(array, name="distorted")
        return array

    traced(jnp.full((32, 32, 3), jnp.nan))


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


def png_16_bit_colour() -> bytes:
    """Pillow cannot write one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    rows = (b"\0" + bytes(40 * 6)) * 40
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


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
        case "16-bit grey":
            Image.fromarray(rng.integers(0, 2**16, (40, 40), np.uint16)).save(
                path, "PNG"
            )
        case "16-bit colour":
            path.write_bytes(png_16_bit_colour())
        case "16-bit ppm":
            path.write_bytes(b"P6\n# a comment\n40 40\n65535\n" + bytes(40 * 40 * 6))
        case "float":
            Image.fromarray(rng.random((40, 40), np.float32)).save(path, "TIFF")
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
        ("16-bit grey", "more than 8 bits"),
        ("16-bit colour", "more than 8 bits"),
        ("16-bit ppm", "more than 8 bits"),
        ("float", "more than 8 bits"),
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


def test_16_bit_tiff_is_refused(tmp_path):
    path = tmp_path / "deep.tif"
    # A minimal little-endian TIFF: 40 x 40, three channels of 16 bits, uncompressed.
    entries = [
        (256, 3, 1, 40),
        (257, 3, 1, 40),
        (258, 3, 3, 8 + 2 + 9 * 12 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 9 * 12 + 4 + 6),
        (277, 3, 1, 3),
        (278, 3, 1, 40),
        (279, 4, 1, 40 * 40 * 6),
    ]
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data += struct.pack("<I", 0) + struct.pack("<HHH", 16, 16, 16) + bytes(40 * 40 * 6)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="more than 8 bits"):
        read_image(path)
