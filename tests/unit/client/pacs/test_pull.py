"""The DICOMweb client against servers that answer badly, slowly, too much or elsewhere."""

import contextlib
import http.server
import json
import logging
import threading
from datetime import date

import pytest

from septum.errors import ConfigError, EngineError
from septum_client.pacs import pull as pulling
from septum_client.pacs.archive import Archive
from septum_client.pacs.pull import Pulled, Query, accessions, matches, pull
from septum_client.pacs.settings import Pull, Settings

WAIT_S = 20
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


@pytest.fixture
def web():
    """Return a function that starts a server answering with ``handle(request, path)``."""
    with contextlib.ExitStack() as running:

        def start(handle):
            asked = []

            class Handler(http.server.BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_GET(self):
                    asked.append((self.path, dict(self.headers)))
                    with contextlib.suppress(ConnectionError):
                        handle(self, len(asked))

                def log_message(self, *arguments):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            running.callback(
                lambda: (server.shutdown(), thread.join(WAIT_S), server.server_close())
            )
            server.asked = asked
            server.url = f"http://127.0.0.1:{server.server_port}/web"
            return server

        yield start


def send(request, body=b"", code=200, kind="application/dicom", **headers):
    request.send_response(code)
    headers = {"Content-Type": kind, "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    for name, value in headers.items():
        if value is not None:
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextlib.contextmanager
def archive(server, **fields):
    pauses = []
    made = Archive(Pull(**({"url": server.url, "attempts": 3} | fields)), pause=pauses.append)
    made.pauses = pauses
    try:
        yield made
    finally:
        made.close()


def test_one_instance_comes_to_the_byte_and_nothing_compressed_is_asked_for(web):
    server = web(lambda request, _: send(request, b"DICM"))
    with archive(server) as found:
        assert found.instance("studies/1") == b"DICM"
    path, headers = server.asked[0]
    assert path == "/web/studies/1"
    assert headers["Accept-Encoding"] == "identity"
    assert "transfer-syntax=*" in headers["Accept"]


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 404},
        {"code": 406},
        {"code": 410},
        {"body": b"x" * 4_000, "kind": "text/html"},
        {"body": b"x", "Content_Encoding": "gzip"},
        {"body": b"x" * 1_001},
        {"body": b"", "Content_Length": str(10**12)},
        {"body": b"", "Content_Length": "many"},
    ],
)
def test_what_is_not_one_dicom_file_of_allowed_length_is_not_delivered(web, answer):
    server = web(lambda request, _: send(request, **answer))
    with archive(server, maximum_instance=1_000) as found:
        assert found.instance("studies/1") is None
    assert len(server.asked) == 1


def test_an_answer_without_end_is_left_unread(web):
    sent = []

    def endless(request, _):
        send(request, Content_Length=None, Transfer_Encoding="chunked")
        piece = b"10000\r\n" + b"\0" * 65_536 + b"\r\n"
        for _ in range(4_096):
            request.wfile.write(piece)
            sent.append(1)

    with archive(web(endless), maximum_instance=2**20) as found:
        assert found.instance("studies/1") is None
    assert len(sent) < 4_096


def test_an_answer_that_drips_is_left_after_the_deadline(web):
    over = threading.Event()

    def dripping(request, _):
        send(request, b"D", Content_Length="100000")
        while not over.wait(0.02):
            request.wfile.write(b"D")

    try:
        with archive(web(dripping), deadline_s=0.3, attempts=2) as found:
            assert found.instance("studies/1") is None
            assert found.pauses == [1.0]
    finally:
        over.set()


def test_an_answer_that_breaks_off_is_tried_again(web):
    def broken(request, count):
        if count == 1:
            send(request, b"DI", Content_Length="4")
            request.close_connection = True
        else:
            send(request, b"DICM")

    with archive(web(broken)) as found:
        assert found.instance("studies/1") == b"DICM"
        assert found.pauses == [1.0]


def test_a_chunked_answer_that_breaks_off_is_tried_again(web):
    def broken(request, count):
        send(request, Content_Length=None, Transfer_Encoding="chunked")
        request.wfile.write(b"2\r\nDI\r\n" if count == 1 else b"4\r\nDICM\r\n0\r\n\r\n")
        request.close_connection = True

    with archive(web(broken)) as found:
        assert found.instance("studies/1") == b"DICM"


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_so_often_and_then_the_instance_is_not_delivered(web, code):
    server = web(lambda request, _: send(request, code=code))
    with archive(server, attempts=4) as found:
        assert found.instance("studies/1") is None
        assert found.pauses == [1.0, 2.0, 4.0]
    assert len(server.asked) == 4


