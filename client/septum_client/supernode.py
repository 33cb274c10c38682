"""Flower's SuperNode, held to the one address that it was given, through any outage.

Run as ``python -P -m septum_client.supernode`` with Flower's own arguments.
"""

import os
import time
from logging import WARNING
from typing import Any, Final

import httpx
from flwr.common.constant import Status
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.task_pb2 import Task
from flwr.supercore import log
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

_UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
_PATIENCE: Final = 0.1  # of the time since the last order, added to Flower's three seconds
_LONGEST_S: Final = 7.0
_ANSWER_S: Final = 120.0
_CONNECT_S: Final = 30.0
_STILL_THERE: Final = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
# A SuperNode that was killed counts as connected for 60 s at most.
_FORGOTTEN_S: Final = 90.0
_AGAIN_S: Final = 5.0


class Held(FleetHttpClient):
    """Flower's connection to the coordinator, without what a hospital does not want of it.

    Guarantees:
      - No redirect is followed. Flower follows them, over plain HTTP as well, so
        whoever answers at the one address could send the hospital anywhere.
      - The seconds that training took, which depend on the cohort, are sent as 0.
      - The longer no order has come, the more seldom the coordinator is asked for one:
        every ten seconds in the end, not every three, so that it bears three times as
        many hospitals.
      - An answer waits for the network to come back. Flower takes a handshake that
        times out for a wrong certificate, and drops what it was about to send.
      - After a crash it asks until Flower takes its predecessor for gone. Flower ends at the
        first refusal, and each start is seconds of imports.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._client.follow_redirects = False
        # Flower gives up after 30 s; an order whose delivery is given up is not delivered again.
        self._client.timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        self._last = time.monotonic()

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802 - Flower's name
        """Ask to be let in, again and again while the SuperNode before this one still counts."""
        began = time.monotonic()
        while True:
            try:
                return super().ActivateNode(request)
            except httpx.HTTPStatusError as error:
                told = FlowerError.from_json(error.response.text)
                if told is None or told.code != _STILL_THERE:
                    raise
                if time.monotonic() - began > _FORGOTTEN_S:
                    raise
            # In Flower's own form, which `septum site up` looks for.
            log(WARNING, "[code: %d] %s Asking again in %g s.", told.code, told.message, _AGAIN_S)
            time.sleep(_AGAIN_S)

    def PullMessages(self, request: PullMessagesRequest) -> PullMessagesResponse:  # noqa: N802 - Flower's name
        """Ask for an order; where there is none, wait before Flower asks again."""
        answer = super().PullMessages(request)
        if answer.messages_list:
            self._last = time.monotonic()
        else:
            time.sleep(min(_LONGEST_S, _PATIENCE * (time.monotonic() - self._last)))
        return answer

    def PushMessages(self, request: PushMessagesRequest) -> PushMessagesResponse:  # noqa: N802 - Flower's name
        """Send answers without their durations."""
        told = len(request.clientapp_runtime_list)
        del request.clientapp_runtime_list[:]
        request.clientapp_runtime_list.extend([0.0] * told)
        return super().PushMessages(request)

    def _send(self, context: Any, *, stream: bool = False) -> httpx.Response:
        try:
            return super()._send(context, stream=stream)
        except httpx.TransportError as error:
            if _UNTRUSTED in str(error):
                raise
            # By its kind Flower tries again; by a text that speaks of TLS it would not.
            raise type(error)("the connection failed") from None


class State(InMemoryNodeState):
    """Flower's list of the orders that have come, which loses none that nobody read.

    Guarantees:
      - An order whose process ended before it had read it is answered with Flower's error
        for such an end, and asked again. Flower answers so for orders that were read, and
        would keep any other until its SuperNode ends.
    """

    def _on_task_tokens_expired(self, tasks: list[Task]) -> None:
        runs = {task.run_id for task in tasks}
        with self.lock_msg_store:
            unread = [
                entry
                for entry in self.msg_store.values()
                if entry.message.metadata.run_id in runs
                and not entry.is_retrieved
                and not entry.message.metadata.reply_to_message_id
            ]
            # The last of them have tasks that wait, which will read them.
            waiting = sum(
                task.run_id in runs and task.status.status in {Status.PENDING, Status.STARTING}
                for task in self.task_store.values()
            )
            for entry in unread[: max(0, len(unread) - waiting)]:
                entry.is_retrieved = True
                self.record_message_processing_start(entry.message.metadata.message_id)
        super()._on_task_tokens_expired(tasks)


def main() -> None:
    """Run the SuperNode until it is ended, or its connection has failed for good."""
    # Names of their modules, looked up when connection and list are made.
    fleet_http_connection.__dict__["FleetHttpClient"] = Held
    nodestate_factory.__dict__["InMemoryNodeState"] = State
    flower_supernode()
    # Flower returns here without a word, and a thread of its own would keep the process: alive,
    # connected to nobody. Whoever supervises must see that it ended.
    os._exit(1)


if __name__ == "__main__":
    main()
