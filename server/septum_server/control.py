"""Flower's Control API, as Septum's commands call it and as the operators' desk looks into it."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    StopRunResponse,
    UnregisterNodeRequest,
    UnregisterNodeResponse,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from google.protobuf.message import DecodeError, Message

from septum.errors import ConfigError, EngineError
from septum.fab import STUDY_KEY, fab, fab_digest
from septum_server.node_keys import openssh_of, pem_of

_MEDIA: Final = "application/protobuf"
_GONE: Final = "unregistered"
_ENDED: Final = "finished"
_REMEDIES: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "Set SEPTUM_TOKEN to an operator's token, or run it as the server's own user.",
        403: "Ask an operator with a greater role; `septum server operators` shows them.",
        502: "Wait until the SuperLink is up again, and see logs/superlink.log.",
    }
)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A registered SuperNode.

    ``key`` is its public key in OpenSSH's form, without a comment.
    """

    number: int
    name: str
    key: str
    online: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of Flower's.

    ``status`` is ``pending``, ``starting``, ``running`` or ``finished:`` with how.
    """

    number: int
    study: str
    status: str
    details: str

    @property
    def ended(self) -> bool:
        """Whether it is over, however it ended."""
        return self.status.startswith(_ENDED)


class Control:
    """A client of the operators' port, to be used with ``with``.

    Args:
      port: The port, on the loopback interface.
      ca: Path of the CA that signed its certificate.
      token: The operator's.

    Raises:
      EngineError: In each call: nothing answers, or the call was refused.
    """

    def __init__(self, port: int, *, ca: str, token: str) -> None:
        context = ssl.create_default_context(cafile=ca)
        self._client = httpx.Client(
            base_url=f"https://127.0.0.1:{port}/v1/control/",
            verify=context,
            trust_env=False,
            timeout=30.0,
            headers={"authorization": f"Bearer {token}", "content-type": _MEDIA, "accept": _MEDIA},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def nodes(self) -> list[Node]:
        """Return the registered SuperNodes."""
        told = ListNodesResponse()
        self._call("list-nodes", ListNodesRequest(), told)
        return [
            Node(
                number=node.node_id,
                name=node.name,
                key=openssh_of(node.public_key),
                online=node.status == "online",
            )
            for node in told.nodes_info
            if node.status != _GONE
        ]

    def register(self, *, name: str, key: str) -> int:
        """Let the SuperNode with this public key in, and return its number."""
        told = RegisterNodeResponse()
        self._call("register-node", RegisterNodeRequest(public_key=pem_of(key), name=name), told)
        return told.node_id

    def unregister(self, number: int) -> None:
        """Let a SuperNode in no longer."""
        self._call(
            "unregister-node", UnregisterNodeRequest(node_id=number), UnregisterNodeResponse()
        )

    def start(self, study: str) -> int:
        """Start a run of the study with this digest, and return the run's number."""
        told = StartRunResponse()
        asked = StartRunRequest(
            fab=Fab(hash_str=fab_digest(), content=fab()),
            override_config={STUDY_KEY: Scalar(string=study)},
        )
        self._call("start-run", asked, told)
        if not told.run_id:
            raise EngineError("the SuperLink did not start the run.", remedy="See its log.")
        return told.run_id

    def stop(self, number: int) -> None:
        """Stop a run; the hospitals finish the message that they work on."""
        self._call("stop-run", StopRunRequest(run_id=number), StopRunResponse())

    def runs(self, study: str | None = None) -> list[Run]:
        """Return the latest runs, newest first; of one study if it is named."""
        told = ListRunsResponse()
        self._call("list-runs", ListRunsRequest(limit=200), told)
        found = [_run(run) for _, run in sorted(told.run_dict.items(), key=_began, reverse=True)]
        return [run for run in found if study in {None, run.study}]

    def _call(self, name: str, asked: Message, told: Message) -> None:
        try:
            answer = self._client.post(name, content=asked.SerializeToString(deterministic=True))
        except httpx.HTTPError as error:
            raise EngineError(
                f"the server does not answer ({type(error).__name__}).",
                remedy="Start it with `septum server up`, or wait until it is up.",
            ) from None
        if answer.status_code != httpx.codes.OK:
            raise EngineError(
                f"the server refused {name} ({answer.status_code}: {_said(answer)}).",
                remedy=_REMEDIES.get(answer.status_code, "See logs/superlink.log."),
            )
        try:
            told.ParseFromString(answer.content)
        except DecodeError:
            raise EngineError(f"the server's answer to {name} cannot be read.") from None


def look_into(call: str, body: bytes) -> str:
    """Return what the audit says of a call.

    Raises:
      ConfigError: It starts anything but Septum's bundle on one study, with no
        other setting; or it cannot be read.
    """
    if call != "start-run":
        return ""
    try:
        asked = StartRunRequest.FromString(body)
    except DecodeError:
        raise ConfigError("the call cannot be read.") from None
    settings: dict[str, str] = {key: value.string for key, value in asked.override_config.items()}
    ours = StartRunRequest(
        fab=Fab(hash_str=fab_digest(), content=fab()),
        override_config={STUDY_KEY: Scalar(string=settings.get(STUDY_KEY, ""))},
    )
    if asked != ours:
        raise ConfigError("the run is not of Septum's own bundle on one study.")
    return settings[STUDY_KEY]


def _run(run: Any) -> Run:
    status = run.status.status
    if status == _ENDED:
        status = f"{_ENDED}:{run.status.sub_status}"
    return Run(
        number=run.run_id,
        study=run.override_config[STUDY_KEY].string if STUDY_KEY in run.override_config else "",
        status=status,
        details=run.status.details,
    )


def _began(item: tuple[int, Any]) -> str:
    return str(item[1].pending_at)


def _said(answer: httpx.Response) -> str:
    try:
        detail = answer.json()
    except ValueError:
        return "no reason given"
    said = detail.get("detail") or detail.get("message") if isinstance(detail, dict) else None
    return str(said or detail)[:300]
