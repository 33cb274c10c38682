from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import Code, ConfigError, Refusal
from septum.participants import Approval
from septum.signed_study import check, in_force, load_signed, parse_signed, sign
from septum.study import load, parse

TODAY = date(2026, 6, 1)
APPROVALS = (
    {"number": "2026-17", "body": "Ethics committee of Northtown", "expires": "2026-12-31"},
    {"number": "A/9", "body": "Data protection authority", "expires": ""},
)


@pytest.fixture(scope="module")
def signed(tiny):
    return tiny.signed(tiny.study(expires="2027-01-31", approvals=APPROVALS))


def refused(tiny, signed, code, **given):
    fields = {"coordinator": tiny.key("coordinator").public, "site": "north", "today": TODAY}
    with pytest.raises(Refusal) as error:
        check(signed, **(fields | given))
    assert error.value.code is code
    return error.value


def test_what_a_coordinator_signed_is_accepted_offline_after_any_journey(tiny, signed, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(signed.to_toml())
    again = load_signed(path)
    assert again == signed
    assert again.study.digest == signed.study.digest
    check(
        again,
        coordinator=tiny.key("coordinator").public,
        site="north",
        today=TODAY,
        site_key=tiny.key("north").public,
    )
    check(again, coordinator=tiny.key("coordinator").public, site=None, today=TODAY)


def test_signing_names_the_coordinator_and_changes_nothing_else(tiny):
    before = tiny.study(approvals=APPROVALS)
    after = tiny.signed(before).study
    assert after.coordinator == tiny.key("coordinator").public
    keyless = tuple(site.model_copy(update={"key": ""}) for site in after.sites)
    assert after.model_copy(update={"coordinator": "", "sites": keyless}) == before


@given(data=st.data())
def test_no_byte_of_the_file_can_change(tiny, signed, data):
    raw = bytearray(signed.to_toml().encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return  # load_signed refuses it before: see the test of files below
    with pytest.raises(Refusal) as error:
        check(
            parse_signed(text), coordinator=tiny.key("coordinator").public, site="north",
            today=TODAY,
        )  # fmt: skip
    assert error.value.code in {
        Code.STUDY_SIGNATURE, Code.STUDY_INVALID, Code.OTHER_COORDINATOR,
    }  # fmt: skip


CHANGES = {
    "a comment": lambda text: text.replace("[data]", "# harmless\n[data]"),
    "a blank line": lambda text: text.replace("[data]", "\n[data]"),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "a default left out": lambda text: text.replace("commercial = false\n", ""),
    "a default spelt out": lambda text: text.replace("[data]", 'x = ""\n[data]', 1).replace(
        'x = ""', 'expires = ""'
    ),
    "a number written otherwise": lambda text: text.replace("rounds = 3", "rounds = 0x3"),
    "nothing at the end": lambda text: text.rstrip("\n"),
    "more at the end": lambda text: text + "\n",
    "no signature": lambda text: text.split("\n", 2)[2],
    "no file": lambda text: "",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_says_the_same_in_other_bytes_is_not_what_was_signed(tiny, tmp_path, change):
    signed = tiny.signed()
    path = tmp_path / "study.toml"
    path.write_bytes(change(signed.to_toml()).encode())
    with pytest.raises(Refusal) as error:
        load_signed(path)
    assert error.value.code is Code.STUDY_SIGNATURE


def test_an_unknown_key_is_named(signed):
    text = signed.to_toml().replace("[data]\n", "[data]\nepsilom = 3\n")
    with pytest.raises(Refusal, match="epsilom") as error:
        parse_signed(text)
    assert error.value.code is Code.STUDY_INVALID


def test_files_that_hold_no_text_are_refused(tmp_path):
    for content in (b"\xff\xfe", b"x" * (1 << 20) + b"x"):
        (tmp_path / "study.toml").write_bytes(content)
        with pytest.raises(Refusal) as error:
            load_signed(tmp_path / "study.toml")
        assert error.value.code is Code.STUDY_SIGNATURE
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_signed(tmp_path / "absent.toml")


def test_a_study_under_another_coordinators_key_is_not_read_further(tiny, signed):
    refused(tiny, signed, Code.OTHER_COORDINATOR, coordinator=tiny.key("other").public)
    refused(tiny, signed, Code.OTHER_COORDINATOR, coordinator="")


def test_a_stranger_cannot_sign_in_the_coordinators_name(tiny, signed):
    stranger = sign(signed.study.model_copy(update={"coordinator": ""}), tiny.key("stranger"))
    named = {"coordinator": tiny.key("coordinator").public}
    forged = type(signed)(
        study=stranger.study.model_copy(update=named), signature=stranger.signature
    )
    refused(tiny, forged, Code.STUDY_SIGNATURE)


def test_a_study_that_nobody_signed_is_refused_whatever_is_believed(tiny):
    unsigned = type(tiny.signed())(study=tiny.study(), signature="0" * 128)
    refused(tiny, unsigned, Code.STUDY_SIGNATURE)
    refused(tiny, unsigned, Code.STUDY_SIGNATURE, coordinator="")


def test_a_study_ends_after_its_last_day_and_with_its_first_approval(tiny, signed):
    check(
        signed, coordinator=tiny.key("coordinator").public, site="north", today=date(2026, 12, 31)
    )
    said = refused(tiny, signed, Code.STUDY_EXPIRED, today=date(2027, 1, 1))
    assert "approval 2026-17" in said.message
    shorter = tiny.signed(tiny.study(expires="2026-05-31"))
    assert "the study ended on 2026-05-31" in refused(tiny, shorter, Code.STUDY_EXPIRED).message
    in_force(tiny.study(), today=date(2999, 1, 1))


def test_another_sites_study_is_refused(tiny, signed):
    refused(tiny, signed, Code.STUDY_NOT_ALLOWED, site="elsewhere")


def test_a_site_whose_key_the_study_does_not_know_is_told_before_it_trains(tiny, signed):
    refused(tiny, signed, Code.OTHER_SITE_KEY, site_key=tiny.key("south").public)


@pytest.mark.parametrize("whose", ["coordinator", "north"])
def test_a_revoked_key_is_believed_no_longer(tiny, signed, whose):
    refused(tiny, signed, Code.KEY_REVOKED, revoked={tiny.key(whose).public})
    check(
        signed, coordinator=tiny.key("coordinator").public, site="north", today=TODAY,
        revoked={tiny.key("stranger").public},
    )  # fmt: skip


def test_a_study_is_signed_only_with_every_sites_key_and_by_its_own_coordinator(tiny):
    with pytest.raises(ConfigError, match="north, south, west"):
        sign(tiny.study(), tiny.key("coordinator"))
    with pytest.raises(ConfigError, match="names the coordinator"):
        sign(tiny.signed().study, tiny.key("other"))
    again = sign(tiny.signed().study, tiny.key("coordinator"))
    assert again == tiny.signed()


def test_a_site_cannot_be_its_own_coordinator_nor_share_a_key(tiny):
    study = tiny.signed().study
    with pytest.raises(ValueError, match="coordinator must have another key"):
        sign(study.model_copy(update={"coordinator": ""}), tiny.key("north"))
    fields = study.model_dump(mode="json")
    fields["sites"][0]["key"] = fields["sites"][1]["key"]
    with pytest.raises(ValueError, match=r"sites\.key must be unique"):
        type(study).model_validate(fields)


def test_a_command_that_needs_the_study_alone_reads_the_signed_file_too(tiny, signed, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(signed.to_toml())
    assert load(path) == signed.study
    with pytest.raises(ConfigError, match="unknown key 'signature'"):
        parse(signed.to_toml())


def test_what_was_added_later_leaves_the_digests_of_older_studies_as_they_were(tiny):
    # A golden value of the version before signatures: approvals on disk hang on it.
    study = tiny.study()
    assert study.digest == "7e394b8401a2b7e5bc2c09f04bff7b59826f1e38003ba8ab59fa966b6d7318f5"
    assert {"coordinator", "expires", "approvals", "participation"} & set(
        study.canonical()
    ) == set()
    assert study.model_copy(update={"expires": "2030-01-01"}).digest != study.digest


@pytest.mark.parametrize("day", ["2026-6-1", "20260601", "2026-02-30", "tomorrow", "2026-W01-1"])
def test_a_day_has_one_form(tiny, day):
    with pytest.raises(ValueError, match="expires"):
        tiny.study(expires=day)
    with pytest.raises(ValueError, match="expires"):
        Approval(number="1", body="b", expires=day)


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 604_801}, "deadline_s"),
        ({"dropout": "ignore"}, "dropout"),
        ({"retries": 0}, "retries"),
        ({"quorum": 1}, "quorum"),
    ],
)
def test_a_participation_outside_its_limits_is_refused(tiny, policy, key):
    with pytest.raises(ValueError, match=key):
        tiny.study(participation=policy)


@pytest.mark.parametrize(
    "key", ["x", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA", "ecdsa-sha2-nistp384 AAAA me@x"]
)
def test_a_node_key_has_one_form(tiny, key):
    with pytest.raises(ValueError, match="node_key"):
        tiny.study(sites=[{"name": "a", "patients": 1, "node_key": key}] * 1)