def test_no_server_is_an_error_with_what_to_do(web):
    server = web(lambda request, _: None)
    server.url = "http://127.0.0.1:9/web"
    with archive(server) as found, pytest.raises(EngineError, match="3 attempts") as caught:
        found.instance("studies/1")
    assert "start the pull again" in str(caught.value)


@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(web, tmp_path, code):
    secret = tmp_path / "token"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    elsewhere = web(lambda request, _: send(request, b"DICM"))
    server = web(lambda request, _: send(request, code=code, Location=elsewhere.url))
    with (
        archive(server, authorization="bearer", secret=secret) as found,
        pytest.raises(ConfigError, match="redirects") as caught,
    ):
        found.instance("studies/1")
    assert server.asked[0][1]["Authorization"] == "Bearer hunter2"
    assert elsewhere.asked == []
    assert "hunter2" not in str(caught.value)


def test_the_environment_s_proxy_and_netrc_are_not_used_unless_asked_for(
    web, tmp_path, monkeypatch
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    proxy = web(lambda request, _: send(request, b"proxied"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/web"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = web(lambda request, _: send(request, b"DICM"))
    with archive(server) as found:
        assert found.instance("studies/1") == b"DICM"
    assert "Authorization" not in server.asked[0][1]
    with archive(server, environment_proxies=True) as found:
        assert found.instance("studies/1") == b"proxied"
    assert "Authorization" not in proxy.asked[0][1]


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [("t", 0o640, "read by others"), ("", 0o600, "empty"), ("a\nb", 0o600, "one line")],
)
def test_a_secret_that_others_may_read_or_that_is_none_is_refused(
    web, tmp_path, content, mode, named
):
    secret = tmp_path / "token"
    secret.write_text(content)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=named):
        Archive(Pull(url="http://127.0.0.1:9", authorization="bearer", secret=secret))


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_does_not_know_us_ends_the_pull_at_once(web, code):
    server = web(lambda request, _: send(request, code=code))
    with archive(server) as found, pytest.raises(ConfigError, match=f"HTTP {code}"):
        found.search("studies", {})
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "body", [b"{}", b"[1]", b"[", b"\xff", b"[" * 100_000, b"[" + b" " * 200_000 + b"]"]
)
def test_a_search_answer_that_is_no_list_of_matches_is_an_error(web, body):
    server = web(lambda request, _: send(request, body, kind="application/dicom+json"))
    with archive(server, maximum_answer=150_000) as found, pytest.raises(EngineError):
        found.search("studies", {})


def test_no_match_is_an_empty_page(web):
    server = web(lambda request, _: send(request, code=204))
    with archive(server) as found:
        assert found.search("studies", {"AccessionNumber": "A 1"}) == []
    assert server.asked[0][0] == "/web/studies?AccessionNumber=A+1"


