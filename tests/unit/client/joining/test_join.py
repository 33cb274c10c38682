"""Whom a hospital believes is settled by a fingerprint, once, and by nothing that was sent."""

import pytest

from septum.errors import Code, ConfigError, Refusal, SignatureError
from septum.joining import read_invitation
from septum.signed_study import sign
from septum.signing import fingerprint
from septum_client import coordinator
from septum_client.join import digests, join, offered, study_of
from septum_client.site import Site


def files(site):
    return {path.name for path in site.folder.rglob("*") if path.is_file()}


def test_joining_keeps_address_certificate_and_key_and_approves_nothing(invited):
    invitation = invited.invitation()
    signed = join(invited.site, invitation, heard=invited.spoken, now=invited.now)
    kept = coordinator.joined(invited.site.folder)
    assert (kept.address, kept.ca, kept.key) == (
        invitation.address,
        invitation.ca,
        invited.key.public,
    )
    assert digests(invited.site) == [signed.study.digest]
    assert offered(invited.site, signed.study.digest) == signed
    with pytest.raises(Refusal) as refused:
        invited.site.approved(signed.study.digest)
    assert refused.value.code is Code.UNKNOWN_STUDY


def test_a_fingerprint_may_be_typed_as_it_was_heard(invited):
    heard = f" {invited.spoken.lower().replace('-', ' ').replace('0', 'o')} "
    join(invited.site, invited.invitation(), heard=heard, now=invited.now)


@pytest.mark.parametrize("heard", ["", "0000-0000-0000-0000-0000", "another"])
def test_another_fingerprint_joins_nobody_and_writes_nothing(invited, tiny, heard):
    before = files(invited.site)
    wrong = fingerprint(tiny.key("stranger").public) if heard == "another" else heard
    for said in (wrong, invited.spoken[:-5]):
        with pytest.raises(SignatureError, match="fingerprint"):
            join(invited.site, invited.invitation(), heard=said, now=invited.now)
    assert files(invited.site) == before


def test_an_invitation_for_another_site_is_refused(invited):
    with pytest.raises(ConfigError, match="for south"):
        join(invited.site, invited.invitation(name="south"), heard=invited.spoken, now=invited.now)


def test_a_study_of_another_coordinator_cannot_ride_in_an_invitation(invited, tiny):
    foreign = sign(invited.study(), tiny.key("stranger"))
    before = files(invited.site)
    with pytest.raises(Refusal) as refused:
        join(invited.site, invited.invitation(foreign), heard=invited.spoken, now=invited.now)
    assert refused.value.code is Code.OTHER_COORDINATOR
    assert files(invited.site) == before


def test_a_study_that_has_ended_is_not_offered(invited):
    signed = invited.signed(expires="2026-05-31")
    with pytest.raises(Refusal) as refused:
        join(invited.site, invited.invitation(signed), heard=invited.spoken, now=invited.now)
    assert refused.value.code is Code.STUDY_EXPIRED
    join(
        invited.site,
        invited.invitation(invited.signed(expires="2026-06-01")),
        heard=invited.spoken,
        now=invited.now,
    )


def test_a_study_that_gives_this_site_another_key_is_not_offered(invited, tiny):
    study = invited.study()
    sites = tuple(
        site.model_copy(update={"key": tiny.key("stranger").public})
        if site.name == "north"
        else site
        for site in study.sites
    )
    signed = sign(study.model_copy(update={"sites": sites}), invited.key)
    with pytest.raises(Refusal) as refused:
        join(invited.site, invited.invitation(signed), heard=invited.spoken, now=invited.now)
    assert refused.value.code is Code.OTHER_SITE_KEY


def test_a_second_study_of_the_same_coordinator_needs_no_second_call(invited):
    join(invited.site, invited.invitation(), heard=invited.spoken, now=invited.now)
    second = invited.invitation(invited.signed(name="second"))
    signed = join(invited.site, second, heard="", now=invited.now)
    assert len(digests(invited.site)) == 2
    assert study_of(invited.site, signed.study.digest).name == "second"


