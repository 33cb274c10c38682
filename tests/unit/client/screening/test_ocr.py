import logging
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

from septum.errors import ConfigError, Quarantine
from septum_client.reject import Rejected
from septum_client.screening import ocr
from septum_client.screening.boxes import Box

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract is not installed"
)


def scan(side=256, seed=0):
    """Draw tissue on noise; no letter in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    body = 110 * (x**2 / 0.16 + y**2 / 0.2 < 1) + 40 * ((x + 0.1) ** 2 + y**2 < 0.02)
    return np.clip(body + rng.normal(10, 4, (side, side)), 0, 255).astype(np.uint8)


def written(image, text, *, at=(20, 30), size=16, grey=255):
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).text(at, text, fill=grey, font=ImageFont.load_default(size))
    return np.asarray(drawn)


@needs_tesseract
@pytest.mark.parametrize(
    ("text", "grey"), [("LINDQVIST ANNA", 255), ("MRN 12345678", 200), ("LINDQVIST ANNA", 90)]
)
def test_a_name_written_into_a_scan_is_found_where_it_is(text, grey):
    boxes = ocr.find_text(written(scan(), text, grey=grey))
    assert boxes
    place = Box(12, 14, 60, 200)
    assert all(box.meet(place) == box for box in boxes)


@needs_tesseract
def test_dark_letters_on_bright_film_are_found_too():
    assert ocr.find_text(255 - written(scan(), "LINDQVIST ANNA"))


@needs_tesseract
@pytest.mark.parametrize("seed", range(3))
def test_a_scan_without_text_shows_none(seed):
    assert ocr.find_text(scan(seed=seed)) == ()


@needs_tesseract
@pytest.mark.parametrize("marker", ["L", "R", "AP", "PA"])
def test_a_side_marker_alone_is_no_text(marker):
    assert ocr.find_text(written(scan(), marker, size=24)) == ()


@needs_tesseract
@pytest.mark.parametrize("name", ["693_J2KI.dcm", "CT_small.dcm", "MR_small.dcm"])
def test_real_scans_without_text_show_none(name):
    values = pydicom.dcmread(get_testdata_file(name)).pixel_array
    assert ocr.find_text(ocr.to_display(values)) == ()


@needs_tesseract
def test_the_hospitals_name_in_the_ultrasound_is_found_in_its_banner():
    colour = pydicom.dcmread(get_testdata_file("examples_rgb_color.dcm")).pixel_array
    boxes = ocr.find_text((colour @ [0.299, 0.587, 0.114]).astype(np.uint8))
    assert any(box.bottom < 48 for box in boxes)


@needs_tesseract
@pytest.mark.parametrize("side", [512, 900, 2700])
def test_boxes_are_in_pixels_of_the_image_at_any_size(side):
    size = side // 24
    at = (side // 4, side // 2)
    boxes = ocr.find_text(written(scan(side), "LINDQVIST", at=at, size=size))
    place = Box(at[1] - size, at[0] - size, at[1] + 2 * size, at[0] + 9 * size)
    assert boxes
    assert all(box.meet(place) == box for box in boxes)


@needs_tesseract
def test_what_was_read_is_neither_logged_nor_printed(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    assert ocr.find_text(written(scan(), "LINDQVIST ANNA"))
    assert "LINDQVIST" not in caplog.text
    assert capfd.readouterr() == ("", "")


def table(*rows):
    """Answer as tesseract does: twelve columns a row."""
    return "\n".join("\t".join(map(str, row)) for row in rows).encode()


def word(text, confidence, left=30, top=60, width=90, height=30):
    return (5, 1, 1, 1, 1, 1, left, top, width, height, confidence, text)


@pytest.fixture
def reads(monkeypatch):
    monkeypatch.setattr(ocr, "available", lambda: True)

    def answer(*rows, error=None):
        def run(*args, **kwargs):
            if error:
                raise error
            return subprocess.CompletedProcess(args, 0, stdout=table(*rows))

        monkeypatch.setattr(ocr.subprocess, "run", run)

    return answer


@pytest.mark.parametrize(
    ("text", "confidence", "counts"),
    [
        ("DOE", 70, True),
        ("DOE", 69, False),
        ("JANE", 50, True),
        ("JANE", 49, False),
        ("L", 99, False),
        ("AP", 99, False),
        ("|-.|", 99, False),
        ("(M)R:N", 80, True),
    ],
)
def test_a_word_counts_by_its_letters_and_the_confidence(reads, text, confidence, counts):
    reads(word(text, confidence))
    assert bool(ocr.find_text(scan())) is counts


def test_a_box_is_scaled_back_outwards_and_stays_inside(reads):
    reads(word("JANE", 90, left=31, top=61, width=100, height=31))
    assert set(ocr.find_text(scan())) == {Box(20, 10, 31, 44)}
    reads(word("JANE", 90, left=700, top=700, width=900, height=900))
    assert set(ocr.find_text(scan())) == {Box(233, 233, 256, 256)}


def test_rows_of_another_kind_are_passed_over(reads):
    page = (1, 1, 0, 0, 0, 0, 0, 0, 768, 768, -1, "")
    reads(("level", "page_num"), page, ("",))
    assert ocr.find_text(scan()) == ()


@pytest.mark.parametrize(
    "error",
    [
        subprocess.TimeoutExpired("tesseract", 60),
        subprocess.CalledProcessError(1, "tesseract"),
        OSError("cannot start"),
    ],
)
def test_an_image_that_could_not_be_looked_at_stays_out(reads, error):
    reads(error=error)
    with pytest.raises(Rejected) as stopped:
        ocr.find_text(scan())
    assert stopped.value.code is Quarantine.BURNED_IN_TEXT


def test_without_tesseract_the_policy_cannot_be_kept_and_says_how(monkeypatch):
    monkeypatch.setattr(ocr, "available", lambda: False)
    with pytest.raises(ConfigError) as stopped:
        ocr.find_text(scan())
    assert "apt install tesseract-ocr" in stopped.value.remedy


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
        elements=st.floats(width=32),
    )
)
def test_whatever_the_values_the_display_is_eight_bit(values):
    shown = ocr.to_display(values)
    assert shown.dtype == np.uint8
    assert shown.shape == values.shape


def test_the_display_spans_the_whole_range_and_padding_is_black():
    values = np.array([[-1000, 0], [3000, 9999]])
    hidden = values == 9999
    assert ocr.to_display(values, hidden).tolist() == [[0, 64], [255, 0]]
    assert ocr.to_display(values).max() == 255
    assert ocr.to_display(values, np.ones_like(hidden)).tolist() == [[0, 0], [0, 0]]
