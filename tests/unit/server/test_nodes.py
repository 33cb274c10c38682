import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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


def other_spare_bits(text):
    """Return the same key in other base64: its last letter holds bits that nothing reads."""
    kind, body = text.split()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    end = len(body.rstrip("="))
    spare = letters[letters.index(body[end - 1]) + 1]
    return f"{kind} {body[: end - 1]}{spare}{body[end:]}"


@pytest.mark.parametrize("form", ["garbage", "compressed", "other curve", "other base64"])
def test_a_node_key_that_is_not_one_in_its_only_form_makes_no_study(tiny, key, form):
    def compressed():
        point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        parts = [b"ecdsa-sha2-nistp384", b"nistp384", point]
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return "ecdsa-sha2-nistp384 " + base64.b64encode(blob).decode()

    made = {
        "garbage": lambda: "ecdsa-sha2-nistp384 " + "A" * 120,
        "compressed": compressed,
        "other curve": lambda: (
            "ecdsa-sha2-nistp384 "
            + ssh(ec.generate_private_key(ec.SECP256R1()).public_key()).split()[1]
        ),
        "other base64": lambda: other_spare_bits(ssh(key)),
    }[form]()
    site = {"name": "a", "patients": 1}
    alone = {"minimum_sites": 1}
    with pytest.raises(ValueError, match="node_key"):
        tiny.study(sites=[site | {"node_key": made}], strategy=alone)
    assert tiny.study(sites=[site | {"node_key": ssh(key)}], strategy=alone)
