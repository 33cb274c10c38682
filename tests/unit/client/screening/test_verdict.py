import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import Quarantine
from septum_client.screening import verdict
from septum_client.screening.boxes import Box
from septum_client.screening.verdict import Decision, decide, see

KEY = b"k" * 32
WORD = Box(2, 3, 6, 20)


def picture(seed=0, shape=(16, 24)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint16)


def seen(*frames, key=KEY):
    shown = [(frame, lambda frame=frame: (frame & 255).astype(np.uint8)) for frame in frames]
    return see(iter(shown), count=len(frames), key=key)


def name(*frames, key=KEY):
    return seen(*frames, key=key).name


@pytest.fixture
def words(monkeypatch):
    """Let every frame show these words, and remember which were looked at."""
    found, looked = [], []

    def find_text(image):
        looked.append(image)
        return tuple(found)

    monkeypatch.setattr(verdict.ocr, "find_text", find_text)
    found.append(WORD)
    return found, looked


@given(row=st.integers(0, 15), column=st.integers(0, 23), change=st.integers(1, 65535))
def test_one_changed_pixel_in_any_frame_is_another_image(row, column, change):
    frames = [picture(0), picture(1), picture(2)]
    for at in range(3):
        other = [frame.copy() for frame in frames]
        other[at][row, column] ^= change
        assert name(*other) != name(*frames)


def test_a_name_depends_on_key_shape_type_and_frames_and_not_on_the_layout_in_memory():
    values = picture()
    own = name(values)
    assert len(own) == 32
    assert name(np.asfortranarray(values)) == own
    assert name(values.astype(">u2")) == own
    others = {
        name(values, key=b"x" * 32),
        name(values.reshape(24, 16)),
        name(values.astype(np.int16)),
        name(values.astype(np.uint8)),
        name(values, values),
    }
    assert len(others | {own}) == 6


def grey(frame):
    return (frame % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (9, [0, 4, 8])]
)
def test_the_first_the_middle_and_the_last_frame_are_looked_at(count, shown):
    frames = [picture(seed) for seed in range(count)]
    got = seen(*frames).pictures
    assert len(got) == len(shown) + 2 * (count > 3)
    for image, place in zip(got, shown, strict=False):
        assert np.array_equal(image, grey(frames[place]))


def test_text_of_a_frame_between_is_in_the_brightest_or_the_darkest_value_of_each_pixel():
    frames = [picture(seed) for seed in range(9)]
    *_, brightest, darkest = seen(*frames).pictures
    loop = np.stack([grey(frame) for frame in frames])
    assert np.array_equal(brightest, loop.max(axis=0))
    assert np.array_equal(darkest, loop.min(axis=0))


def test_a_title_before_a_bright_loop_is_looked_at_as_it_is():
    title, loop = np.zeros((16, 24), np.uint16), np.full((16, 24), 255, np.uint16)
    title[WORD.top : WORD.bottom, WORD.left : WORD.right] = 255
    # Over the loop, nothing of it would be left in any projection but the darkest.
    assert np.array_equal(seen(title, *[loop] * 8).pictures[0], title)


def test_every_picture_that_is_looked_at_is_on_the_sheet_and_so_are_the_words_in_it(words):
    image = seen(*[picture(seed) for seed in range(9)])
    shown = decide(image, code=None, read=True, decisions={}).preview
    assert [np.array_equal(*pair) for pair in zip(words[1], image.pictures, strict=True)] == [
        True
    ] * 5
    assert shown.image.shape == (2 * 16, 3 * 24)
    corners = [(0, 0), (0, 24), (0, 48), (16, 0), (16, 24)]
    for (top, left), part in zip(corners, image.pictures, strict=True):
        assert np.array_equal(shown.image[top : top + 16, left : left + 24], part)
    assert shown.boxes == tuple(WORD.moved(*corner) for corner in corners)
    assert not shown.image[16:, 48:].any()


def test_a_box_on_any_picture_of_the_sheet_blanks_that_place_in_every_frame(words):
    image = seen(*[picture(seed) for seed in range(9)])
    across, empty = Box(10, 20, 20, 30), Box(20, 50, 24, 60)
    decided = Decision(verdict="blank", boxes=(WORD.moved(16, 24), across, empty))
    found = decide(image, code=None, read=True, decisions={image.name: decided})
    parts = {Box(10, 20, 16, 24), Box(10, 0, 16, 6), Box(0, 20, 4, 24), Box(0, 0, 4, 6)}
    assert set(found.blank) == {WORD} | parts


