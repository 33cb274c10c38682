"""Who takes part in a study, by which key, until when, and how many must answer."""

from datetime import date
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from septum import node_key
from septum.plain_text import PLAIN
from septum.training import Part

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

PublicKey = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
"""An Ed25519 public key, as 64 hex digits; empty in a study that nobody signs."""


def _whole_key(text: str) -> str:
    if text:
        node_key.parse(text)
    return text


WHOLE_KEY: Final = AfterValidator(_whole_key)
"""What the text of a node key must pass beyond its pattern."""

NodeKey = Annotated[
    str,
    Field(pattern=r"^(ecdsa-sha2-nistp384 [A-Za-z0-9+/]{100,300}={0,2})?$"),
    WHOLE_KEY,
]
"""An ECDSA P-384 public key in OpenSSH's form, without a comment; empty in a simulation."""


def _iso(text: str) -> str:
    if text and date.fromisoformat(text).isoformat() != text:
        raise ValueError("a date is written YYYY-MM-DD")
    return text


Day = Annotated[str, AfterValidator(_iso)]
"""A calendar day as YYYY-MM-DD; empty for none, because it must survive JSON and TOML alike."""


class Approval(Part):
    """An ethics committee's or an authority's approval of the study, on which consent rests.

    Args:
      number: As the body gave it.
      body: Who gave it.
      expires: Its last day, in UTC; empty if it has none.
    """

    number: Annotated[str, PLAIN] = Field(min_length=1, max_length=100)
    body: Annotated[str, PLAIN] = Field(min_length=1, max_length=200)
    expires: Day = ""


class Participant(Part):
    """A hospital of this study.

    ``patients`` is a public constant that the hospital declares once. It fixes
    the divisor and the weight; it is not updated when a patient comes or goes.
    ``key`` is what its approvals and releases are verified by, ``node_key`` what
    its connection is let in by.
    """

    name: Name
    patients: int = Field(gt=0)
    key: PublicKey = ""
    node_key: NodeKey = ""


class Participation(Part):
    """What happens to a round that not everybody answers. The quorum is the strategy's.

    Args:
      deadline_s: Seconds from a round's order to its last admitted answer. A site
        that trains longer is recorded as late, and its answer is not used.
      dropout: Below ``strategy.minimum_sites``, ``stop`` ends the run, to be
        resumed by a person; ``retry`` first asks again for the same round. A
        hospital answers a repeated order with the release it made: nobody is
        charged twice.
      retries: How many times ``retry`` asks again for one round.
    """

    deadline_s: int = Field(3600, ge=1, le=7 * 86_400)
    dropout: Literal["stop", "retry"] = "stop"
    retries: int = Field(3, ge=1, le=100)
