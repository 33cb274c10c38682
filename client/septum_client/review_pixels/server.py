"""The review page's server: this machine's loopback, one link that works once, nothing cached.

Other users of the machine can reach 127.0.0.1 too, and can read the browser's
command line. So the link that is opened holds a ticket that works once, and
answers with the session's own secret path; who comes second is told so.
"""

import contextlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from septum_client.review_pixels import page
from septum_client.review_pixels.queue import Queue
from septum_client.screening.boxes import Box

HOST: Final = "127.0.0.1"
TOKEN_HEADER: Final = "X-Septum-Token"  # noqa: S105 - the name of a header, not a secret
MOST_BYTES: Final = 64 * 1024
_HEADERS: Final = {
    "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_USED: Final = (
    b"This link was opened once already, and works once only. "
    b"Stop `septum site review-pixels` and start it again."
)


class _Loopback(ThreadingHTTPServer):
    """A server that asks no name service who it is, and prints no traceback."""

    def server_bind(self) -> None:
        """Bind, without HTTPServer's look-up of the host's full name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: a browser that goes away is no news, and a traceback holds the secret."""


class ReviewServer:
    """A server for one person's review; use it as a context manager.

    Guarantees:
      - It listens on 127.0.0.1 alone.
      - Without the secret path nothing is shown, and without the same secret in
        a header nothing is decided.
      - A request whose Host is another name is refused (DNS rebinding).
      - Nothing is logged: a log would hold the secret.
    """

    def __init__(self, queue: Queue, *, port: int, by: str, now: Callable[[], datetime]) -> None:
        self.queue: Final = queue
        self.by: Final = by
        self.now: Final = now
        self.session: Final = secrets.token_urlsafe(32)
        self.finished: Final = threading.Event()
        self._ticket: str | None = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._http = _Loopback((HOST, port), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self.port: Final = int(self._http.server_address[1])
        self.url: Final = f"http://{HOST}:{self.port}/{self._ticket}/"

    def __enter__(self) -> "ReviewServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def spend(self, ticket: str) -> bool:
        """Say whether this is the ticket, and let it never be one again."""
        with self._lock:
            held, right = self._ticket, False
            if held is not None and hmac.compare_digest(held.encode(), ticket.encode()):
                self._ticket, right = None, True
            return right

    def decide(self, asked: dict[str, Any]) -> None:
        """Write the decision that the page sent; ValueError or KeyError for a bad one."""
        boxes = [Box(*(_pixel(side) for side in box)) for box in asked.get("boxes", [])]
        with self._lock:
            self.queue.decide(
                str(asked["name"]), asked["verdict"], at=self.now(), by=self.by, boxes=boxes
            )


def serve(queue: Queue, port: int = 0, *, by: str, now: Callable[[], datetime]) -> ReviewServer:
    """Return a server for ``queue``; it begins on ``with``, and ``url`` is its link.

    Args:
      queue: What is shown.
      port: 0 for any free one.
      by: Who decides, for the log of decisions.
      now: The clock, with a time zone.
    """
    return ReviewServer(queue, port=port, by=by, now=now)


def _handler(server: ReviewServer) -> type[BaseHTTPRequestHandler]:
    """Return the handler of one server: http.server makes an object of it for each request."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        # Absent, so that no answer names its software.
        server_version = sys_version = ""

        def do_GET(self) -> None:
            """Show the page, its files, the list or a picture."""
            if not self._is_local():
                return self._answer(403)
            first, _, rest = self.path.removeprefix("/").partition("/")
            if not _same(first, server.session):
                return self._enter(first, rest)
            if rest == "images":
                return self._answer(200, page.listing(server.queue), "application/json")
            with contextlib.suppress(KeyError):
                return self._answer(200, *page.file(rest))
            folder, _, name = rest.partition("/")
            with contextlib.suppress(KeyError):
                if folder == "image":
                    picture = server.queue.picture(name.removesuffix(".png"))
                    return self._answer(200, picture, "image/png")
            return self._answer(404)

        def do_POST(self) -> None:
            """Take a decision, or the end of the review."""
            first, _, rest = self.path.removeprefix("/").partition("/")
            if not self._is_local() or not self._is_ours(first):
                return self._answer(403)
            if rest == "finish":
                server.finished.set()
                return self._answer(204)
            if rest != "decide":
                return self._answer(404)
            try:
                server.decide(self._body())
            except (KeyError, TypeError, ValueError):
                return self._answer(400)
            return self._answer(204)

        def _enter(self, ticket: str, rest: str) -> None:
            if rest == "" and server.spend(ticket):
                return self._answer(303, location=f"/{server.session}/")
            return self._answer(404, _USED, "text/plain; charset=utf-8")

        def _is_local(self) -> bool:
            hosts = {f"{name}:{server.port}" for name in (HOST, "localhost")}
            return self.headers.get("Host") in hosts

        def _is_ours(self, first: str) -> bool:
            origin = self.headers.get("Origin")
            sent = self.headers.get(TOKEN_HEADER, "")
            return (
                _same(first, server.session)
                and _same(sent, server.session)
                and origin in {None, f"http://{self.headers.get('Host')}"}
                and self.headers.get("Content-Type") == "application/json"
            )

        def _body(self) -> dict[str, Any]:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= MOST_BYTES:
                raise ValueError("too long")
            asked = json.loads(self.rfile.read(length))
            if not isinstance(asked, dict):
                raise TypeError("not an object")
            return asked

        def _answer(
            self, status: int, content: bytes = b"", media_type: str = "", location: str = ""
        ) -> None:
            self.send_response(status)
            extra = {"Content-Type": media_type, "Location": location}
            for name, value in (_HEADERS | {k: v for k, v in extra.items() if v}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep no log."""

    return Handler


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())


def _pixel(side: object) -> int:
    if not isinstance(side, int) or isinstance(side, bool):
        raise TypeError("a side of a box is a whole number")
    return side
