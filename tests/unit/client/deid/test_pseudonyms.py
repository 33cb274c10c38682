"""Keyed names: the same at every run, different at every site, stable on our own output."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import ConfigError
from septum_client import pseudonyms

KEY, OTHER = b"k" * 32, b"o" * 32


@given(st.text())
def test_a_pseudonym_is_its_own_pseudonym(patient):
    own = pseudonyms.pseudonym(KEY, patient)
    assert re.fullmatch(r"[0-9a-f]{32}", own)
    assert pseudonyms.is_own(KEY, own)
    assert pseudonyms.pseudonym(KEY, own) == own


@given(st.text())
def test_a_uid_is_its_own_uid_and_valid(original):
    own = pseudonyms.uid(KEY, original)
    assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", own)
    assert len(own) <= 64
    assert pseudonyms.uid(KEY, own) == own


@given(st.text())
def test_another_key_gives_other_names_and_does_not_recognise_these(text):
    name, uid = pseudonyms.pseudonym(KEY, text), pseudonyms.uid(KEY, text)
    assert pseudonyms.pseudonym(OTHER, text) != name
    assert not pseudonyms.is_own(OTHER, name)
    assert pseudonyms.pseudonym(OTHER, name) != name
    assert pseudonyms.uid(OTHER, uid) != uid


@given(st.integers(0, 2**140))
def test_a_uid_that_somebody_else_made_is_mapped(number):
    original = f"2.25.{number}"
    assert pseudonyms.uid(KEY, original) != original


@given(st.text(), st.floats(0, 1))
def test_a_patient_and_the_own_pseudonym_are_in_one_split(patient, fraction):
    own = pseudonyms.pseudonym(KEY, patient)
    assert pseudonyms.is_held_out(KEY, own, fraction) == pseudonyms.is_held_out(
        KEY, patient, fraction
    )


@given(st.text())
def test_images_keep_their_order_after_deidentification(uid):
    own = pseudonyms.uid(KEY, uid)
    assert pseudonyms.image_pseudonym(KEY, own) == pseudonyms.image_pseudonym(KEY, uid)


def test_a_short_key_is_refused():
    with pytest.raises(ConfigError, match="15 bytes"):
        pseudonyms.require_key(b"k" * 15)


@pytest.mark.parametrize(
    "typed",
    ["MRN7\t", "MRN7\u00a0", "\u200bMRN7", "MRN7\0 ", "\u2004MRN7\u2060", "\x85MRN7", "\ufeffMRN7"],
)
def test_what_nobody_sees_around_an_id_makes_no_other_patient(typed):
    assert pseudonyms.pseudonym(KEY, typed) == pseudonyms.pseudonym(KEY, "MRN7")
    assert pseudonyms.linkage(KEY, typed) == pseudonyms.linkage(KEY, "MRN7")


@given(patient=st.text(max_size=12))
def test_an_id_is_one_patient_however_its_accents_are_composed(patient):
    one, two = (unicodedata.normalize(form, patient) for form in ("NFC", "NFD"))
    assert pseudonyms.pseudonym(KEY, one) == pseudonyms.pseudonym(KEY, two)
    assert pseudonyms.plain(one) == pseudonyms.plain(two) == pseudonyms.plain(f" {two}\0")


def test_what_stands_inside_an_id_counts():
    ids = ("MRN7", "mrn7", "MRN 7", "MR\u200bN7", "MRN-7")
    assert len({pseudonyms.pseudonym(KEY, each) for each in ids}) == len(ids)
