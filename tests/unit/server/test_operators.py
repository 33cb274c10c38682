import asyncio
import json
from datetime import UTC, datetime

import httpx
import pytest

from septum.errors import ConfigError
from septum_server.control_desk import Desk
from septum_server.operators import ROLES, Operators, load
from septum_server.relay import GATE

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Desked:
    """A desk before a tiny upstream, and what it let through."""

    def __init__(self, folder):
        self.operators = folder / "operators.toml"
        self.audited = folder / "audit.log"
        self.tokens = {}
        made = Operators()
        for role in ROLES:
            made, self.tokens[role] = made.add(role, role)
        made.save(self.operators)
        self.passed = []
        self.down = False

    async def inside(self, request):
        if self.down:
            raise httpx.ConnectError("down")
        self.passed.append((request.url.path, request.headers[GATE], await request.aread()))

        async def parts():
            yield b"done"

        return httpx.Response(200, content=parts())

    def ask(self, call, *, token="", body=b"", path=None, method="POST"):
        def check(name, content):
            if content == b"bad":
                raise ConfigError("not this run.")
            return f"about {name}"

        client = httpx.AsyncClient(
            transport=httpx.MockTransport(self.inside), base_url="https://127.0.0.1:1"
        )
        app = Desk(
            client,
            gate="gate",
            operators=self.operators,
            audited=self.audited,
            check=check,
            now=lambda: NOW,
        )
        scope = {
            "type": "http",
            "method": method,
            "raw_path": (path or f"/v1/control/{call}").encode(),
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())] if token else [],
        }
        status = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                status.append(message["status"])

        asyncio.run(app(scope, receive, send))
        return status[0]

    def audit(self):
        lines = self.audited.read_text().splitlines()
        return [tuple(json.loads(line)[k] for k in ("who", "call", "answer")) for line in lines]


@pytest.fixture
def desk(tmp_path):
    return Desked(tmp_path)


def test_without_a_known_token_nothing_is_passed_and_all_is_audited(desk):
    assert desk.ask("list-runs") == 401
    assert desk.ask("list-runs", token="guessed") == 401
    assert desk.passed == []
    assert desk.audit() == [("?", "list-runs", "refused 401")] * 2


@pytest.mark.parametrize("role", sorted(ROLES))
def test_each_role_may_make_its_own_calls_and_no_other(desk, role):
    for call in sorted(ROLES["admin"]):
        wanted = 200 if call in ROLES[role] else 403
        assert desk.ask(call, token=desk.tokens[role]) == wanted
    assert [path.rpartition("/")[2] for path, _, _ in desk.passed] == sorted(ROLES[role])


@pytest.mark.parametrize(
    "call", ["create-federation", "add-app", "start-automation", "pull-artifacts"]
)
def test_nobody_may_make_any_other_call(desk, call):
    assert desk.ask(call, token=desk.tokens["admin"]) == 403
    assert desk.passed == []


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/runtime/acquire-task", "/docs"])
def test_the_desk_serves_the_control_api_alone(desk, path):
    assert desk.ask("x", token=desk.tokens["admin"], path=path) == 403
    assert desk.ask("list-runs", token=desk.tokens["admin"], method="GET") == 403
    assert desk.passed == []


def test_a_call_reaches_the_superlink_with_the_gates_secret_and_without_the_token(desk):
    assert desk.ask("start-run", token=desk.tokens["operator"], body=b"body") == 200
    assert desk.passed == [("/v1/control/start-run", "gate", b"body")]
    assert desk.audit() == [("operator", "start-run", "passed on")]
    assert desk.tokens["operator"] not in desk.audited.read_text()


def test_a_run_that_may_not_start_is_refused_and_audited(desk):
    assert desk.ask("start-run", token=desk.tokens["operator"], body=b"bad") == 400
    assert desk.passed == []
    assert desk.audit() == [("operator", "start-run", "refused 400")]


def test_a_call_too_large_is_refused(desk):
    assert desk.ask("start-run", token=desk.tokens["admin"], body=b"x" * ((1 << 20) + 1)) == 413
    assert desk.passed == []


def test_a_call_that_cannot_be_audited_is_not_made(desk):
    desk.audited.mkdir()
    assert desk.ask("list-runs", token=desk.tokens["viewer"]) == 503
    assert desk.passed == []


def test_who_is_removed_has_no_access_from_then_on(desk):
    assert desk.ask("list-runs", token=desk.tokens["viewer"]) == 200
    load(desk.operators).without("viewer").save(desk.operators)
    assert desk.ask("list-runs", token=desk.tokens["viewer"]) == 401


def test_operators_that_cannot_be_read_let_nobody_in(desk):
    desk.operators.write_text("nonsense")
    assert desk.ask("list-runs", token=desk.tokens["viewer"]) == 401


def test_a_superlink_that_is_down_is_said(desk):
    desk.down = True
    assert desk.ask("list-runs", token=desk.tokens["viewer"]) == 502


def test_no_token_is_stored_and_the_file_is_its_owners(desk):
    stored = desk.operators.read_text()
    assert not any(token in stored for token in desk.tokens.values())
    assert desk.operators.stat().st_mode & 0o077 == 0
    assert all(len(token) >= 40 for token in desk.tokens.values())


def test_an_operator_has_a_name_of_their_own_and_a_role_that_exists():
    one, _ = Operators().add("alice", "viewer")
    with pytest.raises(ConfigError, match="already"):
        one.add("alice", "admin")
    with pytest.raises(ConfigError, match="role"):
        one.add("bob", "root")
    with pytest.raises(ConfigError, match="name"):
        one.add("Bob Smith", "viewer")
    with pytest.raises(ConfigError, match="no operator"):
        one.without("bob")


def test_a_damaged_list_of_operators_names_what_is_wrong(tmp_path):
    path = tmp_path / "operators.toml"
    for text, word in (
        ("operators = 3", "operators"),
        ("x =", "cannot be read"),
        ('[[operators]]\nname = "a"\nrole = "king"\ntoken_sha256 = ""', "operators.0"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=word):
            load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml")