def test_another_coordinator_is_joined_only_instead_and_the_old_key_is_revoked(invited, tiny):
    first = join(invited.site, invited.invitation(), heard=invited.spoken, now=invited.now)
    invited.site.approve(first, by="X", at=invited.now)
    stranger = tiny.key("stranger")
    other = invited.invitation(sign(invited.study(), stranger), key=stranger)
    heard = fingerprint(stranger.public)
    with pytest.raises(ConfigError, match="before"):
        join(invited.site, other, heard=heard, now=invited.now)
    assert invited.site.approved(first.study.digest, today=invited.now.date())
    join(invited.site, other, heard=heard, now=invited.now, instead=True)
    assert coordinator.joined(invited.site.folder).revoked == (invited.key.public,)
    # What was approved stays readable, for the ledger; it trains no more.
    assert invited.site.approved(first.study.digest) == first.study
    with pytest.raises(Refusal) as refused:
        invited.site.approved(first.study.digest, today=invited.now.date())
    assert refused.value.code is Code.OTHER_COORDINATOR
    with pytest.raises(SignatureError, match="revoked"):
        join(
            invited.site,
            invited.invitation(),
            heard=invited.spoken,
            now=invited.now,
            instead=True,
        )


@pytest.fixture
def moved(invited, tiny):
    """Return the site after it left its first coordinator for another, with a study approved."""
    join(invited.site, invited.invitation(), heard=invited.spoken, now=invited.now)
    stranger = tiny.key("stranger")
    other = invited.invitation(sign(invited.study(), stranger), key=stranger)
    heard = fingerprint(stranger.public)
    signed = join(invited.site, other, heard=heard, now=invited.now, instead=True)
    invited.site.approve(signed, by="X", at=invited.now)
    invited.other, invited.digest = other, signed.study.digest
    invited.rejoin = lambda which, spoken: join(
        invited.site, which, heard=spoken, now=invited.now, instead=True
    )
    return invited


def test_a_revoked_key_stays_revoked_when_the_coordinator_file_is_deleted(moved):
    folder = moved.site.folder
    (folder / "coordinator.toml").unlink()
    with pytest.raises(SignatureError, match="revoked"):
        moved.rejoin(moved.invitation(), moved.spoken)
    # Nor does the site fall back on the key that an approved study names.
    with pytest.raises(ConfigError, match="joined no coordinator"):
        moved.site.approved(moved.digest, today=moved.now.date())
    moved.rejoin(moved.other, fingerprint(moved.other.coordinator))
    assert coordinator.joined(folder).revoked == (moved.key.public,)


def test_without_the_record_of_revoked_keys_nothing_trains_and_nobody_is_joined(moved):
    folder = moved.site.folder
    (folder / "revoked.txt").unlink()
    for refused in (
        lambda: moved.site.approved(moved.digest, today=moved.now.date()),
        lambda: moved.rejoin(moved.invitation(), moved.spoken),
        lambda: coordinator.joined(folder),
    ):
        with pytest.raises(ConfigError, match="record of revoked keys, is gone"):
            refused()
    (folder / "coordinator.toml").unlink()
    with pytest.raises(ConfigError, match="studies are approved here"):
        moved.rejoin(moved.invitation(), moved.spoken)
    for approval in (folder / "approved").iterdir():
        approval.unlink()
    moved.rejoin(moved.other, fingerprint(moved.other.coordinator))
    assert coordinator.joined(folder).revoked == ()


def test_a_hospital_with_neither_file_does_not_believe_what_it_approved(moved):
    folder = moved.site.folder
    for name in ("revoked.txt", "coordinator.toml"):
        (folder / name).unlink()
    for site in (moved.site, Site.open(folder)):
        with pytest.raises(ConfigError, match="joined no coordinator"):
            site.approved(moved.digest, today=moved.now.date())


def test_a_simulated_site_believes_what_it_approved_until_it_joins_somebody(
    invited, tiny, tmp_path
):
    signed = tiny.signed()
    site = Site.open(tiny.site(tmp_path / "simulated", signed).folder)
    assert site.approved(signed.study.digest, today=invited.now.date()) == signed.study
    (site.folder / "revoked.txt").write_text("end\n")
    with pytest.raises(ConfigError, match="joined no coordinator"):
        site.approved(signed.study.digest, today=invited.now.date())


