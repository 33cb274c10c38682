import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from septum.errors import ConfigError
from septum_server.nodes import sites_by_key, sites_of


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP384R1()).public_key()


def ssh(key):
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def pem(key):
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_node_is_a_site_by_its_key_alone(tiny, key):
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    study = tiny.study(
        sites=[{"name": "a", "patients": 1, "node_key": ssh(key)}], strategy={"minimum_sites": 1}
    )
    nodes = [(7, pem(key)), (8, pem(other)), (9, b""), (10, b"-----BEGIN PUBLIC KEY-----\nx\n")]
    assert sites_of(nodes, sites_by_key(study)) == {7: "a"}


def test_a_study_without_node_keys_knows_no_node(tiny, key):
    assert sites_by_key(tiny.study()) == {}
    assert sites_of([(7, pem(key))], {}) == {}


def test_text_that_only_looks_like_a_node_key_is_named(tiny):
    broken = "ecdsa-sha2-nistp384 " + "A" * 120
    study = tiny.study(
        sites=[{"name": "a", "patients": 1, "node_key": broken}], strategy={"minimum_sites": 1}
    )
    with pytest.raises(ConfigError, match="node_key of a is not"):
        sites_by_key(study)
