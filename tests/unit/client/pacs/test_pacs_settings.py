"""pacs.toml: what is absent is shut, and what is wrong is named."""

import pytest

from septum.errors import ConfigError
from septum_client.pacs import settings


def load(tmp_path, text):
    (tmp_path / "pacs.toml").write_text(text)
    return settings.load(tmp_path / "pacs.toml")


def test_an_empty_file_opens_no_door(tmp_path):
    found = load(tmp_path, "")
    assert found.receive is None
    assert found.pull is None


def test_a_receiver_listens_to_this_machine_alone_unless_told_otherwise(tmp_path):
    found = load(tmp_path, '[receive]\npeers = ["PACS"]').receive
    assert found.address == "127.0.0.1"
    assert found.networks == ("127.0.0.1", "::1")
    assert found.ae_title == "SEPTUM"


def test_relative_files_lie_beside_the_settings(tmp_path):
    found = load(
        tmp_path,
        '[pull]\nurl = "https://pacs.example/dicom-web"\nauthorization = "bearer"\n'
        'secret = "token"\nauthorities = "/etc/ca.pem"\n'
        '[receive]\npeers = ["A"]\n[receive.tls]\ncertificate="c"\nkey="k"\npeers="p"',
    )
    assert found.pull.secret == tmp_path / "token"
    assert str(found.pull.authorities) == "/etc/ca.pem"
    assert found.receive.tls.peers == tmp_path / "p"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[receive]", "receive.peers is missing"),
        ("[receive]\npeers = []", "receive.peers"),
        ('[receive]\npeers = ["A TITLE THAT IS LONG"]', "receive.peers.0"),
        ('[receive]\npeers = [" A"]', "receive.peers.0"),
        ('[receive]\npeers = ["A\\\\B"]', "receive.peers.0"),
        ('[receive]\npeers = ["A"]\nport = 70000', "receive.port"),
        ('[receive]\npeers = ["A"]\nprot = 1', "unknown key 'receive.prot'"),
        ('[receive]\npeers = ["A"]\nnetworks = ["10.0.0.1/8"]', "networks are IP addresses"),
        ('[receive]\npeers = ["A"]\naddress = "0.0.0.256"', "networks are IP addresses"),
        ('[pull]\nurl = "http://pacs.example"', "https"),
        ('[pull]\nurl = "http://127.0.0.1.evil.example"', "https"),
        ('[pull]\nurl = "ftp://pacs.example"', "pull.url"),
        ('[pull]\nurl = "https://pacs.example"\nauthorization = "bearer"', "together"),
        ('[pull]\nurl = "https://pacs.example"\nkey = "k"', "together"),
        ("[pull", "pacs.toml"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, named):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert named in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8042", "[::1]:8042"])
def test_plain_http_goes_to_this_machine_only(tmp_path, host):
    assert load(tmp_path, f'[pull]\nurl = "http://{host}/dicom-web"').pull is not None


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[pull]\nurl = "https://user:hunter2@pacs.example"')
    assert "hunter2" not in str(caught.value)
    assert "no user, password" in str(caught.value)


def test_an_absent_file_is_an_absent_permission(tmp_path):
    with pytest.raises(ConfigError, match=r"pacs\.toml cannot be read"):
        settings.load(tmp_path / "pacs.toml")
