"""Whose order a hospital obeys: its approved study's coordinator's, in time; and how it signs.

Nothing here believes Flower. Whoever delivered the message, whatever TLS and node
keys said of the connection: what counts is the coordinator's signature over
study, round, model and deadline, verified by the key in the study that this
hospital approved.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from septum.errors import Code, Refusal, SignatureError
from septum.signing import Purpose, SigningKey, verify
from septum.wire import Declined, Instruction, Release, payload_digest
from septum_client.site import Site

_SKEW_S: Final = 3600  # by which the clocks of a coordinator and a hospital may differ


@dataclass(frozen=True, kw_only=True)
class Order:
    """An instruction that this site obeys, and the key that signs the answer; None: unsigned."""

    instruction: Instruction
    key: SigningKey | None

    def signed(self, release: Release) -> Release:
        """Return ``release`` with the site's signature, where the study asks for one."""
        return release if self.key is None else release.signed(self.key)


def accept(site: Site, instruction: Instruction, *, now: datetime, unsigned: bool = False) -> Order:
    """Accept an instruction as the coordinator's, or refuse it before anything else is read.

    The same order may come again, after a crash of either side: the gate answers
    it with the same release. An old message that somebody kept is refused once
    its deadline is over.

    Args:
      site: The hospital.
      instruction: As it came over the wire.
      now: The time, in UTC.
      unsigned: Obey also a study that nobody signs. For the bench and for tests;
        no hospital's own process asks for it.

    Raises:
      Refusal: As :meth:`Site.approved`; with :attr:`Code.STUDY_SIGNATURE`,
        :attr:`Code.ORDER_SIGNATURE` or :attr:`Code.ORDER_LATE`; with
        :attr:`Code.MODEL_MISMATCH` for a first round that does not start from the
        weights that the study was approved with.
    """
    study = site.approved(instruction.study, today=now.date())
    if not study.coordinator:
        if unsigned:
            return Order(instruction=instruction, key=None)
        raise Refusal(
            Code.STUDY_SIGNATURE,
            "the approved study names no coordinator, so nobody can order its rounds.",
            remedy="Approve the study that the coordinator signed.",
        )
    try:
        verify(study.coordinator, Purpose.INSTRUCTION, instruction.statement, instruction.signature)
    except SignatureError as error:
        raise Refusal(
            Code.ORDER_SIGNATURE,
            f"round {instruction.round} was not ordered by the study's coordinator: "
            f"{error.message}",
            remedy="Tell the coordinator over another channel: somebody else speaks in its name, "
            "or its key was changed.",
        ) from None
    if now.timestamp() > instruction.deadline:
        last = datetime.fromtimestamp(instruction.deadline, tz=UTC)
        raise Refusal(
            Code.ORDER_LATE,
            f"round {instruction.round} was to be answered by {last.isoformat()}; "
            f"it is {now.isoformat(timespec='seconds')}.",
            remedy="Nothing, if the site was offline: the next round is asked anew. Else compare "
            "this machine's clock with another.",
        )
    latest = study.participation.deadline_s + _SKEW_S
    if instruction.deadline - now.timestamp() > latest:
        raise Refusal(
            Code.ORDER_LATE,
            f"round {instruction.round} may be answered for longer than the {latest} s that the "
            "study and two clocks leave: kept by somebody, it would hardly ever be late.",
            remedy="Compare this machine's clock with another; if it is right, tell the "
            "coordinator.",
        )
    # Later models are made of releases; the first is the one that a coordinator could craft.
    start = study.model.initial
    if instruction.round == 1 and start and payload_digest(instruction.model) != start:
        raise Refusal(
            Code.MODEL_MISMATCH,
            f"round 1 starts from another model than the approved one, {start[:12]}….",
            remedy="Ask the coordinator why; train nothing until it is explained.",
        )
    return Order(instruction=instruction, key=site.signing)


def declined(code: Code, *, site: Site | None, name: str, instruction: str) -> Declined:
    """Return the refusal to send: signed if the site's key can be read, else without.

    A site so broken that it cannot sign still says so; the coordinator then
    records that a refusal came, and believes nothing of it.

    Args:
      code: The closed code.
      site: The hospital, if its directory could be opened.
      name: What to call it if not.
      instruction: Digest of the order, or of its message (:func:`septum.wire.unread`).
    """
    said = Declined(code=code, site=site.name if site else name, instruction=instruction)
    if site is not None:
        # Whatever is wrong with the key, its text must not speak in place of the code.
        with contextlib.suppress(Exception):
            return said.signed(site.signing)
    return said
