"""What a record of consent says about one use of one patient's images. Pure: no file, no clock.

Purposes are codes of HL7 v3 PurposeOfUse; HRESCH (research) is the parent of
the other five. Everything that cannot be told is read to the patient's favour:

- a permission covers what it names, from its first day to its last;
- a denial covers what it names and every wider purpose, from the moment it is
  on record (a hospital's clock is not ours) until a later permission;
- an undated denial is later than everything, an undated permission earlier.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum
from typing import Final, Literal

Basis = Literal["opt-in", "opt-out", "waived"]

ANY_RESEARCH: Final = "HRESCH"


class Declared(IntEnum):
    """What a patient's images say themselves (DICOM PS3.3 C.7.2.3.1, (0012,0083))."""

    NOTHING = 0
    PERMITTED = 1
    DENIED = 2


@dataclass(frozen=True, kw_only=True)
class Use:
    """What somebody wants to do with images.

    Args:
      names: Name and digest of the study: a record may name either.
      purpose: One of the six codes.
      commercial: Whether somebody intends to earn money with the model.
      today: The day of the round.
    """

    names: frozenset[str]
    purpose: str
    commercial: bool
    today: date


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One permission or denial, with its exceptions; ``None`` means without limit.

    Args:
      permits: Whether it permits what it covers.
      purposes: Purposes it covers.
      studies: Names or digests of the studies it covers.
      valid_from: First day of a permission.
      valid_until: Last day of a permission.
      commercial: Whether a permission covers commercial use; ``None`` if it does
        not say, which permits none.
      exceptions: Rules that take this one's place where they cover the use.
    """

    permits: bool
    purposes: frozenset[str] | None = None
    studies: frozenset[str] | None = None
    valid_from: date | None = None
    valid_until: date | None = None
    commercial: bool | None = None
    exceptions: tuple["Rule", ...] = ()

    def verdict(self, use: Use) -> bool | None:
        """Return whether ``use`` is permitted; ``None`` if this rule does not cover it."""
        if not (self._permission_covers(use) if self.permits else self._denial_covers(use)):
            return None
        said = [verdict for rule in self.exceptions if (verdict := rule.verdict(use)) is not None]
        return all(said) if said else self.permits

    def ever_permits(self) -> bool:
        """Return whether the rule or any exception is a permission."""
        return self.permits or any(rule.ever_permits() for rule in self.exceptions)

    def names(self) -> frozenset[str]:
        """Return every study that the rule or an exception names."""
        return (self.studies or frozenset()).union(*(rule.names() for rule in self.exceptions))

    def _permission_covers(self, use: Use) -> bool:
        return (
            (self.purposes is None or bool(self.purposes & {use.purpose, ANY_RESEARCH}))
            and (self.studies is None or bool(self.studies & use.names))
            and (self.valid_from or date.min) <= use.today <= (self.valid_until or date.max)
            and (self.commercial is True or not use.commercial)
        )

    def _denial_covers(self, use: Use) -> bool:
        # A study for research at large may do what one who denied a part of it denied.
        wide = use.purpose == ANY_RESEARCH
        return (
            self.purposes is None or wide or bool(self.purposes & {use.purpose, ANY_RESEARCH})
        ) and (self.studies is None or bool(self.studies & use.names))


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one source says of one patient.

    ``dated`` is the day the patient decided; ``pseudonym`` is keyed by the site.
    """

    pseudonym: str = field(repr=False)
    rule: Rule
    dated: date | None = None


def permits(records: Collection[Record], use: Use, *, basis: Basis, declared: int) -> bool:
    """Return whether one patient's records permit ``use``.

    Args:
      records: Everything on record about this patient, from all sources.
      use: What is asked.
      basis: ``opt-in``: somebody must have permitted it. ``opt-out``: nobody must
        have denied or limited it. ``waived``: nobody must have denied it.
      declared: A :class:`Declared`. A denial in the images always holds; a
        permission counts under ``opt-in`` alone, for use that is not commercial,
        and only where no record says anything about the patient.

    Guarantees:
      - The order of ``records`` never changes the result.
      - A denial beats every permission that is not strictly later dated.
      - Under ``opt-in``, no record and no declaration means no.
    """
    if declared not in {Declared.NOTHING, Declared.PERMITTED}:
        return False
    verdicts = [(record.dated, record.rule.verdict(use)) for record in records]
    denied = [dated or date.max for dated, verdict in verdicts if verdict is False]
    permitted = [dated or date.min for dated, verdict in verdicts if verdict is True]
    if denied:
        return bool(permitted) and max(permitted) > max(denied)
    if permitted or basis == "waived":
        return True
    if any(record.rule.ever_permits() for record in records):
        return False  # whoever permitted this much did not permit more
    if basis == "opt-out":
        return True
    return declared == Declared.PERMITTED and not records and not use.commercial


def canonical(records: Iterable[Record]) -> Iterator[str]:
    """Yield one line per distinct record, in an order that the source's does not move."""
    yield from sorted(
        {f"{record.pseudonym} {record.dated} {_text(record.rule)}" for record in records}
    )


def _text(rule: Rule) -> str:
    parts: list[object] = [rule.permits]
    parts += [None if names is None else sorted(names) for names in (rule.purposes, rule.studies)]
    parts += [str(rule.valid_from), str(rule.valid_until), rule.commercial]
    return f"{parts!r}({','.join(sorted(map(_text, rule.exceptions)))})"