def test_a_record_of_revoked_keys_that_was_cut_off_anywhere_trains_nothing(moved):
    record = moved.site.folder / "revoked.txt"
    whole = record.read_bytes()
    assert moved.key.public.encode() in whole
    for length in range(len(whole.rstrip())):
        record.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"revoked\.txt"):
            moved.site.approved(moved.digest, today=moved.now.date())
    for lost in (b"\0" * len(whole), whole + b"\n" + moved.key.public.encode()):
        record.write_bytes(lost)
        with pytest.raises(ConfigError, match=r"revoked\.txt"):
            moved.site.approved(moved.digest, today=moved.now.date())
    record.write_bytes(whole.rstrip())
    assert moved.site.approved(moved.digest, today=moved.now.date())


def test_an_administrator_may_add_a_key_and_say_why(moved):
    folder = moved.site.folder
    record = (folder / "revoked.txt").read_text().splitlines()
    record.insert(-1, f"{moved.other.coordinator}  # stolen, says their letter of 3 May")
    (folder / "revoked.txt").write_text("\n".join((*record, "", "# that was all", "")))
    with pytest.raises(Refusal) as refused:
        moved.site.approved(moved.digest, today=moved.now.date())
    assert refused.value.code is Code.KEY_REVOKED
    (folder / "revoked.txt").write_text("half a key\nend\n")
    with pytest.raises(ConfigError, match="key 1 in revoked"):
        coordinator.joined(folder)


def test_what_an_older_septum_wrote_of_revoked_keys_is_read_and_kept(moved):
    folder = moved.site.folder
    path = folder / "coordinator.toml"
    old = path.read_text().replace("format = 2", f'format = 1\nrevoked = ["{moved.key.public}"]')
    path.write_text(old)
    (folder / "revoked.txt").unlink()
    # It had no record; nor has one whose record, with the keys added since, is gone.
    with pytest.raises(ConfigError, match="record of revoked keys, is gone") as refused:
        moved.site.approved(moved.digest, today=moved.now.date())
    assert "one line `end`" in refused.value.remedy
    (folder / "revoked.txt").write_text("end\n")
    assert coordinator.joined(folder).revoked == (moved.key.public,)
    moved.rejoin(moved.other, "")
    record = (folder / "revoked.txt").read_text().splitlines()
    assert record[1:] == [moved.key.public, "end"]


def test_an_offered_study_that_was_changed_on_disk_is_not_shown(invited):
    signed = join(invited.site, invited.invitation(), heard=invited.spoken, now=invited.now)
    path = invited.site.folder / "offered" / f"{signed.study.digest}.toml"
    path.write_text(path.read_text().replace("rounds = 3", "rounds = 9"))
    with pytest.raises(ConfigError, match="altered"):
        offered(invited.site, signed.study.digest)


@pytest.mark.parametrize("word", ["", "../policy", "f" * 64, "no-such.toml"])
def test_a_word_that_names_no_study_is_one_sentence(invited, word):
    with pytest.raises(ConfigError, match="no study was offered"):
        study_of(invited.site, word)


@pytest.mark.parametrize("text", [None, "x = ", "key = 1", '[format]\nx = "y"'])
def test_a_coordinator_file_that_is_absent_or_damaged_is_said(invited, text):
    if text is not None:
        (invited.site.folder / "coordinator.toml").write_text(text)
    with pytest.raises(ConfigError):
        coordinator.joined(invited.site.folder)


def test_whatever_is_changed_in_an_invitation_on_the_way_is_found(invited, tmp_path):
    path = tmp_path / "invite.toml"
    text = invited.invitation().to_toml()
    changes = [
        ('address = "127.0.0.1:1"', 'address = "127.0.0.1:2"'),
        ("rounds = 3", "rounds = 4"),
        ("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE----- "),
        ('septum = "', 'septum = "9'),
    ]
    for old, new in changes:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(SignatureError, match="changed"):
            read_invitation(path)
