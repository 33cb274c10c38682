"""What SuperExec runs at a hospital in place of Flower's client: our app, for our bundle alone.

Run by name from the folder that :mod:`septum_client.node` puts first on
SuperExec's path. One process makes itself ready, and each message is answered in
a fork of it that ends with the answer (:mod:`septum.forking`). Flower's own client would
install whatever bundle the coordinator sent and import what it names, and it
would send on the text of an exception. Here nothing is installed, nothing is
imported by a name that came over the wire, and no text leaves.
"""

import hashlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from septum import forking
from septum.child_process import TASK, end_with_parent
from septum.errors import Code, EngineError, Refusal, WireError
from septum.fab import fab_digest
from septum_client import lean
from septum_client.node import CLIENT, SITE

KEPT: Final = "kept on site"
"""Stands in every place where Flower would put an exception's text."""

_HELD_BACK: Final = 2  # Flower's number for an exception in the app

_log = logging.getLogger(__name__)


class Guard:
    """Stands in for steps of Flower's client: install, load, send, finish, and give up.

    Guarantees:
      - A bundle that is not, byte for byte, :func:`septum.fab.fab` is never
        unpacked or imported; its messages are answered with a closed code.
      - What leaves is a release or a refusal that :mod:`septum.wire` reads, or
        Flower's error number without a text.
      - Training that has begun goes on to its end, whoever has forgotten who asked for it:
        it was charged, and the same order, asked again, gets the release that it makes.
        Flower would interrupt it as soon as a SuperNode was started again.

    Args:
      app: Makes the app that answers; called only for our own bundle.
      refusing: Makes the app that refuses; called for any other bundle.
    """

    def __init__(
        self, *, app: Callable[[], ClientApp], refusing: Callable[[Refusal], ClientApp]
    ) -> None:
        self._app = app
        self._refusing = refusing
        self._ours = False
        self._sent = False
        self._send = run_clientapp.push_message
        self._finish = run_clientapp.push_task_output

    def stand(self) -> None:
        """Take their places.

        Raises:
          EngineError: Flower has no such step: it is another version than was looked at.
        """
        places = {
            "install_from_fab": self.install,
            "get_load_client_app_fn": self.loader,
            "push_message": self.send,
            "push_task_output": self.finish,
            "make_simple_http_retry_invoker": patience,
            "make_task_heartbeat_fn_http": heartbeat,
        }
        steps = vars(run_clientapp)
        missing = sorted(set(places) - set(steps))
        if missing:
            raise EngineError(
                f"Flower's client has no {', '.join(missing)}.",
                remedy="Install the version of Flower that constraints.txt names.",
            )
        steps.update(places)

    def install(self, bundle: bytes, *_: object, **__: object) -> None:
        """Look at the bundle; install nothing."""
        self._ours = hashlib.sha256(bundle).hexdigest() == fab_digest()

    def loader(self, **_: object) -> Callable[..., ClientApp]:
        """Return what gives Flower our app, whichever the bundle names."""
        return self._load

    def send(self, client: Any, answer: Message, context: Context) -> None:
        """Send ``answer`` as :func:`closed` leaves it."""
        self._send(client, closed(answer), context)
        self._sent = True

    def finish(self, client: Any, context: Context | None, sub_status: str, details: str) -> None:
        """Tell the SuperNode how the task ended, without the text; nothing, if nothing was sent.

        Told of a failure, the SuperNode would wait for the answer for ever. Of a process that
        falls silent it makes an answer within a minute, and the order is asked again.
        """
        if self._sent:
            self._finish(client, context, sub_status, KEPT if details else "")

    def _load(self, *_: object) -> ClientApp:
        if self._ours:
            return self._app()
        return self._refusing(
            Refusal(
                Code.BUNDLE_NOT_ALLOWED,
                "the coordinator sent another bundle than that of the installed Septum.",
                remedy="Compare the two sides' versions of Septum.",
            )
        )


class Refusing(ClientApp):
    """Answers every message with one closed code, signed by the site; the reason stays there."""

    def __init__(self, folder: Path, refusal: Refusal) -> None:
        super().__init__()
        self._folder = folder
        self._refusal = refusal

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message, whatever it holds."""
        from septum.wire import encode_refusal, unread  # noqa: PLC0415 - imports torch
        from septum_client import orders  # noqa: PLC0415
        from septum_client.site import Site  # noqa: PLC0415

        del context
        site = Site.open(self._folder)
        site.log(self._refusal.code, self._refusal)
        answered = unread(message.metadata.message_id)
        said = orders.declined(self._refusal.code, site=site, name=site.name, instruction=answered)
        return Message(encode_refusal(said), reply_to=message)


def patience() -> RetryInvoker:
    """Return Flower's way to ask again, which does not end the process where it is unknown."""
    invoker = make_simple_http_retry_invoker()
    judge = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        return _unknown(error) or (judge is not None and judge(error))

    invoker.should_giveup = gives_up
    return invoker


def heartbeat(client: RuntimeHttpClient) -> Callable[[], bool]:
    """Return what tells the SuperNode, now and then, that this process lives.

    It returns False where the SuperNode is not there, and is asked again soon.
    """

    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.TransportError:
            return False
        except httpx.HTTPStatusError as error:
            return _unknown(error)
        return True

    return beat


def _unknown(error: Exception) -> bool:
    """Whether the SuperNode says that it never gave this task: it was started again since."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    return error.response.status_code == httpx.codes.UNAUTHORIZED


def closed(answer: Message) -> Message:
    """Return ``answer`` if it is a release or a refusal, else an error that says nothing."""
    from septum.wire import decode_refusal, decode_release  # noqa: PLC0415 - imports torch

    if answer.has_error():
        return _silent(answer, answer.error.code)
    try:
        if decode_refusal(answer.content) is None:
            decode_release(answer.content)
    except WireError as error:
        _log.error("an answer was held back: %s", error)
        return _silent(answer, _HELD_BACK)
    return answer


def _silent(answer: Message, code: int) -> Message:
    kind: Any = Message  # whose typed forms make no answer out of an answer
    made: Message = kind(Error(code, KEPT), metadata=answer.metadata)
    return made


def _app(folder: Path) -> ClientApp:
    lean.stand()
    from septum_client.app import SiteApp  # noqa: PLC0415 - imports torch

    return SiteApp(lambda _: folder)


def main() -> None:
    """Answer messages, each in a process of its own, for the SuperExec that started this one."""
    # Not asked politely: Flower would first talk to a SuperNode that may be gone too, and the
    # ledger is made for this process to end anywhere.
    end_with_parent(signal.SIGKILL)
    folder = Path(os.environ[SITE])
    arguments = forking.task(prepare=lambda: _app(folder))
    if arguments is None:
        arguments = os.environ.pop(TASK, "").splitlines()
    sys.argv = [CLIENT, *arguments]
    Guard(app=lambda: _app(folder), refusing=lambda refusal: Refusing(folder, refusal)).stand()
    flwr_clientapp()


if __name__ == "__main__":
    main()
