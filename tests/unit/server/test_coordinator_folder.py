import asyncio
import contextlib
import io
import json
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from rich.console import Console

from septum.accounting import epsilon
from septum.errors import ConfigError, EngineError, Refusal
from septum.fab import STUDY_KEY, fab, fab_digest
from septum.joining import make_card, read_invitation
from septum.signing import SigningKey
from septum.study import parse
from septum_server import checkpoint, launch
from septum_server.control import Node, Run, look_into
from septum_server.coordinator import VARIABLE, Coordinator, Settings, settings_of
from septum_server.deployed import deployed
from septum_server.draft import Wishes, commented, declared, fields_of
from septum_server.relay import GATE
from septum_server.rounds import RoundRecord
from septum_server.status import standing
from septum_server.status_view import shown
from septum_server.studies import begin, invitation_of, only_study, sign_study
from septum_server.superlink import Gate

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()
WISHES = Wishes(
    name="tiny",
    purpose="A test.",
    task="multilabel",
    labels=("sick",),
    image_size=16,
    epsilon=5.0,
    rounds=2,
    delta=1e-4,
    model="small_cnn",
)


def node_key():
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def cards(*names, patients=10):
    return [
        make_card(
            SigningKey.create(), name=name, node_key=node_key(), proof="00" * 96, patients=patients
        )
        for name in names
    ]


def a_study(**changes):
    return parse(commented(fields_of(WISHES, cards("north", "south")) | changes))


@pytest.fixture
def made(tmp_path):
    settings = Settings(address="fl.example.org:8443")
    return Coordinator.create(tmp_path / "coordinator", settings, now=NOW)


@pytest.fixture
def signed(made):
    return sign_study(made, a_study(), weights=None, today=TODAY)


class Controlled:
    """Answers as the operators' port would."""

    def __init__(self, *runs):
        self.all = list(runs)
        self.started = []

    def runs(self, study=None):
        return [run for run in self.all if study in {None, run.study}]

    def start(self, study):
        self.started.append(study)
        return 7


def test_everything_in_the_folder_is_its_owners_alone(made):
    for path in [made.folder, *made.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_second_coordinator_in_the_folder_is_refused_and_changes_nothing(made):
    before = made.public
    with pytest.raises(ConfigError, match="already holds"):
        Coordinator.create(made.folder, made.settings, now=NOW)
    assert Coordinator.open(made.folder).public == before


def test_a_folder_that_holds_none_or_a_damaged_one_is_named(made, tmp_path):
    with pytest.raises(ConfigError, match="holds no coordinator"):
        Coordinator.open(tmp_path)
    path = made.folder / "server.toml"
    for text, word in (("port = 0\n", "address is missing|port"), ("x = [", "not valid TOML")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=word):
            Coordinator.open(made.folder)


def test_ports_must_differ_and_an_address_names_one():
    with pytest.raises(ConfigError, match="must differ"):
        settings_of(address="h.org:8443", control_port=8443)
    with pytest.raises(ConfigError, match="address"):
        settings_of(address="h.org")
    assert settings_of(address="h.org:8443", port=None).port == 8443


def test_a_certificate_is_renewed_when_due_and_not_before(made):
    before = made.certificate_path.read_bytes()
    assert launch.fit(made, now=NOW) == ""
    assert made.certificate_path.read_bytes() == before
    assert "renewed" in launch.fit(made, now=NOW + timedelta(days=61))
    assert made.days_left(now=NOW + timedelta(days=61)) >= 89


def test_an_interrupted_renewal_is_repaired(made):
    old = made.certificate_path.read_bytes()
    made.renew(now=NOW)
    made.certificate_path.write_bytes(old)
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            made.certificate_path, made.certificate_key_path
        )
    assert "renewed" in launch.fit(made, now=NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        made.certificate_path, made.certificate_key_path
    )


def test_no_secret_is_an_argument_of_a_process(made):
    services = launch.services(made)
    secrets = [(made.folder / name).read_text() for name in ("secret", "gate", "operator.token")]
    for service in services:
        said = " ".join(service.argv) + repr(service)
        assert not any(secret in said for secret in secrets)
        assert not set(secrets) & set(service.env.values())


def test_only_the_edge_listens_to_other_machines(made):
    superlink = launch.services(made)[0].argv
    assert superlink[superlink.index("--host") + 1] == "127.0.0.1"
    assert superlink[superlink.index("--isolation") + 1] == "process"
    assert "--enable-supernode-auth" in superlink
    assert "--superexec-auth-secret-file" in superlink