def test_a_box_on_a_sheet_that_is_shown_smaller_is_found_again(words):
    frames = [picture(seed, shape=(3, 5001)) for seed in range(4)]
    image = seen(*frames)
    words[0][:] = [Box(0, 6, 3, 9)]
    shown = decide(image, code=None, read=True, decisions={}).preview
    assert (shown.scale, shown.image.shape) == (3, (2, 3 * 1667))
    assert shown.boxes[-1] == Box(1, 1667 + 2, 2, 1667 + 3)
    whole = Box(*(3 * side for side in shown.boxes[-1]))
    decided = {image.name: Decision(verdict="blank", boxes=(whole,))}
    assert decide(image, code=None, read=True, decisions=decided).blank == (Box(0, 6, 3, 9),)


def test_words_refuse_an_image_and_show_a_person_where(words):
    image = seen(picture())
    found = decide(image, code=None, read=True, decisions={})
    assert found.code is Quarantine.BURNED_IN_TEXT
    assert (found.preview.name, found.preview.boxes) == (image.name, (WORD,))
    assert found.preview.scale == 1
    assert np.array_equal(found.preview.image, image.pictures[0])
    words[0].clear()
    assert decide(image, code=None, read=True, decisions={}).code is None


def test_a_rule_that_refuses_keeps_its_code_whatever_tesseract_sees(words):
    for boxes in (0, 1):
        found = decide(seen(picture()), code=Quarantine.SECONDARY_CAPTURE, read=True, decisions={})
        assert found.code is Quarantine.SECONDARY_CAPTURE
        assert len(found.preview.boxes) == 1 - boxes
        words[0].clear()


def test_without_a_look_only_the_rule_counts(words):
    assert decide(seen(picture()), code=None, read=False, decisions={}).code is None
    ruled = decide(seen(picture()), code=Quarantine.BURNED_IN_TEXT, read=False, decisions={})
    assert ruled.preview.boxes == ()
    assert words[1] == []


@pytest.mark.parametrize("code", [None, Quarantine.BURNED_IN_TEXT, Quarantine.SECONDARY_CAPTURE])
def test_a_person_overrules_a_rule_and_tesseract_both_ways(words, code):
    image = seen(picture())

    def decided(verdict, boxes=()):
        decisions = {image.name: Decision(verdict=verdict, boxes=boxes)}
        return decide(image, code=code, read=True, decisions=decisions)

    accepted, blanked, rejected = decided("accept"), decided("blank", (WORD,)), decided("reject")
    assert (accepted.code, accepted.reviewed, accepted.blank) == (None, True, ())
    assert (blanked.code, blanked.reviewed, blanked.blank) == (None, True, (WORD,))
    assert rejected.code is Quarantine.REVIEWED_OUT
    assert rejected.preview is None
    assert words[1] == []


def test_a_decision_about_other_pixels_counts_for_nothing(words):
    decisions = {name(picture(1)): Decision(verdict="accept")}
    assert decide(seen(picture()), code=None, read=True, decisions=decisions).code is not None


def test_a_large_image_is_shown_smaller_and_its_boxes_with_it(words):
    words[0][:] = [Box(10, 21, 31, 4999), Box(5000, 0, 5001, 5001)]
    image = picture(shape=(5001, 5001))
    shown = decide(seen(image), code=None, read=True, decisions={}).preview
    assert (shown.scale, shown.image.shape) == (3, (1667, 1667))
    assert shown.boxes == (Box(3, 7, 11, 1667), Box(1666, 0, 1667, 1667))
    blocks = (image % 256).astype(float).reshape(1667, 3, 1667, 3).mean(axis=(1, 3))
    assert np.abs(shown.image - blocks).max() <= 0.5


def test_a_box_in_the_strip_that_is_not_shown_is_not_shown(words):
    words[0][:] = [Box(4999, 0, 5000, 9)]
    shown = decide(seen(picture(shape=(5000, 5000))), code=None, read=True, decisions={}).preview
    assert shown.image.shape == (1666, 1666)
    assert shown.boxes == ()


def test_neither_a_name_nor_a_pixel_is_in_a_repr(words):
    image = seen(picture())
    found = decide(image, code=None, read=True, decisions={})
    assert image.name not in repr((image, found))
    assert "array" not in repr((image, found))
