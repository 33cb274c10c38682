import pytest

from septum.errors import Code, ConfigError, Refusal
from septum.joining import read_card, read_invitation
from septum.signed_study import parse_signed
from septum.study import parse
from septum.toml_text import TomlError, as_json

HOSTILE = {
    "an array too deep": "a=" + "[" * 5000,
    "a name too deep": ".".join("a" * 5000) + " = 1",
    "a number too long": "a=" + "9" * 5000,
    "a hexadecimal number too long": "a=0x" + "f" * 5000,
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def hostile(request):
    return request.param


def test_toml_becomes_json():
    assert as_json('a = 1\nb = [2026-11-21, "x"]') == '{"a": 1, "b": ["2026-11-21", "x"]}'


def test_what_no_parser_survives_is_one_error(hostile):
    with pytest.raises(TomlError, match=r"nested too deeply|too many digits"):
        as_json(hostile)


@pytest.mark.parametrize("read", [read_card, read_invitation])
def test_a_hostile_card_or_invitation_is_one_sentence(hostile, read, tmp_path):
    path = tmp_path / "from-a-stranger.toml"
    path.write_text(hostile, encoding="ascii")
    with pytest.raises(ConfigError, match="no TOML text"):
        read(path)


def test_a_hostile_study_is_one_sentence(hostile):
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse(hostile)
    with pytest.raises(Refusal, match="not valid TOML") as refused:
        parse_signed('signature = "' + "0" * 128 + '"\n\n' + hostile)
    assert refused.value.code == Code.STUDY_INVALID