def test_the_public_port_opens_once_the_desk_answers_and_the_hospitals_were_let_in(
    made, monkeypatch
):
    answers, tried = [False, True], []
    monkeypatch.setattr(launch, "listens", lambda *_, **__: answers.pop(0))
    started = launch.services(made, admit=lambda: not tried.append(len(answers)))
    names = [service.name for service in started]
    assert names.index(launch.DESK) < names.index(launch.EDGE)
    desk = started[names.index(launch.DESK)]
    assert not desk.ready()
    assert not tried
    assert desk.ready()
    assert tried == [0]


def test_who_serves_or_looks_at_a_study_does_not_wait_for_torch(made, signed):
    program = f"""
import sys
from pathlib import Path
from septum_server import launch, study_cli
from septum_server.coordinator import Coordinator
from septum_server.studies import look
made = Coordinator.open(Path({str(made.folder)!r}))
print(look(made, {signed.study.digest!r}, token="none").state, "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "not started False", done.stderr


def test_superexec_finds_our_own_program_alone(made):
    superexec = launch.services(made)[-1]
    first = superexec.env["PATH"].split(":")[0]
    assert [path.name for path in Path(first).iterdir()] == ["flwr-serverapp"]
    assert "/venv" not in superexec.env["PATH"].partition(":")[2]


def test_the_superlink_answers_the_gate_and_nobody_else():
    reached = []

    async def inner(scope, receive, send):
        reached.append(scope["path"])

    async def ask(path, *secrets):
        status = []

        async def send(message):
            status.append(message.get("status"))

        headers = [(GATE.encode(), secret) for secret in secrets]
        scope = {"type": "http", "path": path, "headers": headers}
        await Gate(inner, secret="s")(scope, None, send)
        return status[:1]

    for path in ("/v1/control/list-runs", "/v1/fleet/pull-messages", "/docs", "/v1/runtime"):
        assert asyncio.run(ask(path)) == [403]
        assert asyncio.run(ask(path, b"t")) == [403]
        assert asyncio.run(ask(path, b"s", b"s")) == [403]
    assert reached == []
    for path, secrets in (("/v1/control/list-runs", [b"s"]), ("/v1/runtime/acquire-task", [])):
        assert asyncio.run(ask(path, *secrets)) == []
    assert reached == ["/v1/control/list-runs", "/v1/runtime/acquire-task"]


def test_a_draft_is_a_study_with_a_word_on_its_keys():
    text = commented(fields_of(WISHES, cards("south", "north")))
    study = parse(text)
    assert [site.name for site in study.sites] == ["north", "south"]
    assert study.strategy.minimum_sites == 2
    assert "rounds = 2 # each costs every patient privacy" in text
    assert text.startswith("# A study: data, never code.")


def test_a_draft_keeps_to_the_epsilon_that_was_asked_for():
    study = a_study()
    charge = study.mechanism("north").charge()
    cost = epsilon([charge] * study.rounds, delta=study.privacy.delta)
    assert 4.5 < cost <= 5.0


def test_a_draft_asks_for_hospitals_and_their_patients():
    with pytest.raises(ConfigError, match="0 site cards"):
        fields_of(WISHES, [])
    silent = cards("north", patients=0)
    with pytest.raises(ConfigError, match="north declares no patients"):
        fields_of(WISHES, silent)
    assert declared(silent, {"north": "12"})[0].patients == 12
    for said in ({"north": "many"}, {"north": "0"}, {"west": "3"}):
        with pytest.raises(ConfigError, match="cannot be used"):
            declared(silent, said)


def test_a_signed_study_names_its_coordinator_and_its_first_model(made, signed):
    assert signed.study.coordinator == made.public
    assert len(signed.study.model.initial) == 64
    assert made.digests() == [signed.study.digest] == [only_study(made)]
    assert made.study(signed.study.digest) == signed
    assert made.digest(signed.study.digest[:8]) == signed.study.digest
    for prefix in (signed.study.digest[:7], "0" * 8):
        with pytest.raises(ConfigError, match="signed studies begin with"):
            made.digest(prefix)


def test_a_study_that_no_site_could_connect_for_or_that_has_ended_is_not_signed(made):
    fields = fields_of(WISHES, cards("north", "south"))
    fields["sites"][0]["node_key"] = ""
    with pytest.raises(ConfigError, match=r"node_key is missing for north"):
        sign_study(made, parse(commented(fields)), weights=None, today=TODAY)
    with pytest.raises(Refusal, match="ended on 2026-11-20"):
        sign_study(made, a_study(expires="2026-11-20"), weights=None, today=TODAY)
    assert made.digests() == []


def test_an_invitation_holds_what_a_hospital_needs_and_no_secret(made, signed, tmp_path):
    path = tmp_path / "invite.toml"
    path.write_text(invitation_of(made, signed.study.digest, "north").to_toml())
    read = read_invitation(path)
    assert (read.site, read.address) == ("north", "fl.example.org:8443")
    assert read.study == signed.to_toml()
    assert "PRIVATE" not in path.read_text()
    with pytest.raises(ConfigError, match="does not name 'west'"):
        invitation_of(made, signed.study.digest, "west")


def test_a_study_begins_once_and_resumes_what_began(made, signed):
    digest = signed.study.digest
    control = Controlled()
    with pytest.raises(EngineError, match="has not begun"):
        begin(made, control, digest, resume=True, today=TODAY)
    assert begin(made, control, digest, resume=False, today=TODAY) == 7
    going = Controlled(Run(number=7, study=digest, status="running", details=""))
    with pytest.raises(EngineError, match="runs already, as run 7") as refused:
        begin(made, going, digest, resume=False, today=TODAY)
    assert "killed" not in refused.value.remedy
    begun = checkpoint.Checkpoint(digest=digest, round=0, model=np.zeros(3, dtype=np.float32))
    checkpoint.save(made.run_folder(digest), begun)
    with pytest.raises(EngineError, match="runs already, as run 7") as refused:
        begin(made, going, digest, resume=True, today=TODAY)
    assert "If its process was killed, Flower notices within a minute" in refused.value.remedy
    for done, resume, word in ((1, False, "1 finished rounds"), (2, True, "finished all")):
        done_so_far = checkpoint.Checkpoint(
            digest=digest, round=done, model=np.zeros(3, dtype=np.float32)
        )
        checkpoint.save(made.run_folder(digest), done_so_far)
        with pytest.raises(EngineError, match=word):
            begin(made, control, digest, resume=resume, today=TODAY)
    assert control.started == [digest]


def test_an_ended_study_and_one_of_another_coordinator_do_not_begin(made, tmp_path):
    ended = sign_study(made, a_study(expires="2026-11-22"), weights=None, today=TODAY)
    with pytest.raises(Refusal, match="ended on"):
        begin(made, Controlled(), ended.study.digest, resume=False, today=TODAY + timedelta(days=2))
    other = Coordinator.create(tmp_path / "other", Settings(address="h.org:1"), now=NOW)
    other.keep(ended)
    with pytest.raises(Refusal, match="names the coordinator"):
        begin(other, Controlled(), ended.study.digest, resume=False, today=TODAY)


def test_the_server_app_believes_nothing_of_a_run_config_but_a_digest(made, signed, monkeypatch):
    with pytest.raises(EngineError, match="names no coordinator"):
        deployed({STUDY_KEY: signed.study.digest}, today=TODAY)
    monkeypatch.setenv(VARIABLE, str(made.folder))
    found = deployed({STUDY_KEY: signed.study.digest, "folder": "/"}, today=TODAY)
    assert found.study == signed.study
    assert found.folder == made.run_folder(signed.study.digest)
    assert "PRIVATE" not in repr(found)
    for config in ({}, {STUDY_KEY: "../../x"}, {STUDY_KEY: "0" * 64}):
        with pytest.raises(ConfigError, match="no signed study"):
            deployed(config, today=TODAY)


def test_a_study_altered_on_the_servers_disk_does_not_run(made, signed, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(made.folder))
    path = made.folder / "studies" / f"{signed.study.digest}.toml"
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 3"))
    with pytest.raises((ConfigError, Refusal)):
        deployed({STUDY_KEY: signed.study.digest}, today=TODAY)


class Registry:
    """Nodes, as the operators' port would keep them."""

    def __init__(self):
        self.known = {}

    def __call__(self, coordinator):
        return contextlib.nullcontext(self)

    def nodes(self):
        return [
            Node(number=number, name=name, key=key, online=False)
            for number, (key, name) in enumerate(self.known.items())
        ]

    def register(self, *, name, key):
        self.known[key] = name

    def unregister(self, number):
        del self.known[list(self.known)[number]]


