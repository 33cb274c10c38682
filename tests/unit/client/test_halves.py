"""A site that was split: each half has its own files, and starts with no others."""

import os
import stat
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from septum.cli import build_app
from septum.errors import ConfigError
from septum.joining import read_card
from septum_client import card, coordinator, halves, up
from septum_client.card import make_keys, read_keys, write_card
from septum_client.coordinator import Coordinator
from septum_client.halves import Half, become, check_half, split
from septum_client.node import LINK, SITE, client_services, node_services
from septum_client.policy import Policy
from septum_client.site import Site

ADDRESS = "fl.example.org:8443"


@pytest.fixture
def folder(tmp_path):
    site = Site.create(tmp_path / "site", name="north", policy=Policy())
    coordinator.keep(
        site.folder,
        Coordinator(
            address=ADDRESS, ca="-----BEGIN CERTIFICATE-----", key="0" * 64, septum="0.1.0",
            bundle="0" * 64, accepted="2026-06-01", revoked=("1" * 64,),
        ),
    )  # fmt: skip
    return site.folder


@pytest.fixture
def node(tmp_path):
    return tmp_path / "node"


def test_the_node_key_moves_and_nothing_else_of_the_site_does(folder, node):
    before = {path.name for path in folder.iterdir()}
    key = (folder / "node.key").read_bytes()
    split(folder, node)
    assert {path.name for path in folder.iterdir()} == before - {"node.key"} | {"link.secret"}
    assert {path.name for path in node.iterdir()} == {
        "node.key", "link.secret", "coordinator.toml", "revoked.txt",
    }  # fmt: skip
    assert (node / "node.key").read_bytes() == key
    assert (node / "link.secret").read_bytes() == (folder / "link.secret").read_bytes()
    for path in (*node.iterdir(), folder / "link.secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert coordinator.joined(node) == coordinator.joined(folder)


def test_splitting_again_takes_a_new_address_over_and_loses_no_key(folder, node):
    split(folder, node)
    key = (node / "node.key").read_bytes()
    moved = coordinator.joined(folder).model_copy(update={"address": "fl.example.org:443"})
    coordinator.keep(folder, moved)
    split(folder, node)
    assert coordinator.joined(node).address == "fl.example.org:443"
    assert (node / "node.key").read_bytes() == key


def test_a_split_that_stopped_half_way_is_finished_by_the_next(folder, node, monkeypatch):
    monkeypatch.setattr(coordinator, "keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split(folder, node)
    monkeypatch.undo()
    assert (node / "node.key").exists()
    split(folder, node)
    check_half(Half.NODE, node)
    check_half(Half.CLIENT, folder)


def ssh_key(curve):
    key = ec.generate_private_key(curve)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def test_nobody_elses_key_is_copied_through_a_link_or_for_being_a_key(folder, node, tmp_path):
    there, foreign = folder / "node.key", tmp_path / "ssh_host_ecdsa_key"
    # As good as the site's own: nothing but the link can be what is refused.
    foreign.write_bytes(ssh_key(ec.SECP384R1()))
    for left in (there.symlink_to, there.hardlink_to, lambda _: os.mkfifo(there)):
        there.unlink()
        left(foreign)
        with pytest.raises(ConfigError, match=r"node\.key is a link, or no file"):
            split(folder, node)
    there.unlink()
    there.write_bytes(ssh_key(ec.SECP256R1()))
    with pytest.raises(ConfigError, match=r"node\.key is of another kind"):
        split(folder, node)
    assert not (node / "node.key").exists()


def test_what_was_checked_is_what_is_copied_whatever_takes_its_place_meanwhile(
    folder, node, monkeypatch
):
    key, checked = (folder / "node.key").read_bytes(), card.parse_node_key

    def swapped(content):
        (folder / "node.key").write_text("root's own")
        return checked(content)

    monkeypatch.setattr(card, "parse_node_key", swapped)
    split(folder, node)
    assert (node / "node.key").read_bytes() == key


def test_a_site_of_an_older_format_is_not_split_before_it_has_a_record_of_revoked_keys(
    folder, node
):
    path = folder / "coordinator.toml"
    path.write_text(path.read_text().replace("format = 2", f'format = 1\nrevoked = ["{"2" * 64}"]'))
    (folder / "revoked.txt").unlink()
    with pytest.raises(ConfigError, match="record of revoked keys, is gone"):
        split(folder, node)
    assert (folder / "node.key").exists()
    (folder / "revoked.txt").write_text("end\n")
    split(folder, node)
    for half in (folder, node):
        assert "2" * 64 in coordinator.joined(half).revoked
        assert (half / "revoked.txt").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda folder, node: (folder / "site.toml").unlink(), "holds no site"),
        (lambda folder, node: (folder / "coordinator.toml").unlink(), "joined no coordinator"),
        (lambda folder, node: (folder / "node.key").unlink(), "neither"),
        (lambda folder, node: (folder / "node.key").write_text("x"), r"node\.key cannot be read"),
        (lambda folder, node: Site.create(node, name="x", policy=Policy()), "a site's own"),
        (lambda folder, node: (node.mkdir(), (node / "node.key").touch()), "another"),
    ],
)
def test_what_cannot_be_split_is_one_sentence_and_keeps_its_key(folder, node, wrong, said):
    wrong(folder, node)
    there = (folder / "node.key").exists()
    with pytest.raises(ConfigError, match=said):
        split(folder, node)
    assert (folder / "node.key").exists() == there