def test_nothing_of_a_pull_is_logged(web, pacs, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server = web(lambda request, _: send(request, json.dumps([]).encode()))
    query = Query(modality="CT", accessions=("SECRET",))
    assert pull(Settings(pull=Pull(url=server.url)), query, pacs.inbox()).complete
    assert "SECRET" in server.asked[0][0]
    assert caplog.text + "".join(capfd.readouterr()) == ""
    assert "SECRET" not in repr(query)


# Which instances match


def match(**values):
    return {tag.lstrip("_"): {"vr": "UI", "Value": [value]} for tag, value in values.items()}


class Pages:
    """A server of two series with some instances; gives at most ``most`` matches at once."""

    def __init__(self, most=2, instances=5, rows=None, honest=True):
        self.most, self.honest = most, honest
        self.asked = []
        self.rows = rows or {
            "studies": [match(_0020000D="1.1")],
            "studies/1.1/series": [
                match(_0020000E="1.1.1", _00080060="CR", _00180015="CHEST"),
                match(_0020000E="1.1.2", _00080060="SR"),
                match(_0020000E="1.1.3", _00080060="CR"),
            ],
            "studies/1.1/series/1.1.1/instances": [
                match(_00080018=f"1.1.1.{n}") for n in range(1, instances + 1)
            ],
            "studies/1.1/series/1.1.3/instances": [match(_00080018="1.1.3.1")],
        }

    def search(self, path, parameters):
        self.asked.append((path, parameters))
        start = int(parameters["offset"]) if self.honest else 0
        return self.rows[path][start : start + min(self.most, int(parameters["limit"]))]

    def instance(self, path):
        raise AssertionError(path)


QUERY = Query(modality="CR", since=date(2020, 1, 2), until=date(2020, 3, 4))


@pytest.mark.parametrize("most", [1, 2, 100])
def test_every_page_is_read_however_short_the_server_makes_them(most):
    found = [instance for _, _, instance in matches(Pages(most), QUERY, page=3)]
    assert found == [f"1.1.1.{n}" for n in range(1, 6)] + ["1.1.3.1"]


def test_a_server_that_ignores_the_offset_ends_the_listing():
    found = [instance for _, _, instance in matches(Pages(2, honest=False), QUERY, page=2)]
    assert found == ["1.1.1.1", "1.1.1.2"]


def test_modality_and_body_part_are_checked_in_the_answer_too():
    chest = Query(modality="CR", since=date(2020, 1, 1), body_part="CHEST")
    assert {series for _, series, _ in matches(Pages(), chest, page=9)} == {"1.1.1"}


def test_dates_and_accessions_are_asked_for_as_the_standard_writes_them():
    source = Pages()
    list(matches(source, QUERY, page=9))
    assert source.asked[0][1]["StudyDate"] == "20200102-20200304"
    source = Pages()
    both = Query(modality="CR", since=date(2020, 1, 2), accessions=("A", "B"))
    found = [instance for _, _, instance in matches(source, both, page=9)]
    asked = [kept for path, kept in source.asked if path == "studies" and kept["offset"] == "0"]
    assert [kept["AccessionNumber"] for kept in asked] == ["A", "B"]
    assert {kept["StudyDate"] for kept in asked} == {"20200102-"}
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "uid", ["../../patients", "1.2?x=", "1..2", "", "1/2", "1.2\n", "1" * 65, "\u0661"]
)
def test_a_uid_that_is_none_never_becomes_a_path(uid):
    rows = {"studies": [match(_0020000D=uid), {STUDY: {"Value": [7]}}, {STUDY: 3}, {}]}
    source = Pages(most=9, rows=rows)
    assert list(matches(source, QUERY, page=9)) == []
    assert {path for path, _ in source.asked} == {"studies"}


@pytest.mark.parametrize(
    "fields",
    [
        {"modality": "CR"},
        {"modality": "cr*", "accessions": ("A",)},
        {"modality": "CR", "accessions": ("A",), "body_part": "CH?"},
    ],
)
def test_a_query_without_bounds_or_with_wildcards_is_refused(fields):
    with pytest.raises(ConfigError):
        Query(**fields)


def test_accession_numbers_are_read_once_each_and_never_shown(tmp_path):
    path = tmp_path / "list"
    path.write_text("\ufeffA-1\n\nB 2 \nA-1\n")
    assert accessions(path) == ("A-1", "B 2")
    for bad in ("SECRET*", "SECRET" * 4, "SECRET\\"):
        path.write_text(f"A-1\n{bad}\n")
        with pytest.raises(ConfigError, match="line 2") as caught:
            accessions(path)
        assert "SECRET" not in str(caught.value)


def test_counts_are_words_and_numbers():
    done = Pulled(found=9, held=1, fetched=7, not_delivered=1, complete=True)
    assert done.lines()[0] == "      9 instances match"
    assert len(done.lines()) == 4


def test_a_site_without_the_extra_or_the_part_is_told_what_to_do(pacs, monkeypatch):
    with pytest.raises(ConfigError, match=r"no \[pull\] part"):
        pull(Settings(), QUERY, pacs.inbox())
    monkeypatch.setitem(__import__("sys").modules, "septum_client.pacs.archive", None)
    with pytest.raises(ConfigError, match=r'pip install "septum\[pacs\]"'):
        pulling.pull(Settings(pull=Pull(url="http://localhost")), QUERY, pacs.inbox())
