"""The tree of errors and their closed public codes.

::

    SeptumError
    ├── ConfigError        a study, policy or command line that cannot be used
    ├── DataError          a folder, table or image that cannot be used
    ├── Refusal            the site says no; only the code leaves the hospital
    │   ├── BudgetExceeded
    │   └── GateRefusal
    ├── WireError          a message that is not of the agreed form
    ├── AdmissionError     the coordinator does not accept a release
    ├── LedgerError        a chain that does not verify
    ├── SignatureError     a signature that is not of the key that should have made it
    ├── EngineError        a run that could not start, finish or resume
    └── Interrupted        a run that somebody stopped

Every message is one sentence with the value and the limit; ``remedy`` is the
next thing to do. Messages never carry a patient's identifier. Codes are the
only part of a :class:`Refusal` that crosses the wall (design rule 6); each one
is documented in ``docs/codes.md``, which a house test keeps complete.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import ValidationError


class Code(StrEnum):
    """The closed list of public codes: a site can tell a coordinator nothing else."""

    INTERNAL = "SITE_200"
    NO_POLICY = "SITE_201"
    UNKNOWN_STUDY = "SITE_202"
    STUDY_NOT_ALLOWED = "SITE_203"
    MODEL_NOT_ALLOWED = "SITE_230"
    TASK_NOT_ALLOWED = "SITE_231"
    PURPOSE_NOT_ALLOWED = "SITE_232"
    RECIPIENT_NOT_ALLOWED = "SITE_233"
    STUDY_INVALID = "SITE_234"
    STUDY_SIGNATURE = "SITE_235"
    STUDY_EXPIRED = "SITE_236"
    OTHER_COORDINATOR = "SITE_237"
    KEY_REVOKED = "SITE_238"
    OTHER_SITE_KEY = "SITE_239"
    ORDER_SIGNATURE = "SITE_240"
    ORDER_LATE = "SITE_241"
    BUNDLE_NOT_ALLOWED = "SITE_242"
    STILL_TRAINING = "SITE_243"
    NO_COHORT = "SITE_204"
    TOO_FEW_PATIENTS = "SITE_205"
    COHORT_MISMATCH = "SITE_206"
    COHORT_ALTERED = "SITE_209"
    COHORT_EXPIRED = "SITE_214"
    MESSAGE_NOT_ALLOWED = "SITE_207"
    MODEL_MISMATCH = "SITE_208"
    BUDGET_EXCEEDED = "SITE_210"
    ROUND_ALREADY_CHARGED = "SITE_211"
    ROUND_OUT_OF_RANGE = "SITE_212"
    LEDGER_INVALID = "SITE_213"
    UPDATE_NOT_FINITE = "SITE_220"
    UPDATE_NORM = "SITE_221"
    FIELD_NOT_ALLOWED = "SITE_222"
    UNKNOWN_LAYER = "SITE_223"


class Quarantine(StrEnum):
    """Why a file stayed out of a cohort. Counted on site; counts do not leave."""

    NOT_DICOM = "DATA_101"
    TRUNCATED = "DATA_102"
    NO_PIXELS = "DATA_103"
    CANNOT_DECODE = "DATA_104"
    COLOUR = "DATA_105"
    MULTI_FRAME = "DATA_106"
    TOO_LARGE = "DATA_107"
    NO_LABEL = "DATA_108"
    NO_PATIENT = "DATA_109"
    BAD_GEOMETRY = "DATA_110"
    DUPLICATE = "DATA_111"
    UNREADABLE = "DATA_112"
    BAD_VALUES = "DATA_113"
    BURNED_IN_TEXT = "DATA_114"
    SECONDARY_CAPTURE = "DATA_115"
    FACE = "DATA_116"
    NO_CONSENT = "DATA_117"
    IDENTIFIER_LEFT = "DATA_118"
    SYNTHETIC = "DATA_119"
    NOT_AN_IMAGE = "DATA_120"
    LOCALISER = "DATA_121"
    EXPANDS = "DATA_122"
    WORKER_STOPPED = "DATA_123"
    UNEVEN_SPACING = "DATA_124"
    BAD_ARCHIVE = "DATA_125"
    REVIEWED_OUT = "DATA_126"
    NO_MASK = "DATA_127"
    MASK_GEOMETRY = "DATA_128"
    UNKNOWN_SEGMENT = "DATA_129"
    OUT_OF_RANGE = "DATA_130"


class SeptumError(Exception):
    """An error with one clear sentence and its remedy.

    Args:
      message: What is wrong, with the value and the limit.
      remedy: What to do next, as one imperative sentence; may be empty.

    >>> str(SeptumError("epsilon is -1 and must be above 0.", remedy="Choose 1 to 8."))
    'epsilon is -1 and must be above 0. Choose 1 to 8.'
    """

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())

    def __reduce__(self) -> tuple[object, ...]:
        # Engines carry errors between processes; keyword-only arguments need telling how.
        return (_rebuild, (type(self), self.__dict__ | {"args": self.args}))


class ConfigError(SeptumError):
    """A study, policy, site or command line that cannot be used; names the key."""

    exit_code = 2


class DataError(SeptumError):
    """A folder, table or image that cannot be used; nothing was half-written."""

    exit_code = 3


class Refusal(SeptumError):
    """The site says no. Only :attr:`code` may leave the hospital."""

    exit_code = 4

    def __init__(self, code: Code, message: str, *, remedy: str = "") -> None:
        self.code: Final = code
        super().__init__(message, remedy=remedy)


class BudgetExceeded(Refusal):
    """The round would pass the privacy budget; nothing was charged or trained."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(Code.BUDGET_EXCEEDED, message, remedy=remedy)


class GateRefusal(Refusal):
    """The gate found something in an update that may not leave."""


class WireError(SeptumError):
    """A message that is not of the agreed form: a name, type, shape or size is off."""

    exit_code = 5


class AdmissionError(SeptumError):
    """The coordinator does not accept a release; the round record says why."""

    exit_code = 5


class LedgerError(SeptumError):
    """A ledger whose chain does not verify; nothing is charged on top of it."""

    exit_code = 6


class SignatureError(SeptumError):
    """A signature that is not of the key that should have made it, over these very values."""

    exit_code = 9


class EngineError(SeptumError):
    """A run that could not start, finish or resume."""

    exit_code = 7


class Interrupted(SeptumError):
    """Somebody stopped the run; what was finished is kept."""

    exit_code = 130


def explain(error: "ValidationError") -> str:
    """Return the first finding of a validation as ``key: reason``."""
    first: Any = error.errors(include_url=False, include_input=True)[0]
    key = ".".join(str(part) for part in first["loc"]) or "file"
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if first["type"] == "missing":
        return f"{key} is missing"
    value = first.get("input")
    shown = f" (got {value!r})" if isinstance(value, int | float | str | bool) else ""
    return f"{key}: {first['msg']}{shown}"


def _rebuild(kind: type[SeptumError], state: dict[str, object]) -> SeptumError:
    error = kind.__new__(kind)
    error.__dict__.update({key: value for key, value in state.items() if key != "args"})
    error.args = state["args"]  # type: ignore[assignment]
    return error
