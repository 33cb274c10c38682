import hashlib
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.heartbeat import make_task_heartbeat_fn_http
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp

from septum.errors import Code, EngineError, Refusal
from septum.fab import fab
from septum.signing import Purpose, SigningKey, verify
from septum.wire import Declined, decode_refusal, encode_refusal, unread
from septum_client.guard import KEPT, Guard, Refusing, closed, heartbeat, patience
from septum_client.policy import Policy
from septum_client.site import Site

SECRET = "Mrs Canary, born 1931"


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def asked() -> Message:
    message = Message(RecordDict(), dst_node_id=2, message_type="train")
    message.metadata.__dict__["_message_id"] = "0" * 64
    return message


def refusal() -> RecordDict:
    return encode_refusal(Declined(code=Code.NO_POLICY, site="north", instruction="0" * 64))


@pytest.fixture
def flower(monkeypatch):
    """Flower's client with its network cut off; tells what it would have sent."""
    sent = SimpleNamespace(answers=[], ends=[])
    monkeypatch.setattr(run_clientapp, "push_message", lambda c, m, x: sent.answers.append(m))
    monkeypatch.setattr(run_clientapp, "push_task_output", lambda *a: sent.ends.append(a))
    for name in (
        "install_from_fab", "get_load_client_app_fn", "make_simple_http_retry_invoker",
        "make_task_heartbeat_fn_http",
    ):  # fmt: skip
        monkeypatch.setattr(run_clientapp, name, getattr(run_clientapp, name))
    return sent


def answers_with(content: RecordDict):
    class App(ClientApp):
        def __call__(self, message, context):
            return Message(content, reply_to=message)

    return App


def ask(guard: Guard, bundle: bytes) -> Message:
    """Take Flower's own four steps."""
    guard.stand()
    run_clientapp.install_from_fab(bundle, skip_prompt=True)
    load = run_clientapp.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    app = load("any/app", "1.0.0", hashlib.sha256(bundle).hexdigest())
    run_clientapp.push_message(None, app(asked(), None), None)


def test_our_own_bundle_reaches_our_own_app(flower):
    ask(Guard(app=answers_with(refusal()), refusing=pytest.fail), fab())
    (answer,) = flower.answers
    assert decode_refusal(answer.content).code is Code.NO_POLICY


@pytest.mark.parametrize("bundle", [b"", fab() + b"\n", fab()[:-1], b"PK\x03\x04 code"])
def test_any_other_bundle_is_refused_and_our_app_is_not_even_made(flower, bundle):
    refused = []

    def refusing(why: Refusal) -> ClientApp:
        refused.append(why.code)
        return answers_with(refusal())()

    ask(Guard(app=pytest.fail, refusing=refusing), bundle)
    assert refused == [Code.BUNDLE_NOT_ALLOWED]
    assert len(flower.answers) == 1


def test_a_bundle_is_never_unpacked(flower, monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    ask(Guard(app=answers_with(refusal()), refusing=pytest.fail), fab())
    assert not list(tmp_path.iterdir())


def test_an_exceptions_text_is_replaced_and_its_number_kept():
    answer = closed(Message(Error(3, SECRET), reply_to=asked()))
    assert (answer.error.code, answer.error.reason) == (3, KEPT)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"release": ConfigRecord({"note": SECRET})}),
        RecordDict({"refusal": ConfigRecord({"code": SECRET, "site": "north"})}),
        RecordDict({SECRET: ConfigRecord({"code": "SITE_201", "site": "north"})}),
        RecordDict({"update": ArrayRecord({SECRET: Array(np.zeros(3, np.float32))})}),
    ],
)
def test_what_the_wire_does_not_know_is_held_back_without_a_trace(content):
    answer = closed(Message(content, reply_to=asked()))
    assert not answer.has_content()
    assert answer.error.reason == KEPT


def test_a_release_with_one_field_more_is_held_back():
    grown = refusal()
    grown["more"] = ConfigRecord({"text": SECRET})
    assert closed(Message(grown, reply_to=asked())).has_error()


def test_the_supernode_is_not_told_the_text_either(flower):
    ask(Guard(app=answers_with(refusal()), refusing=pytest.fail), fab())
    run_clientapp.push_task_output(None, None, "failed", SECRET)
    run_clientapp.push_task_output(None, None, "completed", "")
    assert [end[-1] for end in flower.ends] == [KEPT, ""]


