"""Image files as pixels: every mode against its visible colour, in plain numpy."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedlite.runtime import InputContract
from embedlite.runtime.errors import EmbedliteError, RequestError, UnreadableDataError
from embedlite.runtime.images.decode import load_image
from embedlite.runtime.model.contract import PILLOW_RESAMPLERS

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GRAY, ALPHA, BLACK = (RNG.integers(0, 256, (6, 4), np.uint8) for _ in range(3))
DEEP = RNG.integers(0, 65536, (6, 4), np.uint16)
PALETTE = RNG.integers(0, 256, (16, 3), np.uint8)
INDICES = RNG.integers(0, 16, (6, 4), np.uint8)
SHALLOW = np.round(DEEP * (255 / 65535))


def gray_to_color(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=2)


def palette_image() -> Any:
    image = Image.fromarray(INDICES)
    image.putpalette(PALETTE.tobytes())
    return image


# For each mode an image, a format that stores it without loss, and the colour and opacity that one sees.
OPAQUE = np.full((6, 4), 255, np.uint8)
MODES: dict[str, tuple[Any, str, np.ndarray, np.ndarray]] = {
    "L": (Image.fromarray(GRAY), "png", gray_to_color(GRAY), OPAQUE),
    "RGB": (Image.fromarray(COLOR), "png", COLOR, OPAQUE),
    "RGBA": (Image.fromarray(np.dstack([COLOR, ALPHA])), "png", COLOR, ALPHA),
    "LA": (Image.fromarray(np.dstack([GRAY, ALPHA])), "png", gray_to_color(GRAY), ALPHA),
    "P": (palette_image(), "png", PALETTE[INDICES], OPAQUE),
    "1": (Image.fromarray(GRAY > 127), "png", gray_to_color((GRAY > 127) * 255), OPAQUE),
    "CMYK": (
        Image.frombytes("CMYK", (4, 6), np.dstack([COLOR, BLACK]).tobytes()),
        "tif",
        np.round((255.0 - COLOR) * (255.0 - BLACK[..., None]) / 255),
        OPAQUE,
    ),
    "I;16": (Image.fromarray(DEEP), "png", gray_to_color(SHALLOW), OPAQUE),
    "I": (Image.fromarray(DEEP.astype(np.int32)), "tif", gray_to_color(SHALLOW), OPAQUE),
}


def luma(color: np.ndarray) -> np.ndarray:
    return color @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_becomes_the_models_channels(mode: str, channels: int, tmp_path: Path) -> None:
    image, suffix, color, alpha = MODES[mode]
    path = tmp_path / f"image.{suffix}"
    image.save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    wanted = {1: luma(color)[..., None], 3: color, 4: np.dstack([color, alpha])}[channels]
    pixels = load_image(path, InputContract((6, 4, channels), kind="image"))
    assert (pixels.dtype, pixels.shape) == (np.uint8, wanted.shape)
    # Integer luma and CMYK arithmetic may round the other way; everything else is exact.
    exact = channels > 1 and mode != "CMYK"
    assert np.abs(pixels - wanted.astype(np.float64)).max() <= (0 if exact else 1)


def deep_png(values: np.ndarray, color_type: int) -> bytes:
    """A 16-bit PNG (PNG 1.2, chapters 2 to 4), of a kind that Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "stored"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "LA"])
def test_sixteen_bit_colour_and_alpha_are_read_as_eight_bits(color_type: int, stored: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (6, 4, stored), np.uint16)
    (tmp_path / "image.png").write_bytes(deep_png(values, color_type))
    pixels = load_image(tmp_path / "image.png", InputContract((6, 4, 3)))
    # The high byte, which is at most one level below the rounded value.
    np.testing.assert_array_equal(pixels, np.broadcast_to(values[..., : 3 if stored > 2 else 1] >> 8, (6, 4, 3)))


