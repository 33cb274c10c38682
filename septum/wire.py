"""What crosses the wall, and its form in Flower's records.

Two kinds of message exist. An :class:`Instruction` names a study, a round and
carries the global model; it holds no privacy parameter (design rule 2). A
:class:`Release` is what a hospital's gate let out; a hospital that does not
release answers with a closed code (:class:`Declined`) and nothing else. Each
carries its sender's signature over its ``statement``, so that neither is
believed for the connection it came through. The tables below are the
allow-list: a name, type, shape or size that is not in them is not sent and
not read.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from septum.errors import Code, WireError
from septum.signing import Purpose, SigningKey, Value

if TYPE_CHECKING:
    from septum.models import Vector  # imports torch, of which a message needs nothing

MAX_PARAMETERS: Final = 200_000_000

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"([0-9a-f]{128})?")  # none in a study that nobody signs
_SITE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

INSTRUCTION_FIELDS: Final[Mapping[str, type]] = MappingProxyType(
    {"study": str, "round": int, "deadline": int, "signature": str}
)
RELEASE_FIELDS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "study": str,
        "site": str,
        "round": int,
        "instruction": str,
        "noise_multiplier": float,
        "max_grad_norm": float,
        "ledger_head": str,
        "signature": str,
    }
)
REFUSAL_FIELDS: Final[Mapping[str, type]] = MappingProxyType(
    {"code": str, "site": str, "instruction": str, "signature": str}
)
METRICS: Final[Mapping[str, type]] = MappingProxyType({"steps": int, "update_norm": float})
"""Every metric that a policy may let out.

Both are functions of public constants or of the release itself, so they cost
no privacy. Losses, accuracies and patient counts are not here: they would be
statistics of patients outside the guarantee.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruction:
    """One round's order: study digest, round number (from 1) and global model, shape (params,).

    ``deadline`` is the last moment of an answer, in Unix seconds; ``signature``
    is the coordinator's.
    """

    study: str
    round: int
    model: "Vector"
    deadline: int = 0
    signature: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over study, round and model: what a release says it answers.

        Not over the deadline: an order repeated after a crash is the same order.
        """
        made = hashlib.sha256(f"{self.study}\n{self.round}\n".encode())
        made.update(np.ascontiguousarray(self.model).data)
        return made.hexdigest()

    @property
    def statement(self) -> dict[str, Value]:
        """What the coordinator signs."""
        said: dict[str, Value] = {"study": self.study, "round": self.round}
        return said | {"model": payload_digest(self.model), "deadline": self.deadline}

    def signed(self, key: SigningKey) -> "Instruction":
        """Return this order with the signature of ``key``."""
        return replace(self, signature=key.sign(Purpose.INSTRUCTION, self.statement))


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """What one hospital lets out for one round.

    ``update`` is float32 of shape (params,), already clipped and noised by the
    hospital; ``noise_multiplier`` and ``max_grad_norm`` are public constants
    of its mechanism; ``ledger_head`` fixes its ledger at this release;
    ``signature`` is the hospital's.
    """

    study: str
    site: str
    round: int
    instruction: str
    noise_multiplier: float
    max_grad_norm: float
    ledger_head: str
    update: "Vector"
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    signature: str = ""

    @property
    def statement(self) -> dict[str, Value]:
        """What the hospital signs: everything that leaves, the vector by its digest."""
        said = {name: getattr(self, name) for name in RELEASE_FIELDS if name != "signature"}
        metrics = {f"metric_{name}": value for name, value in self.metrics.items()}
        return said | metrics | {"payload": payload_digest(self.update)}

    def signed(self, key: SigningKey) -> "Release":
        """Return this release with the signature of ``key``."""
        return replace(self, signature=key.sign(Purpose.RELEASE, self.statement))


@dataclass(frozen=True, kw_only=True)
class Declined:
    """What a hospital says instead of a release: one closed code, and to what.

    ``instruction`` is the digest of the order that it answers, which fixes study
    and round; of one that could not be read, :func:`unread` of its message.
    """

    code: Code
    site: str
    instruction: str
    signature: str = ""

    @property
    def statement(self) -> dict[str, Value]:
        """What the hospital signs."""
        return {"code": self.code.value, "site": self.site, "instruction": self.instruction}

    def signed(self, key: SigningKey) -> "Declined":
        """Return this refusal with the signature of ``key``."""
        return replace(self, signature=key.sign(Purpose.REFUSAL, self.statement))


def unread(message: str) -> str:
    """Return what a refusal answers where no order could be read: of that message alone."""
    return hashlib.sha256(f"message\n{message}".encode()).hexdigest()


def payload_digest(update: "Vector") -> str:
    """Return the SHA-256 of a release's vector: what a ledger says left the site."""
    return hashlib.sha256(np.ascontiguousarray(update).data).hexdigest()


def encode_instruction(instruction: Instruction) -> RecordDict:
    """Return the Flower form of ``instruction``."""
    fields = {name: getattr(instruction, name) for name in INSTRUCTION_FIELDS}
    return RecordDict(
        {"model": _vector_record(instruction.model), "instruction": ConfigRecord(fields)}
    )


