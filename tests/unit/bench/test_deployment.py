import pytest

from septum.errors import ConfigError, DataError, EngineError
from septum_bench import deployment as deploy
from septum_bench.demo import DemoPlan, demonstrate
from septum_client.card import read_keys
from septum_client.coordinator import joined
from septum_client.site import Site

KEY = b"k" * 32


@pytest.fixture
def made(tmp_path, tiny):
    study = tiny.study()
    coordinator = deploy.make_coordinator(tmp_path / "coordinator")
    sites = {}
    for name in ("north", "south"):
        site = Site.create(tmp_path / name, name=name, policy=tiny.policy(), key=KEY)
        tiny.cohort(site.cohort_path, study)
        sites[name] = site
    lines = []
    for name, site in sites.items():
        card = deploy.card_of(site, patients=10)
        lines.append(
            {"name": name, "patients": card.patients, "key": card.key, "node_key": card.node_key}
        )
    fields = study.model_dump(mode="json") | {"sites": lines}
    return deploy.agree(coordinator, sites, fields, folder=tmp_path)


def test_every_hospital_joined_by_the_fingerprint_and_signed_its_own_approval(made):
    for name, site in made.sites.items():
        assert site.approved(made.digest) == made.signed.study
        assert joined(site.folder).address == made.coordinator.settings.address
        named = made.signed.study.participant(name)
        assert named.key == site.signing.public
        assert named.node_key == read_keys(site.folder).node_public


def test_what_is_handed_over_holds_no_secret_of_either_side(made, tmp_path):
    handed = "".join(path.read_text() for path in tmp_path.glob("*.toml"))
    assert made.coordinator.settings.address in handed
    assert "PRIVATE" not in handed
    homes = [made.coordinator.folder, *(site.folder for site in made.sites.values())]
    secrets = [home / name for home in homes for name in ("signing.key", "node.key", "secret")]
    held = [path.read_text().splitlines() for path in secrets if path.exists()]
    assert len(held) == 6
    # A key's first line is its kind; a secret has one line.
    assert not [lines for lines in held if lines[min(1, len(lines) - 1)] in handed]


def test_no_side_is_told_a_secret_in_its_arguments(made):
    told = " ".join(word for service in deploy.services(made) for word in service.argv)
    assert str(made.coordinator.folder) in told
    assert (made.coordinator.folder / "operator.token").read_text() not in told


def test_a_server_that_is_not_up_has_nobody_connected_and_no_end(made):
    assert deploy.connected(made) == []
    assert deploy.ended(made) == ""
    assert made.rounds() == []


def test_before_the_first_round_nobody_was_charged(made):
    assert deploy.audited(made) == {"north": 0, "south": 0}


def test_what_does_not_happen_is_named_when_the_time_is_over():
    with pytest.raises(EngineError, match="the moon's fall did not happen within 0 s"):
        deploy.until(lambda: False, seconds=0, what="the moon's fall")


@pytest.mark.parametrize(("sites", "patients"), [(3, 89), (0, 100), (17, 1000)])
def test_a_demonstration_has_hospitals_and_enough_patients(sites, patients):
    with pytest.raises(ConfigError, match="hospitals were asked for"):
        DemoPlan(sites=sites, patients=patients)


def test_a_demonstration_overwrites_nothing(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DataError, match="not an empty folder"):
        demonstrate(DemoPlan(), tmp_path, reporter=None)
