import errno
import json
import os
import stat

import pytest

from septum.errors import Code, ConfigError, DataError, LedgerError, Refusal
from septum_client.policy import Policy
from septum_client.site import Site, write_durably

PARTS = ("site.toml", "key", "signing.key", "node.key", "policy.toml", "ledger.sqlite")


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_a_new_site_is_readable_by_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        site = Site.create(tmp_path / "s", name="north", policy=Policy())
    finally:
        os.umask(before)
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700
    assert modes(site.folder) == {
        "site.toml": 0o600, "policy.toml": 0o600, "key": 0o600, "ledger.sqlite": 0o600,
        "signing.key": 0o600, "node.key": 0o600, "node.pub": 0o600, "site-card.toml": 0o600,
        "approved": 0o700, "consent": 0o700, "outbox": 0o700,
    }  # fmt: skip


def test_a_lost_ledger_is_an_error_and_not_a_fresh_budget(tmp_path):
    site = Site.create(tmp_path / "s", name="north", policy=Policy())
    assert len(site.ledger.entries()) == 1
    site.ledger_path.unlink()
    with pytest.raises(LedgerError, match="missing"):
        _ = site.ledger
    assert not site.ledger_path.exists()


@pytest.mark.parametrize("part", ["key", "signing.key", "node.key", "policy.toml", "ledger.sqlite"])
def test_a_damaged_site_keeps_what_it_has_left(tmp_path, part):
    site = Site.create(tmp_path / "s", name="north", policy=Policy())
    kept = (site.folder / part).read_bytes()
    for other in PARTS:
        if other != part:
            (site.folder / other).unlink()
    with pytest.raises(ConfigError, match=part):
        Site.create(tmp_path / "s", name="north", policy=Policy())
    assert (site.folder / part).read_bytes() == kept


def test_a_ledger_emptied_by_a_failed_copy_is_not_a_fresh_budget(tmp_path):
    site = Site.create(tmp_path / "s", name="north", policy=Policy())
    site.ledger_path.write_bytes(b"")
    with pytest.raises(LedgerError, match="holds no ledger"):
        site.ledger.verify()


def test_two_sites_never_share_a_key(tmp_path):
    keys = {Site.create(tmp_path / n, name=n, policy=Policy()).key for n in "abc"}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("name", ["", "Saint Mary", "a/b", "..", "-a", "a" * 64, "a\n", "é"])
def test_a_name_that_is_not_public_text_is_refused(tmp_path, name):
    with pytest.raises(ConfigError):
        Site.create(tmp_path / "s", name=name, policy=Policy())


def test_a_site_is_never_made_over_another(tmp_path):
    key = Site.create(tmp_path, name="north", policy=Policy()).key
    with pytest.raises(ConfigError, match=r"already holds site\.toml"):
        Site.create(tmp_path, name="south", policy=Policy())
    assert Site.open(tmp_path).key == key


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"name = 3 4",
        b'other = "x"',
        b'name = "Mustermann Erika"',
        b"name = [1]",
        b"\xff",
    ],
    ids=["absent", "empty", "not TOML", "no name", "not a public name", "a list", "not UTF-8"],
)
def test_a_site_without_a_usable_name_cannot_be_opened(tmp_path, content):
    if content is not None:
        (tmp_path / "site.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Site.open(tmp_path)


def test_only_an_approved_study_is_known(tmp_path, tiny):
    site = Site.create(tmp_path, name="north", policy=Policy())
    study, other = tiny.study(), tiny.study(rounds=99)
    assert site.approve(study) == study.digest
    assert site.approved(study.digest) == study
    for digest in (other.digest, "../policy", "", study.digest.upper()):
        with pytest.raises(Refusal) as refused:
            site.approved(digest)
        assert refused.value.code is Code.UNKNOWN_STUDY


def test_an_approved_study_that_was_altered_on_disk_is_not_approved(tmp_path, tiny):
    site = Site.create(tmp_path, name="north", policy=Policy())
    study = tiny.study()
    site.approve(study)
    path = site.folder / "approved" / f"{study.digest}.toml"
    path.write_text(tiny.study(privacy={"noise_multiplier": 0.1}).to_toml())
    with pytest.raises(Refusal) as refused:
        site.approved(study.digest)
    assert refused.value.code is Code.UNKNOWN_STUDY


def test_the_policy_is_read_anew_each_time(tmp_path):
    site = Site.create(tmp_path, name="north", policy=Policy(epsilon_total=3.0))
    (tmp_path / "policy.toml").write_text(Policy(epsilon_total=1.0).to_toml())
    assert site.policy.epsilon_total == 1.0


def test_the_private_log_has_the_whole_reason_and_is_private(tmp_path):
    site = Site.create(tmp_path, name="north", policy=Policy())
    for text in ("Erika", "Max\ud800"):
        try:
            raise ValueError(text)
        except ValueError as error:
            site.log(Code.INTERNAL, error)
    lines = [json.loads(line) for line in (tmp_path / "private.log").read_text().splitlines()]
    assert [line["code"] for line in lines] == ["SITE_200", "SITE_200"]
    assert "ValueError: Erika" in lines[0]["error"]
    assert modes(tmp_path)["private.log"] == 0o600


def test_a_full_disk_leaves_no_half_written_file_and_says_so(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_durably(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_durably(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
