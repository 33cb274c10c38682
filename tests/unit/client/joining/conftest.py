"""A hospital that was invited, and whatever a coordinator and a stranger can send it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from septum.joining import make_invitation
from septum.signed_study import sign
from septum.signing import fingerprint
from septum_client.card import read_keys, write_card
from septum_client.site import Site
from septum_server.certs import make_ca

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def ca():
    """Return a coordinator's CA."""
    return make_ca("tests", now=NOW)


@pytest.fixture
def invited(tiny, tmp_path, ca):
    """Return a site with a cohort that joined nobody, and what makes its invitations."""
    site = Site.create(
        tmp_path / "north", name="north", policy=tiny.policy(), signing=tiny.key("north")
    )
    tiny_key = tiny.key("coordinator")

    def study(**parts):
        plain = tiny.study(**parts)
        node = read_keys(site.folder).node_public
        sites = tuple(
            one.model_copy(
                update={
                    "key": tiny.key(one.name).public,
                    "node_key": node if one.name == "north" else "",
                }
            )
            for one in plain.sites
        )
        return plain.model_copy(update={"sites": sites})

    def invitation(signed=None, *, key=tiny_key, name="north", address="127.0.0.1:1"):
        return make_invitation(
            key,
            site=name,
            address=address,
            ca=ca.certificate.decode(),
            study=(signed or sign(study(), key)).to_toml(),
        )

    return SimpleNamespace(
        site=site,
        key=tiny_key,
        spoken=fingerprint(tiny_key.public),
        study=study,
        signed=lambda **parts: sign(study(**parts), tiny_key),
        invitation=invitation,
        card=lambda: write_card(site.folder, name="north"),
        now=NOW,
    )