def test_sixteen_bit_gray_is_scaled_in_either_byte_order(tmp_path: Path) -> None:
    for order in "<>":
        # A TIFF of one strip, which stands at byte 200 (TIFF 6.0, chapters 2 and 3).
        entries = [(256, 4), (257, 6), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 6), (279, 48)]
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
        head += b"".join(struct.pack(order + "HHIHxx", tag, 3, 1, value) for tag, value in entries) + bytes(4)
        path = tmp_path / "image.tif"
        path.write_bytes(head.ljust(200, b"\0") + DEEP.astype(order + "u2").tobytes())
        np.testing.assert_array_equal(load_image(path, InputContract((6, 4, 1)))[..., 0], SHALLOW)


def test_a_cmyk_jpeg_shows_its_visible_colours(tmp_path: Path) -> None:
    """Adobe's, and so Pillow's, hold the inks inverted."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:] = 200, 30, 90, 60
    Image.frombytes("CMYK", (16, 16), inks.tobytes()).save(tmp_path / "image.jpg", quality=95)
    pixels = load_image(tmp_path / "image.jpg", InputContract((16, 16, 3)))
    assert np.abs(pixels - (255.0 - inks[..., :3]) * (255 - 60) / 255).max() <= 4


def test_bgr_is_rgb_backwards(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "image.png")
    bgr = load_image(tmp_path / "image.png", InputContract((6, 4, 3), color_order="bgr"))
    np.testing.assert_array_equal(bgr, COLOR[..., ::-1])


@pytest.mark.parametrize("transparency", [2, pytest.param(bytes([0, 40, 255]), id="several")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_palettes_transparency_is_dropped(transparency: int | bytes, channels: int, tmp_path: Path) -> None:
    plain, transparent = tmp_path / "plain.png", tmp_path / "transparent.png"
    palette_image().save(plain)
    palette_image().save(transparent, transparency=transparency)
    contract = InputContract((6, 4, channels))
    np.testing.assert_array_equal(load_image(transparent, contract), load_image(plain, contract))


def test_a_palettes_transparency_reaches_a_model_with_alpha(tmp_path: Path) -> None:
    palette_image().save(tmp_path / "image.png", transparency=bytes(range(0, 160, 10)))
    pixels = load_image(tmp_path / "image.png", InputContract((6, 4, 4)))
    np.testing.assert_array_equal(pixels, np.dstack([PALETTE[INDICES], INDICES * 10]))


# What a viewer shows for a file with each orientation (EXIF 2.32, tag 0x0112).
ORIENTATIONS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {}),
        ("webp", {}),
        pytest.param("tif", {"compression": "tiff_lzw"}, id="compressed.tif"),
        pytest.param("tif", {}, id="uncompressed.tif"),
    ],
)
def test_the_exif_orientation_is_applied(
    orientation: int, suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Four flat quarters, which JPEG keeps well.
    quarters = np.kron(np.array([[20, 90], [160, 230]], np.uint8), np.ones((16, 8), np.uint8))
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(quarters).save(path, exif=exif, **options)
    shown = ORIENTATIONS[orientation](quarters)
    pixels = load_image(path, InputContract((*shown.shape, 1)))
    assert np.abs(pixels[..., 0].astype(int) - shown).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "CMYK"])
def test_the_orientation_comes_before_mode_and_size(mode: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, suffix, *_ = MODES[mode]
    image.save(tmp_path / f"turned.{suffix}", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / f"upright.{suffix}")
    turned, upright = (
        load_image(tmp_path / f"{name}.{suffix}", InputContract((5, 9, 3))) for name in ("turned", "upright")
    )
    np.testing.assert_array_equal(turned, upright)


@pytest.mark.parametrize("resampler", PILLOW_RESAMPLERS)
@pytest.mark.parametrize(("channels", "size"), [(1, (7, 3)), (3, (3, 9)), (4, (2, 2)), (3, (6, 12))])
def test_resizing_is_pillows_own(resampler: str, channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    stored = RNG.integers(0, 256, (6, 4, channels), np.uint8)
    image = Image.fromarray(stored[..., 0] if channels == 1 else stored)
    image.save(tmp_path / "image.png")
    height, width = size
    wanted = image.resize((width, height), Image.Resampling[resampler.upper()])
    pixels = load_image(tmp_path / "image.png", InputContract((height, width, channels), resampler=resampler))
    np.testing.assert_array_equal(pixels, np.asarray(wanted).reshape(height, width, channels))


def test_resamplers_are_not_all_the_same(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "image.png")
    contracts = [InputContract((9, 9, 1), resampler=name) for name in PILLOW_RESAMPLERS]
    assert len({load_image(tmp_path / "image.png", contract).tobytes() for contract in contracts}) == len(
        PILLOW_RESAMPLERS
    )


def test_conversion_comes_before_resizing(tmp_path: Path) -> None:
    palette_image().save(tmp_path / "image.png")
    wanted = Image.fromarray(PALETTE[INDICES]).resize((3, 2), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(load_image(tmp_path / "image.png", InputContract((2, 3, 3))), np.asarray(wanted))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "image.jpg", "PNG")
    np.testing.assert_array_equal(load_image(tmp_path / "image.jpg", InputContract((6, 4, 3))), COLOR)


@pytest.mark.parametrize("channels", [2, 5])
def test_a_model_whose_channels_are_no_colour_takes_no_files(channels: int, tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "image.png")
    with pytest.raises(RequestError, match=rf"takes {channels} channels.*Pass arrays \(\.npy\)"):
        load_image(tmp_path / "image.png", InputContract((6, 4, channels), kind="image"))


def test_floating_point_pixels_have_no_known_range(tmp_path: Path) -> None:
    Image.fromarray(GRAY.astype(np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(UnreadableDataError, match=r"image\.tif holds floating-point pixels.*\(\.npy\)"):
        load_image(tmp_path / "image.tif", InputContract((6, 4, 1)))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_have_no_known_range(value: int, tmp_path: Path) -> None:
    values = np.full((6, 4), 7, np.int32)
    values[2, 2] = value
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.raises(
        UnreadableDataError, match=rf"image\.tif holds I values from {min(7, value)} to {max(7, value)}"
    ):
        load_image(tmp_path / "image.tif", InputContract((6, 4, 1)))


@pytest.mark.parametrize("content", [b"", b"just some text\n", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='...'/>"])
def test_a_file_that_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableDataError, match=f"cannot read the image {path}.*Remove or replace the file"):
        load_image(path, InputContract((6, 4, 3)))


def test_text_called_png_is_told_plainly(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("just some text\n")
    with pytest.raises(UnreadableDataError, match="its content is not an image"):
        load_image(tmp_path / "cat.png", InputContract((6, 4, 3)))


@pytest.mark.parametrize("name", ["absent.png", "."])
def test_a_path_without_a_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError, match=f"cannot read the image {tmp_path / name}"):
        load_image(tmp_path / name, InputContract((6, 4, 3)))


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read)")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_a_file_cut_short_is_refused_unless_all_pixels_are_there(suffix: str, tmp_path: Path) -> None:
    path, contract = tmp_path / f"image.{suffix}", InputContract((24, 20, 3))
    Image.fromarray(RNG.integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    whole, pixels = path.read_bytes(), load_image(path, contract)
    refused = []
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        try:
            cut = load_image(path, contract)
        except EmbedliteError as error:
            assert isinstance(error, UnreadableDataError)
            assert str(path) in str(error)
            refused.append(end)
        else:
            np.testing.assert_array_equal(cut, pixels)
    assert max(refused) > 0.95 * len(whole)


def test_exif_data_with_a_value_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    path = tmp_path / "image.jpg"
    Image.fromarray(COLOR).save(path, exif=exif)
    content = path.read_bytes()
    # The text becomes a resolution, which is a fraction.
    order = "<" if b"Exif\0\0II" in content else ">"
    old, new = (struct.pack(order + "HH", tag, 2) for tag in (0x010E, 0x011A))
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(UnreadableDataError, match=r"cannot read the image .*image\.jpg"):
        load_image(path, InputContract((6, 4, 3)))


def test_a_small_file_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.fromarray(GRAY).save(path)
    content = bytearray(path.read_bytes())
    # The header chunk: width and height at byte 16, its checksum at byte 29.
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(UnreadableDataError, match=r"bomb\.png.*3600000000 pixels"):
        load_image(path, InputContract((6, 4, 1)))
