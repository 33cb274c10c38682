import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import ConfigError, SignatureError
from septum.signing import Purpose, SigningKey, fingerprint, says, verify

KEY = SigningKey.from_seed(b"k" * 32)
OTHER = SigningKey.from_seed(b"o" * 32)

values = (st.text(max_size=8) | st.integers() | st.booleans() | st.floats(allow_nan=False)).filter(
    lambda value: value not in {float("inf"), float("-inf")}
)
statements = st.dictionaries(st.text(max_size=5), values, max_size=4)
purposes = st.sampled_from(Purpose)


@given(statements, purposes)
def test_what_a_key_signs_verifies_and_signing_again_gives_the_same_bytes(statement, purpose):
    signature = KEY.sign(purpose, statement)
    verify(KEY.public, purpose, statement, signature)
    assert KEY.sign(purpose, dict(reversed(statement.items()))) == signature


@given(statements, purposes, statements, purposes)
def test_a_signature_verifies_for_no_other_statement_purpose_or_key(one, purpose, other, another):
    signature = KEY.sign(purpose, one)
    same = purpose == another and repr(sorted(one.items())) == repr(sorted(other.items()))
    if not same:
        with pytest.raises(SignatureError):
            verify(KEY.public, another, other, signature)
    with pytest.raises(SignatureError):
        verify(OTHER.public, purpose, one, signature)


@pytest.mark.parametrize(
    ("said", "heard"),
    [({"a": 1}, {"a": True}), ({"a": 1}, {"a": 1.0}), ({"a": "1"}, {"a": 1}), ({}, {"a": ""})],
)
def test_values_of_another_type_are_another_statement(said, heard):
    with pytest.raises(SignatureError):
        verify(KEY.public, Purpose.RELEASE, heard, KEY.sign(Purpose.RELEASE, said))


@given(st.integers(0, 511))
def test_no_bit_of_a_signature_can_change(bit):
    raw = bytearray.fromhex(KEY.sign(Purpose.STUDY, {"study": "x"}))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(KEY.public, Purpose.STUDY, {"study": "x"}, raw.hex())


@pytest.mark.parametrize("signature", ["", "ab", "z" * 128, "A" * 128, "é" * 128, "0" * 127])
@pytest.mark.parametrize("public", [KEY.public, "", "zz", "0" * 64, KEY.public.upper() + " "])
def test_text_that_is_no_signature_or_no_key_is_one_kind_of_error(public, signature):
    with pytest.raises(SignatureError):
        verify(public, Purpose.STUDY, {}, signature)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [1], {"a": 1}, b"x"])
def test_what_has_no_single_form_cannot_be_signed(value):
    with pytest.raises(SignatureError, match="round"):
        KEY.sign(Purpose.INSTRUCTION, {"round": value})


def test_a_key_survives_its_file_which_nobody_else_can_read(tmp_path):
    path = tmp_path / "signing.key"
    key = SigningKey.create()
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public
    assert SigningKey.create().public != key.public


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "signing.key"
    KEY.save(path)
    with pytest.raises(ConfigError, match="exists already"):
        OTHER.save(path)
    assert SigningKey.load(path).public == KEY.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_key_that_others_may_read_is_not_used(tmp_path, mode):
    path = tmp_path / "signing.key"
    KEY.save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:03o}"):
        SigningKey.load(path)


@pytest.mark.parametrize("content", [b"", b"secret", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_is_no_key_is_named_and_not_quoted(tmp_path, content):
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"signing\.key holds no Ed25519 key") as error:
        SigningKey.load(path)
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        SigningKey.load(tmp_path / "absent.key")


def test_a_folder_that_cannot_be_written_leaves_no_part_of_a_key(tmp_path):
    with pytest.raises(ConfigError, match="could not be written"):
        KEY.save(tmp_path / "absent" / "signing.key")
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_in_no_text_of_its_key(tmp_path):
    path = tmp_path / "signing.key"
    KEY.save(path)
    secret = path.read_text().splitlines()[1]
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert secret not in text
        assert (b"k" * 32).hex() not in text


@pytest.mark.parametrize("seed", [b"", b"k" * 31, b"k" * 33])
def test_a_seed_of_another_length_is_refused(seed):
    with pytest.raises(ConfigError, match="needs 32"):
        SigningKey.from_seed(seed)


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_can_be_read_aloud_and_says_which_key_it_is(raw):
    text = fingerprint(raw.hex())
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){4}[0-9A-HJKMNP-TV-Z]{4}", text)
    assert says(raw.hex(), text)
    heard = text.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert says(raw.hex(), f" {heard} ")
    changed = text[:-1] + ("0" if text[-1] != "0" else "1")
    assert not says(raw.hex(), changed)


@pytest.mark.parametrize("part", ["", "-", "0", "CSM7", "CSM7-NBFR-CAYQ-EV4F"])
def test_a_part_of_a_fingerprint_is_not_enough(part):
    public = "00" * 32
    assert fingerprint(public) == "CSM7-NBFR-CAYQ-EV4F-R65R"
    assert not says(public, part)


def test_no_fingerprint_is_made_of_what_is_no_key():
    for text in ("", "0" * 63, "g" * 64):
        with pytest.raises(SignatureError, match="64 hex digits"):
            fingerprint(text)