def test_each_half_refuses_to_start_where_the_other_ones_files_are(folder, node):
    with pytest.raises(ConfigError, match=r"holds node\.key"):
        check_half(Half.CLIENT, folder)
    with pytest.raises(ConfigError, match=r"holds site\.toml"):
        check_half(Half.NODE, folder)
    split(folder, node)
    check_half(Half.CLIENT, folder)
    check_half(Half.NODE, node)
    (node / "link.secret").unlink()
    with pytest.raises(ConfigError, match=r"no link\.secret"):
        check_half(Half.NODE, node)
    with pytest.raises(ConfigError, match="holds no site"):
        check_half(Half.CLIENT, node)


def test_a_site_that_was_split_says_so_when_both_halves_are_started_at_once(folder, node):
    split(folder, node)
    with pytest.raises(ConfigError, match=r"no node\.key") as refused:
        up.serve(folder, notice=pytest.fail, wait=lambda _: True)
    assert "--only" in refused.value.remedy


def test_the_half_that_trains_is_not_told_where_the_coordinator_or_its_key_is(folder, node):
    split(folder, node)
    link = node.parent / "link"
    told = node_services(node, address=ADDRESS, ca="CERTIFICATE", link=link)
    assert not [service for service in told if SITE in service.env]
    assert not [word for service in told for word in service.argv if str(folder) in word]
    for service in client_services(folder, link=link):
        said = " ".join((*service.argv, *service.env.values()))
        assert ADDRESS not in said
        assert str(node) not in said


def test_what_listens_is_the_loopback_interface_and_one_socket(folder, node):
    split(folder, node)
    link = node.parent / "link"
    supernode, outer = node_services(node, address=ADDRESS, ca="CERTIFICATE", link=link)
    inner, superexec = client_services(folder, link=link)
    assert (outer.name, inner.name) == (LINK, LINK)
    port = supernode.argv[supernode.argv.index("--port") + 1]
    assert outer.argv[-2:] == (str(link), f"127.0.0.1:{port}")
    assert inner.argv[-1] == str(link)
    assert inner.argv[-2].startswith("127.0.0.1:")
    assert superexec.argv[superexec.argv.index("--runtime-api-address") + 1] == inner.argv[-2]


def test_a_link_that_no_socket_can_have_is_said_before_anything_starts(folder, node):
    split(folder, node)
    with pytest.raises(ConfigError, match="the limit for a socket is 107"):
        client_services(folder, link=node / ("x" * 108))
    with pytest.raises(ConfigError, match="needs --link"):
        up.serve_half(Half.CLIENT, folder, link=None, notice=pytest.fail, wait=lambda _: True)


@pytest.mark.parametrize("mode", [0o711, 0o755, 0o1777])
def test_the_half_that_connects_makes_no_socket_where_any_user_could_take_its_places(
    folder, node, tmp_path, mode
):
    split(folder, node)
    between = tmp_path / "between"
    told = partial(node_services, node, address=ADDRESS, ca="", link=between / "socket")
    with pytest.raises(ConfigError, match=r"the link cannot be used \(No such file"):
        told()
    between.mkdir()
    between.chmod(mode)
    with pytest.raises(ConfigError, match="open to every user") as refused:
        told()
    assert "0710" in refused.value.remedy
    between.chmod(0o710)
    assert told()


def test_the_card_is_written_again_where_the_node_key_is_elsewhere(folder, node):
    before = read_keys(folder).node_public
    split(folder, node)
    assert make_keys(folder).node_public == before
    assert not (folder / "node.key").exists()
    write_card(folder, name="north", patients=90)
    card = read_card(folder / "site-card.toml")
    assert (card.patients, card.node_key) == (90, before)
    (folder / "site-card.toml").unlink()
    with pytest.raises(ConfigError, match="needs is elsewhere"):
        write_card(folder, name="north")


@pytest.mark.parametrize("name", ["root", "nobody-of-that-name"])
def test_nobody_becomes_root_or_a_user_that_is_not_there(name):
    with pytest.raises(ConfigError):
        become(name)
    assert os.geteuid() == os.getuid()


def test_only_root_can_become_another_user(monkeypatch):
    def refused(_):
        raise PermissionError

    monkeypatch.setattr(halves.os, "geteuid", lambda: 4242)
    monkeypatch.setattr(halves.os, "setgroups", refused)
    with pytest.raises(ConfigError, match="only root can become nobody"):
        become("nobody")


def test_a_process_becomes_a_user_with_no_group_but_its_own_and_cannot_go_back(monkeypatch):
    done = []
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(halves.os, name, lambda value, name=name: done.append((name, value)))
    monkeypatch.setattr(halves.os, "geteuid", lambda: 0)
    monkeypatch.setenv("HOME", "/root")
    become("nobody")
    user = halves.pwd.getpwnam("nobody")
    assert done == [("setgroups", []), ("setgid", user.pw_gid), ("setuid", user.pw_uid)]
    assert os.environ["HOME"] == user.pw_dir


def test_the_verb_says_how_to_start_each_half(folder, node):
    said = CliRunner().invoke(build_app(), ["site", "split", str(node), "--site", str(folder)])
    assert said.exit_code == 0, said.output
    assert "--only node" in said.output
    assert "--only client" in said.output