@pytest.mark.parametrize("sub_status", ["failed", "completed"])
def test_the_end_of_a_task_that_sent_no_answer_is_left_to_its_silence(
    flower, monkeypatch, sub_status
):
    def fail(*_):
        raise httpx.ReadError("the connection was lost")

    monkeypatch.setattr(run_clientapp, "push_message", fail)
    guard = Guard(app=answers_with(refusal()), refusing=pytest.fail)
    with pytest.raises(httpx.ReadError):
        ask(guard, fab())
    run_clientapp.push_task_output(None, None, sub_status, SECRET)
    assert flower.ends == []


def test_another_flower_is_noticed_before_anything_runs(monkeypatch):
    guard = Guard(app=pytest.fail, refusing=pytest.fail)
    monkeypatch.delattr(run_clientapp, "push_task_output")
    with pytest.raises(EngineError, match="no push_task_output"):
        guard.stand()


def test_a_refusal_of_a_bundle_is_signed_and_its_reason_stays_on_site(site_folder):
    why = Refusal(Code.BUNDLE_NOT_ALLOWED, SECRET)
    answer = Refusing(site_folder, why)(asked(), None)
    said = decode_refusal(answer.content)
    assert (said.code, said.site) == (Code.BUNDLE_NOT_ALLOWED, "north")
    assert said.instruction == unread(asked().metadata.message_id), "an answer to no other message"
    public = SigningKey.load(site_folder / "signing.key").public
    verify(public, Purpose.REFUSAL, said.statement, said.signature)
    assert SECRET not in repr(answer.content)
    assert SECRET in (site_folder / "private.log").read_text()


@pytest.fixture
def supernode(monkeypatch):
    """Answer each of a task's calls in turn; tell the signals that the process sent itself."""
    signals = []
    monkeypatch.setattr("os.kill", lambda _, number: signals.append(number))
    monkeypatch.setattr("signal.raise_signal", signals.append)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def client(*answers, invoker):
        left = list(answers)

        def send(self, context, **_):
            said = left.pop(0)
            if isinstance(said, Exception):
                raise said
            told = httpx.Response(said, json={"code": 1008, "detail": ""}, request=context.request)
            if said >= 400:
                raise httpx.HTTPStatusError("no", request=context.request, response=told)
            return httpx.Response(200, content=b"", request=context.request)

        monkeypatch.setattr(RuntimeHttpClient, "_send", send)
        return RuntimeHttpClient.from_server_address(
            "127.0.0.1:1", True, None, [], retry_invoker=invoker
        )

    return SimpleNamespace(client=client, signals=signals)


def test_training_goes_on_where_a_supernode_started_anew_does_not_know_it(supernode):
    with supernode.client(401, invoker=patience()) as client:
        assert heartbeat(client)()
    assert not supernode.signals
    # Nor where it knows it and has ended it: the answer's form without its one word.
    with supernode.client(200, invoker=patience()) as client:
        assert heartbeat(client)()
    assert not supernode.signals


def test_flowers_own_way_would_have_ended_it(supernode):
    invoker = make_simple_http_retry_invoker()
    with supernode.client(401, 401, invoker=invoker) as client, suppress(Exception):
        make_task_heartbeat_fn_http(client)()
    assert supernode.signals
    supernode.signals.clear()
    with supernode.client(200, invoker=invoker) as client:
        make_task_heartbeat_fn_http(client)()
    assert supernode.signals


def test_a_supernode_that_is_away_is_waited_for(supernode):
    with supernode.client(httpx.ConnectError("away"), 503, 200, invoker=patience()) as client:
        assert heartbeat(client)()
    with supernode.client(httpx.ConnectError("away"), invoker=None) as client:
        assert not heartbeat(client)()


@pytest.fixture
def site_folder(tmp_path):
    Site.create(tmp_path / "site", name="north", policy=Policy())
    return tmp_path / "site"


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    program = (
        "import os, subprocess, sys\n"
        "hang = '(print(1, flush=True), time.sleep(600))'\n"
        "code = 'import sys, time; from septum_client import guard; '\n"
        "code += f'guard.flwr_clientapp = lambda: {hang}; guard.main()'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,\n"
        "                         env=os.environ | {'SEPTUM_SITE': '.', 'SEPTUM_TASK': ''})\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    assert ended(pid, seconds=20)


def ended(pid: int, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            # A zombie waits for whoever adopted it; it runs nothing.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False
