"""What a hospital sends of itself: public halves of keys that stay."""

import stat
import subprocess

import pytest

from septum.errors import ConfigError, SignatureError
from septum.joining import make_card, make_invitation, read_card
from septum.node_key import prove
from septum.signing import SigningKey
from septum_client import cli
from septum_client.card import make_keys, read_keys, write_card
from septum_client.policy import Policy
from septum_client.site import Site

PRIVATE = ("key", "signing.key", "node.key")


@pytest.fixture
def site(tmp_path):
    return Site.create(tmp_path / "s", name="north", policy=Policy())


def test_the_card_says_the_public_keys_and_no_byte_of_a_private_one(site):
    text = (site.folder / "site-card.toml").read_text()
    card = read_card(site.folder / "site-card.toml")
    keys = read_keys(site.folder)
    assert (card.name, card.key, card.node_key) == (
        "north",
        keys.signing.public,
        keys.node_public,
    )
    for name in PRIVATE:
        content = (site.folder / name).read_bytes()
        assert content.hex() not in text
        body = b"".join(line for line in content.splitlines() if not line.startswith(b"-"))
        # OpenSSH keeps the public half in the private file too: the secret follows it.
        assert body[-64:].decode("latin-1") not in text


def test_private_keys_are_readable_by_their_owner_alone(site):
    for name in PRIVATE:
        assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600


def test_openssh_reads_the_node_key_as_its_public_half_says(site):
    try:
        done = subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", site.folder / "node.key"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert done.stdout.strip() == (site.folder / "node.pub").read_text().strip()


def test_keys_that_exist_are_kept_and_only_missing_ones_are_made(site):
    before = read_keys(site.folder)
    (site.folder / "node.key").unlink()
    after = make_keys(site.folder, signing=SigningKey.create())
    assert after.signing.public == before.signing.public
    assert after.node_public != before.node_public
    assert (site.folder / "node.pub").read_text() == f"{after.node_public}\n"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_or_missing_node_key_is_one_sentence(site, content):
    path = site.folder / "node.key"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.key"):
        write_card(site.folder, name="north")


def test_whatever_is_changed_on_a_card_on_the_way_is_found(site, tmp_path):
    text = write_card(site.folder, name="north", patients=800).to_toml()
    other = SigningKey.create().public
    path = tmp_path / "card.toml"
    key = read_card(site.folder / "site-card.toml").key
    for old, new in (("800", "900"), ("north", "south"), (key, other), ("nistp384 AAAA", "x")):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises((SignatureError, ConfigError)):
            read_card(path)


def test_a_card_with_another_hospitals_node_key_is_refused_whatever_proof_is_on_it(site, tmp_path):
    north = read_card(site.folder / "site-card.toml")
    evil = read_keys(Site.create(tmp_path / "e", name="evil", policy=Policy()).folder)
    own = prove(evil.node, site="evil", public=evil.signing.public)
    path = tmp_path / "card.toml"
    for name in ("evil", "north"):
        for proof in (north.proof, own, "30" * 100):
            copied = make_card(evil.signing, name=name, node_key=north.node_key, proof=proof)
            path.write_text(copied.to_toml())
            with pytest.raises(SignatureError, match=f"{name} does not hold the node key"):
                read_card(path)
    mine = make_card(evil.signing, name="evil", node_key=evil.node_public, proof=own)
    path.write_text(mine.to_toml())
    assert read_card(path) == mine


def test_a_card_of_an_older_septum_says_how_to_make_a_new_one(site, tmp_path):
    text = (site.folder / "site-card.toml").read_text().replace("format = 2", "format = 1")
    path = tmp_path / "card.toml"
    path.write_text("".join(x for x in text.splitlines(True) if not x.startswith("proof")))
    with pytest.raises(ConfigError, match="older Septum") as refused:
        read_card(path)
    assert "septum site card" in refused.value.remedy


def test_the_remedy_for_an_older_card_keeps_what_the_hospital_declared(site):
    path = site.folder / "site-card.toml"
    write_card(site.folder, name="north", patients=800)
    text = path.read_text().replace("format = 2", "format = 1")
    path.write_text("".join(x for x in text.splitlines(True) if not x.startswith("proof")))
    cli.card(site.folder, patients=None)
    assert read_card(path).patients == 800


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"name = 3", b"x" * (5 << 20)], ids=["empty", "not text", "no", "big"]
)
def test_what_is_no_card_is_one_sentence(tmp_path, content):
    path = tmp_path / "card.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"card\.toml"):
        read_card(path)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        read_card(tmp_path / "absent.toml")


def test_no_private_key_fits_into_an_invitation_or_a_card(site):
    keys = read_keys(site.folder)
    secret = (site.folder / "node.key").read_text()
    with pytest.raises(ConfigError, match="private key"):
        make_invitation(
            keys.signing, site="north", address="fl.example.org:443", ca=secret, study="x"
        )
    with pytest.raises(ConfigError, match="node_key"):
        make_card(keys.signing, name="north", node_key=secret, proof="00" * 96)


@pytest.mark.parametrize("address", ["fl.example.org", "https://fl:1", "fl:0", "fl:70000", ":1"])
def test_an_address_is_a_host_and_a_port(site, ca, address):
    with pytest.raises(ConfigError, match="address"):
        make_invitation(
            read_keys(site.folder).signing,
            site="north",
            address=address,
            ca=ca.certificate.decode(),
            study="x",
        )
