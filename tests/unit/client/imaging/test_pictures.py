import io
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from septum.errors import Quarantine
from septum_client.imaging import pictures
from septum_client.imaging.limits import Limits
from septum_client.reject import Rejected

SECRET = "Meier^Anna"
GREY = np.random.default_rng(0).integers(0, 256, (24, 18)).astype(np.uint8)
DEEP = np.random.default_rng(0).integers(0, 2**16, (24, 18)).astype(np.uint16)
RGB = np.random.default_rng(0).integers(0, 256, (24, 18, 3)).astype(np.uint8)


def saved(image, format="PNG", **kwargs):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format, **kwargs)
    return out.getvalue()


def code_of(data, **kwargs):
    with pytest.raises(Rejected) as caught:
        pictures.read(data, **kwargs)
    assert caught.value.__cause__ is None
    return caught.value.code


@pytest.mark.parametrize(
    ("values", "format"),
    [(GREY, "PNG"), (GREY, "TIFF"), (GREY, "BMP"), (DEEP, "PNG"), (DEEP, "TIFF")],
)
def test_grey_values_are_what_was_saved(values, format):
    got = pictures.read(saved(values, format))
    assert got.dtype == np.float32
    assert np.array_equal(got, values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read(compression):
    assert np.array_equal(pictures.read(saved(DEEP, "TIFF", compression=compression)), DEEP)


def test_a_tiff_of_the_other_byte_order_is_read():
    data = saved(Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes()), "TIFF")
    assert data.startswith(b"MM")
    assert np.array_equal(pictures.read(data), DEEP)


@pytest.mark.parametrize("values", [GREY, DEEP])
def test_a_tiff_whose_white_is_zero_is_brightest_where_the_tissue_is(values):
    data = bytearray(saved(values, "TIFF"))
    entry = data.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[entry + 8] = 0
    most = np.iinfo(values.dtype).max
    assert np.array_equal(pictures.read(bytes(data)), most - values)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_colour_becomes_luma(format):
    want = 0.299 * RGB[..., 0] + 0.587 * RGB[..., 1] + 0.114 * RGB[..., 2]
    assert np.allclose(pictures.read(saved(RGB, format)), want, atol=1e-3)


def test_a_palette_and_black_and_white_are_read():
    palette = Image.fromarray(RGB).quantize(16)
    want = np.asarray(palette.convert("RGB")).astype(np.float32) @ pictures.LUMA
    assert np.allclose(pictures.read(saved(palette)), want, atol=1e-3)
    assert np.array_equal(pictures.read(saved(Image.fromarray(GREY > 99))), (GREY > 99) * 255)


def test_what_is_transparent_is_black():
    alpha = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    alpha[:5, :, 3] = 0
    got = pictures.read(saved(alpha))
    assert (got[:5] == 0).all()
    assert np.array_equal(got[5:], pictures.read(saved(RGB))[5:])


def test_a_jpeg_is_close_to_what_was_saved():
    smooth = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None], (1, 24))
    assert np.abs(pictures.read(saved(smooth, "JPEG", quality=95)) - smooth).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_pictures_come_upright(orientation, format):
    corner = np.zeros((32, 24), np.uint8)
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = pictures.read(saved(corner, format, exif=exif)) > 128
    # EXIF 2.32, 4.6.4: where the first row and column are shown.
    row, column = {
        1: (0, 0),
        2: (0, -1),
        3: (-1, -1),
        4: (-1, 0),
        5: (0, 0),
        6: (0, -1),
        7: (-1, -1),
        8: (-1, 0),
    }[orientation]
    assert got.shape == ((32, 24) if orientation < 5 else (24, 32))
    assert got[row, column]
    assert got.sum() == 64


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_huge_promise_is_refused_before_decoding(format, monkeypatch):
    data = saved(GREY, format)
    monkeypatch.setattr(Image.Image, "load", lambda *a: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *a: pytest.fail("decoded"))
    assert code_of(data, limits=Limits(side=23)) is Quarantine.TOO_LARGE


def test_a_png_that_claims_a_gigapixel_is_too_large():
    data = bytearray(saved(GREY))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    crc = zlib.crc32(data[12:29])
    data[29:33] = crc.to_bytes(4, "big")
    assert code_of(bytes(data)) is Quarantine.TOO_LARGE


def test_many_pages_are_refused():
    pages = [Image.fromarray(GREY)] * 2
    assert code_of(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])) is (
        Quarantine.MULTI_FRAME
    )
    other = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    assert code_of(saved(other[0], "PNG", save_all=True, append_images=other[1:])) is (
        Quarantine.MULTI_FRAME
    )


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (saved(GREY[:15]), Quarantine.BAD_GEOMETRY),
        (saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), Quarantine.CANNOT_DECODE),
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), Quarantine.CANNOT_DECODE),
        (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), Quarantine.CANNOT_DECODE),
        (saved(GREY, "GIF"), Quarantine.CANNOT_DECODE),
        (saved(GREY, "WEBP"), Quarantine.CANNOT_DECODE),
        (saved(GREY)[:-40], Quarantine.CANNOT_DECODE),
        (saved(GREY, "JPEG")[:-60], Quarantine.CANNOT_DECODE),
        (b"", Quarantine.CANNOT_DECODE),
    ],
)
def test_what_is_no_grey_or_colour_picture_is_refused(data, code):
    assert code_of(data) is code


def test_nothing_but_pixels_is_carried_or_said(caplog, capfd):
    text = PngImagePlugin.PngInfo()
    text.add_text("Name", SECRET)
    text.add_itxt("Comment", SECRET)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = SECRET
    made = [
        saved(GREY, "PNG", pnginfo=text, exif=exif),
        saved(GREY, "JPEG", comment=SECRET.encode(), exif=exif),
        saved(GREY, "TIFF", tiffinfo=tags),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for data in made:
            assert SECRET.encode() in data
            got = pictures.read(data)
            assert type(got) is np.ndarray
            assert got.shape == GREY.shape
            assert SECRET.encode() not in got.tobytes()
    assert caught == []
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_no_byte_of_a_picture_can_make_the_reader_raise_anything_else(format):
    raw = saved(RGB, format)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(150):
        broken = bytearray(raw)
        for at in rng.integers(0, len(raw), 3):
            broken[at] = rng.integers(256)
        with suppress(Rejected):
            read += pictures.read(bytes(broken)).ndim == 2
    assert read < 150
