"""Everything that leaves a hospital for a study: each destination, path, header and field.

The fields of a release and of a refusal are those of :mod:`septum.wire`, which
the gate and the wire enforce; the rest is what Flower 1.41 wraps around them.
A test captures what a real connection sends, subtracts this table, and nothing
may remain.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from septum.wire import MAX_PARAMETERS, METRICS, REFUSAL_FIELDS, RELEASE_FIELDS

_SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {"study": 64, "site": 63, "instruction": 64, "ledger_head": 64, "signature": 128, "code": 8}
)
_NUMBER: Final = 8
_FLOAT32: Final = 4

_NODE: Final = ("node.node_id",)
_METADATA: Final = tuple(
    f"messages_list.metadata.{name}"
    for name in (
        "run_id",
        "message_id",
        "src_node_id",
        "dst_node_id",
        "reply_to_message_id",
        "group_id",
        "ttl",
        "message_type",
        "created_at",
        "src_task_id",
        "dst_task_id",
    )
)

PATHS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "/v1/fleet/": (),  # once, from the pre-flight: whether the port answers
        "/v1/fleet/activate-node": ("public_key", "heartbeat_interval"),
        "/v1/fleet/deactivate-node": ("node_id",),
        "/v1/fleet/send-node-heartbeat": (*_NODE, "heartbeat_interval"),
        "/v1/fleet/pull-messages": _NODE,
        "/v1/fleet/push-messages": (
            *_NODE,
            *_METADATA,
            # Flower's own number alone: the text beside it is not sent (the site's guard).
            "messages_list.error.code",
            "message_object_trees.object_id",
            "message_object_trees.children.object_id",
            "clientapp_runtime_list",
        ),
        "/v1/fleet/push-object": (*_NODE, "run_id", "object_id", "object_content", "session_id"),
        "/v1/fleet/get-run": (*_NODE, "run_id"),
        "/v1/fleet/get-fab": (*_NODE, "run_id", "hash_str"),
        "/v1/fleet/pull-object": (*_NODE, "run_id", "object_id"),
        "/v1/fleet/confirm-message-received": (*_NODE, "run_id", "message_object_id"),
    }
)
"""Every path that a hospital's node asks, and every field of its request.

``object_content`` is a part of the message itself, and so of a release or a
refusal. Run and task numbers, hashes and sizes are Flower's; ``created_at`` and
``clientapp_runtime_list`` tell when a hospital answered, and after how long.
"""

HEADERS: Final = frozenset(
    {
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
        "content-type",
        "content-length",
        "flwr-public-key",
        "flwr-timestamp",
        "flwr-signature",
        "flwr-package-name",
        "flwr-package-version",
        "flwr-component-name",
    }
)
"""Every header of a request: HTTP's own, the node's signature over the time, Flower's version."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a message: in which record, of which type, and how many bytes at most."""

    record: str
    name: str
    kind: str
    most_bytes: int


def release_fields(
    *, metrics: Collection[str] = tuple(METRICS), parameters: int = MAX_PARAMETERS
) -> tuple[Field, ...]:
    """Return every field of a release.

    Args:
      metrics: Those that the site's policy lets out.
      parameters: Numbers of the network that are trained.
    """
    vector = Field(
        record="update", name="vector", kind="float32 vector", most_bytes=_FLOAT32 * parameters
    )
    allowed = {name: kind for name, kind in METRICS.items() if name in metrics}
    return (vector, *_fields("release", RELEASE_FIELDS), *_fields("metrics", allowed))


def refusal_fields() -> tuple[Field, ...]:
    """Return every field of a refusal."""
    return _fields("refusal", REFUSAL_FIELDS)


def manifest(
    *,
    address: str,
    metrics: Collection[str] = tuple(METRICS),
    parameters: int = MAX_PARAMETERS,
) -> dict[str, Any]:
    """Return the table as plain data, for JSON, a firewall's ticket or an auditor's script.

    Args:
      address: ``host:port`` of the coordinator: the one destination.
      metrics: Those that the site's policy lets out.
      parameters: Numbers of the network that are trained.
    """
    return {
        "format": 1,
        "destinations": [
            {
                "address": address,
                "direction": "outbound",
                "protocol": "HTTPS, TLS 1.2 or later, CA pinned at join",
                "method": "POST",
                "paths": {path: list(fields) for path, fields in PATHS.items()},
                "headers": sorted(HEADERS),
            }
        ],
        "messages": {
            "release": [
                asdict(each) for each in release_fields(metrics=metrics, parameters=parameters)
            ],
            "refusal": [asdict(each) for each in refusal_fields()],
        },
    }


def surplus(path: str, *, headers: Iterable[str], request: Any) -> list[str]:
    """Return what of one captured request the table does not name; empty if all is named.

    Args:
      path: Of the request.
      headers: Names of its headers.
      request: Its body as a protobuf message. What ``object_content`` holds is
        read by :mod:`septum.wire`, which is as strict.
    """
    if path not in PATHS:
        return [path]
    unnamed = {name.lower() for name in headers} - HEADERS
    fields = set(_paths(request)) - set(PATHS[path])
    known = type(request)()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    if known.ByteSize() != request.ByteSize():
        fields.add("fields without a name")
    return [f"{path} header {name}" for name in sorted(unnamed)] + [
        f"{path} {name}" for name in sorted(fields)
    ]


def _fields(record: str, table: Mapping[str, type]) -> tuple[Field, ...]:
    return tuple(
        Field(
            record=record,
            name=name,
            kind=kind.__name__,
            most_bytes=_SIZES[name] if kind is str else _NUMBER,
        )
        for name, kind in table.items()
    )


def _paths(message: Any, before: str = "") -> Iterable[str]:
    """Yield the dotted name of every field that is set; a tree's levels are one name."""
    for field, value in message.ListFields():
        name = f"{before}{field.name}"
        if field.message_type is None:
            yield name
            continue
        parts = value if hasattr(value, "__len__") else [value]
        for part in parts:
            prefix = before if before.endswith(f"{field.name}.") else f"{name}."
            yield from _paths(part, prefix)