def test_the_sites_of_studies_in_force_may_connect_and_no_others(made, monkeypatch):
    registry = Registry()
    monkeypatch.setattr(launch, "desk", registry)
    said = []

    def admit(day):
        launch.admit_sites(made, notice=said.append, today=day)
        known = json.loads((made.folder / "nodes.json").read_text())
        assert known.items() <= registry.known.items()
        return sorted(known.values())

    assert admit(TODAY) == []
    sign_study(made, a_study(expires="2026-11-22"), weights=None, today=TODAY)
    west = parse(commented(fields_of(WISHES, cards("west"))))
    sign_study(made, west, weights=None, today=TODAY)
    (made.folder / "studies" / f"{'0' * 64}.toml").write_text("damaged")
    assert admit(TODAY) == ["north", "south", "west"]
    (made.folder / "studies" / f"{'0' * 64}.toml").unlink()
    assert len(made.revoke("south")) == 1
    assert made.revoke("south") == []
    assert admit(TODAY) == ["north", "west"]
    assert admit(TODAY + timedelta(days=2)) == ["west"]
    assert "south may no longer connect" in said
    # Flower never takes a key again that was unregistered, and north may join another study.
    assert sorted(registry.known.values()) == ["north", "west"]
    with pytest.raises(ConfigError, match="no signed study names 'east'"):
        made.revoke("east")


