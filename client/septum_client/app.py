"""The hospital's Flower edge: decode, verify, pass to the gate, sign, encode; let no text out."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from septum.errors import Code, LedgerError, Refusal, WireError
from septum.wire import decode_instruction, encode_refusal, encode_release, unread
from septum_client import gate, orders
from septum_client import train as training
from septum_client.randomness import Source, system_source
from septum_client.site import Site

NAMELESS = "unknown"
"""The name in a refusal of a site that could not even open its directory."""


class SiteApp(ClientApp):
    """One hospital, or several simulated ones, behind Flower's message interface.

    Guarantees:
      - Whatever exception happens inside, the answer is a release or a closed
        code: its text never reaches Flower, which would send it on. Only what
        ends the process, such as an interrupt, passes.

    Args:
      locate: Gives the site directory for a Flower context. The context's run
        config is the coordinator's and must not be read here; its node config
        is local.
      source: Randomness; the bench alone passes another.
      train: Training; tests alone pass another.
      unsigned: Obey also a study that nobody signs; the bench and tests alone.
      clock: The time, in UTC; tests alone pass another.
    """

    def __init__(
        self,
        locate: Callable[[Context], Path],
        *,
        source: Source = system_source,
        train: gate.Trainer = training.train,
        unsigned: bool = False,
        clock: gate.Clock = gate.utc_now,
    ) -> None:
        super().__init__()
        self._locate = locate
        self._source = source
        self._train = train
        self._unsigned = unsigned
        self._clock = clock

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        site: Site | None = None
        answered = unread(message.metadata.message_id)
        try:
            site = Site.open(self._locate(context))
            if message.metadata.message_type != "train":
                raise Refusal(Code.MESSAGE_NOT_ALLOWED, "only training is answered.")
            instruction = decode_instruction(message.content)
            answered = instruction.digest
            order = orders.accept(site, instruction, now=self._clock(), unsigned=self._unsigned)
            release = gate.answer(
                site, instruction, source=self._source, train=self._train, clock=self._clock
            )
            content = encode_release(order.signed(release))
        except Exception as error:  # noqa: BLE001 - the wall: nothing passes but a code
            code = _public_code(error)
            if site is not None:
                with contextlib.suppress(Exception):  # a log that fails must not speak instead
                    site.log(code, error)
            content = encode_refusal(
                orders.declined(code, site=site, name=NAMELESS, instruction=answered)
            )
        return Message(content, reply_to=message)


def _public_code(error: Exception) -> Code:
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, WireError):
        return Code.FIELD_NOT_ALLOWED
    if isinstance(error, LedgerError):
        return Code.LEDGER_INVALID
    return Code.INTERNAL


def from_node_config(context: Context) -> Path:
    """Return the site directory that the hospital's own node config names under ``site``."""
    return Path(str(context.node_config["site"]))


app = SiteApp(from_node_config)
"""What a hospital's SuperNode runs: ``septum_client.app:app``."""
