import http.client
import io
import json
import re
import socket
import struct
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from septum.errors import Quarantine
from septum_client import review_pixels
from septum_client.review_pixels import page
from septum_client.review_pixels.queue import Queue
from septum_client.review_pixels.server import serve
from septum_client.screening.boxes import Box

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ASSETS = [page.file(name)[0].decode() for name in page.FILES]


def name_of(seed):
    return f"{seed + 1:032x}"


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (16, 24)).astype(np.uint8)


class Client:
    """A browser without opinions: it sends what it is told."""

    def __init__(self, port):
        self.port = port
        self.session = None

    def ask(self, path, *, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent = {"Host": f"127.0.0.1:{self.port}"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        connection.putrequest(method, path, skip_host=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        data = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        answer.content = answer.read()
        connection.close()
        return answer

    def enter(self, url):
        answer = self.ask(url.removeprefix(f"http://127.0.0.1:{self.port}"))
        self.session = answer.headers["Location"].strip("/")
        return answer

    def get(self, path, **headers):
        return self.ask(f"/{self.session}/{path}", **headers)

    def post(self, path, body, **headers):
        ours = {"Content_Type": "application/json", "X_Septum_Token": self.session}
        return self.ask(f"/{self.session}/{path}", method="POST", body=body, **(ours | headers))


@pytest.fixture
def queue(tmp_path):
    queue = Queue(folder=tmp_path / "review")
    queue.put(name_of(0), picture(), Quarantine.BURNED_IN_TEXT, [Box(2, 3, 6, 20)])
    return queue


@pytest.fixture
def client(queue):
    with serve(queue, by="anna", now=lambda: NOON) as server:
        client = Client(server.port)
        client.enter(server.url)
        yield client


@pytest.fixture
def name(queue):
    return queue.items()[0].name


def test_the_link_leads_to_the_page_once_and_says_so_the_second_time(queue):
    with serve(queue, by="anna", now=lambda: NOON) as server:
        client = Client(server.port)
        assert client.enter(server.url).status == 303
        assert b"<title>Review pixels</title>" in client.get("").content
        again = client.ask(server.url.removeprefix(f"http://127.0.0.1:{server.port}"))
        assert (again.status, b"works once only" in again.content) == (404, True)


def test_the_page_shows_a_hash_a_code_a_size_and_boxes_and_nothing_else(client, name):
    (image,) = json.loads(client.get("images").content)
    assert image == {
        "name": name,
        "code": "DATA_114",
        "why": "May show text",
        "rows": 16,
        "columns": 24,
        "boxes": [[2, 3, 6, 20]],
        "verdict": None,
        "blanked": [],
    }


def test_the_picture_is_served_as_it_was_put(client, name):
    answer = client.get(f"image/{name}.png")
    assert answer.headers["Content-Type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), picture())


@pytest.mark.parametrize(
    ("verdict", "boxes"), [("accept", []), ("reject", []), ("blank", [[0, 0, 4, 24]])]
)
def test_a_decision_is_on_the_disk_when_the_page_is_told_so(client, queue, name, verdict, boxes):
    answer = client.post("decide", {"name": name, "verdict": verdict, "boxes": boxes})
    assert answer.status == 204
    decision = Queue(folder=queue.folder).decision(name)
    assert (decision.verdict, decision.by, decision.at) == (verdict, "anna", NOON)
    assert [list(box) for box in decision.boxes] == boxes
    assert client.post("decide", {"name": name, "verdict": "undo"}).status == 204
    assert queue.decision(name) is None


@pytest.mark.parametrize(
    "path", ["/", "/wrong/", "/wrong/images", "//", "/wrong/image/{name}.png", "/{almost}/images"]
)
def test_nothing_is_shown_without_the_secret_path(client, name, path):
    asked = path.format(name=name, almost=client.session[:-1])
    answer = client.ask(asked)
    assert answer.status == 404
    assert name.encode() not in answer.content


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Septum_Token": None},
        {"X_Septum_Token": "wrong"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Content_Type": "text/plain"},
        {"Host": "evil.example"},
    ],
)
def test_nothing_is_decided_for_another_page(client, queue, name, headers):
    body = {"name": name, "verdict": "accept"}
    assert client.post("decide", body, **headers).status == 403
    assert queue.decision(name) is None
    assert client.post("decide", body, Origin=f"http://127.0.0.1:{client.port}").status == 204


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", None])
def test_a_foreign_host_is_refused_even_with_the_secret(client, host):
    asked = host.format(port=client.port) if host else host
    assert client.get("images", Host=asked).status == 403
    assert client.get("images", Host=f"localhost:{client.port}").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "image/../decisions.jsonl",
        "image/..%2fdecisions.jsonl",
        "image/../../key",
        "../review/decisions.jsonl",
        "page.py",
        "server.py",
        "decisions.jsonl",
        "image/",
        "image/" + "0" * 32 + ".png",
    ],
)
def test_no_path_leads_to_another_file(client, queue, name, path):
    client.post("decide", {"name": name, "verdict": "accept"})
    (queue.folder.parent / "key").write_bytes(b"secret")
    answer = client.get(path)
    assert (answer.status, answer.content) == (404, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1]",
        {},
        {"name": "../key", "verdict": "accept"},
        {"name": 5, "verdict": "accept"},
        {"verdict": "accept"},
        {"name": "{name}", "verdict": "maybe"},
        {"name": "{name}", "verdict": ["accept"]},
        {"name": "{name}", "verdict": "blank", "boxes": []},
        {"name": "{name}", "verdict": "blank", "boxes": [[0, 0, 4, 99]]},
        {"name": "{name}", "verdict": "blank", "boxes": [[0, 0, 4.5, 9]]},
        {"name": "{name}", "verdict": "blank", "boxes": [[0, 0, 4]]},
        {"name": "{name}", "verdict": "blank", "boxes": 7},
        b'{"name":"' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_bad_decision_is_refused_and_nothing_is_written(client, queue, name, body):
    if isinstance(body, dict):
        body = json.loads(json.dumps(body).replace("{name}", name))
    assert client.post("decide", body).status == 400
    assert not (queue.folder / "decisions.jsonl").exists()


def test_every_answer_forbids_caching_framing_and_any_other_source(client, name):
    for answer in (client.get(""), client.get("images"), client.get("none"), client.ask("/wrong/")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["Server"].strip() == ""


def test_it_listens_on_this_machine_alone(client):
    # Linux answers on all of 127/8 and on ::1 to a server that listens everywhere.
    for address in ("127.0.0.2", "::1"):
        with pytest.raises(OSError, match=r"refused|assign|family|unreachable"):
            socket.create_connection((address, client.port), timeout=2)


def test_the_page_names_no_address_and_holds_nothing_inline():
    html, *_ = ASSETS
    for asset in ASSETS:
        assert set(re.findall(r"https?://[^\"'\s]+", asset)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)


def test_every_part_the_script_asks_for_is_on_the_page():
    html, script = page.file("")[0].decode(), page.file("page.js")[0].decode()
    ids = set(re.findall(r'id="([\w-]+)"', html))
    asked = set(re.findall(r'el\("([\w-]+)"\)', script))
    assert asked
    assert asked <= ids


def test_every_button_has_a_name_that_can_be_read_aloud():
    html = page.file("")[0].decode()
    buttons = re.findall(r"<button([^>]*)>(.*?)</button>", html, re.DOTALL)
    assert len(buttons) >= 10
    for attributes, inside in buttons:
        words = re.sub(r"<kbd>.*?</kbd>|<[^>]+>", "", inside).strip()
        assert "aria-label=" in attributes or words


def test_nothing_is_printed_or_logged(client, name, capfd):
    client.get("images")
    client.ask("/wrong/")
    client.ask("/x", method="BREW")
    with socket.create_connection(("127.0.0.1", client.port)) as rude:
        rude.sendall(b"GET /")
    with socket.create_connection(("127.0.0.1", client.port)) as gone:
        # Closing resets the connection: the server reads a ConnectionResetError.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(b"GET /")
    client.get("")
    assert capfd.readouterr() == ("", "")


def test_a_sitting_ends_when_the_page_says_so_and_its_pictures_are_gone(queue, name):
    told = []

    def visit(line):
        told.append(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)(/\S+/)", line)
        if found:
            threading.Thread(target=browse, args=(int(found[1]), found[2])).start()

    def browse(port, path):
        client = Client(port)
        client.enter(path)
        client.post("decide", {"name": name, "verdict": "reject"})
        client.post("finish", {})

    outcome = review_pixels.run(queue.folder.parent, open_browser=False, announce=visit)
    assert (outcome.accepted, outcome.blanked, outcome.rejected, outcome.waiting) == (0, 0, 1, 0)
    assert queue.items() == ()
    assert queue.decision(name).verdict == "reject"
    assert name not in "".join(told)


def test_without_images_there_is_nothing_to_serve(tmp_path):
    told = []
    outcome = review_pixels.run(tmp_path, open_browser=False, announce=told.append)
    assert outcome.waiting == 0
    assert told == ["No image waits for review."]