def a_start(**changes):
    fields = {
        "fab": Fab(hash_str=fab_digest(), content=fab()),
        "override_config": {STUDY_KEY: Scalar(string="d" * 64)},
    }
    return StartRunRequest(**fields | changes).SerializeToString()


def test_a_run_of_our_bundle_on_one_study_may_start_and_no_other():
    assert look_into("start-run", a_start()) == "d" * 64
    assert look_into("list-runs", b"\xff") == ""
    for body in (
        a_start(fab=Fab(hash_str=fab_digest(), content=fab() + b"\0")),
        a_start(fab=Fab(hash_str=fab_digest())),
        a_start(app_spec="@other/app"),
        a_start(federation="@none/other"),
        a_start(override_config={"other": Scalar(string="x")}),
        a_start(override_config={STUDY_KEY: Scalar(string="d"), "x": Scalar(double=1.0)}),
        b"\xff\xff",
    ):
        with pytest.raises(ConfigError):
            look_into("start-run", body)


def a_record(number, **refused):
    asked = ("north", "south")
    return RoundRecord(
        round=number,
        asked=asked,
        answered=tuple(site for site in asked if site not in refused),
        refused=refused,
        seconds=1.0,
        at="2026-11-21T12:00:00+00:00",
    )


def test_a_standing_names_each_site_that_did_not_contribute():
    found = standing(
        a_study(), [a_record(1), a_record(2, south="SITE_210")],
        done=1, run="running", online={"north": True},
    )  # fmt: skip
    assert found.sites == {"north": "online", "south": "not registered"}
    assert [row.missing for row in found.table] == [(), (("south", "SITE_210"),)]
    assert [row.counted for row in found.table] == [True, False]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown(found))
    text = console.export_text()
    assert "south SITE_210" in text
    assert "BELOW THE QUORUM" in text


@pytest.mark.parametrize(
    ("done", "run", "state", "remedy"),
    [
        (None, None, "not started", "start"),
        (0, "running", "running", ""),
        (1, None, "interrupted", "resume"),
        (1, "finished:failed", "not running: the last run failed", "resume"),
        (1, "finished:completed", "ended before the last round", "resume"),
        (2, "finished:completed", "complete", ""),
    ],
)
def test_only_a_study_with_all_its_rounds_is_called_complete(done, run, state, remedy):
    found = standing(a_study(), [], done=done, run=run, online=None)
    assert state in found.state
    assert remedy in found.remedy
    assert bool(found.remedy) == bool(remedy)
    assert found.ended == (run != "running")


def test_revoking_a_card_that_copied_anothers_node_key_spares_its_owner(made, monkeypatch):
    registry = Registry()
    monkeypatch.setattr(launch, "desk", registry)
    north, south = cards("north", "south")
    copied = make_card(
        SigningKey.create(), name="evil", node_key=north.node_key, proof=north.proof, patients=10
    )
    for group in ((north, south), (copied, *cards("west"))):
        sign_study(
            made, parse(commented(fields_of(WISHES, list(group)))), weights=None, today=TODAY
        )
    launch.admit_sites(made, notice=lambda _: None, today=TODAY)
    assert made.revoke("evil")
    launch.admit_sites(made, notice=lambda _: None, today=TODAY)
    assert north.node_key in registry.known
    assert json.loads((made.folder / "nodes.json").read_text())[north.node_key] == "north"


def test_a_ca_that_is_kept_elsewhere_stops_nobody_before_the_last_day(made):
    (made.folder / "tls" / "ca.key").unlink()
    last = made.days_left(now=NOW)
    assert launch.fit(made, now=NOW + timedelta(days=last)) == ""
    with pytest.raises(ConfigError, match="CA's key is not in tls"):
        launch.fit(made, now=NOW + timedelta(days=last + 2))