def decode_instruction(content: RecordDict) -> Instruction:
    """Read an instruction.

    Raises:
      WireError: Any record, name, type, shape or size outside the tables.
    """
    _exactly(content, {"model", "instruction"})
    fields = _fields(content, "instruction", INSTRUCTION_FIELDS)
    _matches(_HEX, fields, "study")
    _matches(_SIGNATURE, fields, "signature")
    if fields["round"] < 1:
        raise WireError(f"round is {fields['round']} and must be at least 1.")
    if fields["deadline"] < 0:
        raise WireError(f"deadline is {fields['deadline']} and must be at least 0.")
    # A copy, which training may write to.
    return Instruction(**fields, model=np.array(_vector(content, "model")))


def encode_release(release: Release) -> RecordDict:
    """Return the Flower form of ``release``: the tables' fields, one vector, nothing more."""
    fields = {name: getattr(release, name) for name in RELEASE_FIELDS}
    return RecordDict(
        {
            "update": _vector_record(release.update),
            "release": ConfigRecord(fields),
            "metrics": ConfigRecord(dict(release.metrics)),
        }
    )


def decode_release(content: RecordDict) -> Release:
    """Read a release; the counterpart of :func:`encode_release`. Its update is read-only.

    Raises:
      WireError: Any record, name, type, shape or size outside the tables, or a
        number that is not finite. Values of the update are admission's concern.
    """
    _exactly(content, {"update", "release", "metrics"})
    fields = _fields(content, "release", RELEASE_FIELDS)
    for name in ("study", "instruction", "ledger_head"):
        _matches(_HEX, fields, name)
    _matches(_SITE, fields, "site")
    _matches(_SIGNATURE, fields, "signature")
    sent: Mapping[str, object] = content.config_records.get("metrics", {})
    metrics = _fields(
        content, "metrics", {name: kind for name, kind in METRICS.items() if name in sent}
    )
    return Release(**fields, metrics=metrics, update=_vector(content, "update"))


def encode_refusal(declined: Declined) -> RecordDict:
    """Return the Flower form of a refusal: its four fields, nothing more."""
    fields = {name: str(getattr(declined, name)) for name in REFUSAL_FIELDS}
    return RecordDict({"refusal": ConfigRecord(dict(fields))})


def decode_refusal(content: RecordDict) -> Declined | None:
    """Return the refusal, or ``None`` if ``content`` is not one.

    Raises:
      WireError: It says anything but a known code, a site's name, a digest and a signature.
    """
    if "refusal" not in content:
        return None
    _exactly(content, {"refusal"})
    fields = _fields(content, "refusal", REFUSAL_FIELDS)
    _matches(_SITE, fields, "site")
    _matches(_SIGNATURE, fields, "signature")
    _matches(_HEX, fields, "instruction")
    if fields["code"] not in set(Code):
        raise WireError("a refusal carries a code that is not in the closed list.")
    return Declined(**(fields | {"code": Code(fields["code"])}))


def _vector_record(vector: "Vector") -> ArrayRecord:
    return ArrayRecord({"vector": Array(np.ascontiguousarray(vector, dtype=np.float32))})


def _vector(content: RecordDict, name: str) -> "Vector":
    if name not in content.array_records:
        raise WireError(f"record {name!r} is not an array record.")
    record = content.array_records[name]
    _exactly(record, {"vector"})
    array = record["vector"]
    if array.dtype != "float32" or len(array.shape) != 1 or array.stype != "numpy.ndarray":
        raise WireError(f"{name} is not one float32 vector.")
    count = array.shape[0]
    if not 0 < count <= MAX_PARAMETERS:
        raise WireError(f"{name} declares {count} values; the limit is {MAX_PARAMETERS}.")
    # Not numpy.load: it also opens zip archives, and allocates whatever a header asks for.
    stored = io.BytesIO(array.data)
    try:
        whole = np.lib.format.read_magic(stored) == (1, 0)
        declared = np.lib.format.read_array_header_1_0(stored)
    except Exception:  # noqa: BLE001 - numpy parses the header as Python and raises many kinds
        raise WireError(f"{name} cannot be parsed as one array.") from None
    # Sizes are compared before anything is allocated.
    size = len(array.data) - stored.tell()
    if not whole or declared != ((count,), False, np.dtype("<f4")) or size != 4 * count:
        raise WireError(f"{name} is not the array that its header declares.")
    read = np.frombuffer(array.data, dtype="<f4", offset=stored.tell())
    return read.astype(np.float32, copy=False)


def _exactly(record: Mapping[str, object], names: set[str]) -> None:
    if set(record) != names:
        # Foreign names are counted, not quoted: they are the sender's text.
        missing, extra = sorted(names - set(record)), len(set(record) - names)
        raise WireError(f"a message lacks {missing} and holds {extra} unknown names.")


def _fields(content: RecordDict, name: str, table: Mapping[str, type]) -> dict[str, Any]:
    if name not in content.config_records:
        raise WireError(f"record {name!r} is not a config record.")
    record = content.config_records[name]
    _exactly(record, set(table))
    for key, kind in table.items():
        value = record[key]
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise WireError(f"{name}.{key} must be a finite {kind.__name__}.")
    return dict(record)


def _matches(pattern: re.Pattern[str], fields: Mapping[str, object], name: str) -> None:
    if not pattern.fullmatch(str(fields[name])):
        raise WireError(f"{name} is not of the agreed form.")
