"""FHIR Consent resources (R4, R4B, R5): what is not understood denies, and is counted.

A Consent is a tree. In R4 each provision says ``permit`` or ``deny``; in R5
each level is the opposite of the one above it (hl7.org/fhir/R5/consent.html).
Of a provision, ``type``, ``period``, ``purpose`` and nested provisions are
read. Any other condition, a modifier extension or a code from elsewhere makes
the whole Consent a denial: a permission under a condition that nobody checks
is no permission.

A permission must say that it is for research: by purpose (v3 ActReason), or by
the Consent's scope or category. A consent to treatment permits no training.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final, get_args

from pydantic import ValidationError

from septum.errors import DataError
from septum.study import PurposeOfUse
from septum_client.consent.decisions import ANY_RESEARCH, Record, Rule
from septum_client.consent.identity import Patients

_PURPOSES: Final = frozenset(get_args(PurposeOfUse))
_ACT_REASON: Final = frozenset(
    {
        "http://terminology.hl7.org/CodeSystem/v3-ActReason",
        "http://hl7.org/fhir/v3/ActReason",
        "urn:oid:2.16.840.1.113883.5.8",
    }
)
_RESEARCH: Final = frozenset(
    {
        ("http://terminology.hl7.org/CodeSystem/consentscope", "research"),
        ("http://terminology.hl7.org/CodeSystem/consentcategorycodes", "research"),
    }
)
_UNREAD: Final = (
    "action", "actor", "class_fhir", "code", "data", "dataPeriod", "documentType",
    "expression", "resourceType", "securityLabel",
)  # fmt: skip
# Elements that change the meaning of what is beside them: "must be understood" (FHIR 2.1.0.8).
_MODIFIERS: Final = frozenset({"modifierExtension", "implicitRules"})
# Tuples: what stands in their place in a malformed file may have no hash.
_NOT_IN_FORCE: Final = ("draft", "proposed", "inactive", "entered-in-error", "not-done")
_BUNDLES: Final = ("collection", "searchset", "batch", "transaction")
_DEEPEST: Final = 16


@dataclass(frozen=True, kw_only=True)
class Read:
    """The records of all FHIR files, and how many Consents deny as they were not understood."""

    records: tuple[Record, ...]
    not_understood: int


class _NotUnderstood(Exception):
    """Part of a Consent says something that is not evaluated here."""


def read(files: Sequence[bytes], *, pseudonym: Callable[[str], str]) -> Read:
    """Read all FHIR files of a register together: a Patient may be in another file.

    Args:
      files: JSON (one resource or one Bundle) or NDJSON each.
      pseudonym: From a Patient ID to its keyed pseudonym.

    Guarantees:
      - A Consent that is malformed, of unknown status or in two versions denies.

    Raises:
      DataError: A file is not FHIR, or a Consent does not say whose it is: it
        might be a denial, so that nothing can be permitted beside it.
    """
    found = [
        (f"resource {number} of FHIR file {index} by name", *pair)
        for index, content in enumerate(files, start=1)
        for number, pair in enumerate(_resources(content, index), start=1)
    ]
    patients = Patients.of((url, resource) for _, url, resource in found)
    versions: dict[str, set[str]] = {}
    for _, _, resource in found:
        if _is_consent(resource) and isinstance(resource.get("id"), str):
            versions.setdefault(resource["id"], set()).add(json.dumps(resource, sort_keys=True))
    records: list[Record] = []
    not_understood = 0
    for where, _, resource in found:
        if not _is_consent(resource) or resource.get("status") in _NOT_IN_FORCE:
            continue
        try:
            # An export that was left beside a newer one must not revive an old permission.
            if len(versions.get(str(resource.get("id")), ())) > 1:
                raise _NotUnderstood
            rule, dated = _meaning(resource)
            patient = patients.certain(resource) if rule.ever_permits() else None
            if rule.ever_permits() and patient is None:
                raise _NotUnderstood
        except (_NotUnderstood, ValidationError):
            rule, dated, patient = Rule(permits=False), None, None
            not_understood += 1
        ids = patients.possible(resource) if patient is None else (patient,)
        if not ids:
            raise DataError(
                f"{where} is a Consent that does not say whose it is.",
                remedy="Give subject (R4: patient) an identifier, or add the Patient it refers to.",
            )
        records += [Record(pseudonym=pseudonym(name), rule=rule, dated=dated) for name in ids]
    return Read(records=tuple(records), not_understood=not_understood)


def _is_consent(resource: dict[str, Any]) -> bool:
    return resource.get("resourceType") == "Consent"


def _meaning(resource: dict[str, Any]) -> tuple[Rule, date | None]:
    """Return the rule of an active Consent and the day it was given.

    Raises:
      _NotUnderstood: Something in it is not evaluated here.
      ValidationError: It is not of the standard's form.
    """
    if resource.get("status") != "active" or _modified(resource):
        raise _NotUnderstood
    # Here because they take 0.4 s to import and most sites keep no FHIR.
    from fhir.resources import consent as r5  # noqa: PLC0415 - see above
    from fhir.resources.R4B import consent as r4b  # noqa: PLC0415 - see above

    consent: Any
    if "patient" in resource and "subject" not in resource:
        consent = r4b.Consent.model_validate(resource)
        dated = _day(consent.dateTime)
        if consent.provision is None:
            raise _NotUnderstood
        inherited = _Inherited(
            since=dated, purposes=_general([consent.scope, *(consent.category or [])])
        )
        return _provision(consent.provision, inherited, permits=None), dated
    consent = r5.Consent.model_validate(resource)
    dated = _day(consent.date)
    if consent.decision not in {"permit", "deny"}:
        raise _NotUnderstood
    root = _Inherited(since=dated, purposes=_general(consent.category or []))
    root = root.within(consent.period)
    permits = consent.decision == "permit"
    if permits and root.purposes is None:
        raise _NotUnderstood
    rule = Rule(
        permits=permits,
        valid_from=root.since if permits else None,
        valid_until=root.until if permits else None,
        exceptions=tuple(
            _provision(part, root, permits=not permits) for part in consent.provision or []
        ),
    )
    return rule, dated


@dataclass(frozen=True, kw_only=True)
class _Inherited:
    """What the levels above set for a provision: its days, and its purposes if any was named."""

    since: date | None = None
    until: date | None = None
    purposes: frozenset[str] | None = None
    depth: int = 0

    def within(self, period: Any) -> "_Inherited":
        if period is None:
            return self
        starts = [day for day in (self.since, _full_day(period.start)) if day]
        ends = [day for day in (self.until, _full_day(period.end)) if day]
        return replace(self, since=max(starts, default=None), until=min(ends, default=None))

    def named(self, purposes: frozenset[str] | None) -> "_Inherited":
        if purposes is None:
            return self
        if self.purposes is None or ANY_RESEARCH in self.purposes:
            return replace(self, purposes=purposes)
        if ANY_RESEARCH in purposes:
            return self
        return replace(self, purposes=self.purposes & purposes)


def _provision(part: Any, above: _Inherited, *, permits: bool | None) -> Rule:
    """Return the rule of one provision; ``permits`` is ``None`` where it says so itself (R4)."""
    if above.depth >= _DEEPEST or any(getattr(part, name, None) for name in _UNREAD):
        raise _NotUnderstood
    said = permits
    if said is None:
        if part.type not in {"permit", "deny"}:
            raise _NotUnderstood
        said = part.type == "permit"
    own, all_known = _purposes(part.purpose)
    here = replace(above.within(part.period).named(own), depth=above.depth + 1)
    if said and here.purposes is None:
        raise _NotUnderstood
    below = None if permits is None else not permits
    return Rule(
        permits=said,
        purposes=here.purposes if said else (own if all_known else None),
        valid_from=here.since if said else None,
        valid_until=here.until if said else None,
        exceptions=tuple(
            _provision(nested, here, permits=below) for nested in part.provision or []
        ),
    )


def _purposes(codings: Any) -> tuple[frozenset[str] | None, bool]:
    """Return the research purposes named, ``None`` if none are, and whether all are known."""
    if not codings:
        return None, True
    known = [c.code for c in codings if c.system in _ACT_REASON and c.code in _PURPOSES]
    return frozenset(known), len(known) == len(codings)


def _general(concepts: Sequence[Any]) -> frozenset[str] | None:
    """Return that a Consent is for research at large, if its scope or a category says so."""
    said = {(c.system, c.code) for concept in concepts if concept for c in concept.coding or []}
    return frozenset({ANY_RESEARCH}) if said & _RESEARCH else None


def _modified(value: object) -> bool:
    if isinstance(value, dict):
        return bool(_MODIFIERS & value.keys()) or any(map(_modified, value.values()))
    return isinstance(value, list) and any(map(_modified, value))


def _day(value: object) -> date | None:
    """Return a day; ``None`` where only a year or month is known."""
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else None


def _full_day(value: object) -> date | None:
    day = _day(value)
    if value is not None and day is None:
        raise _NotUnderstood
    return day


def _resources(content: bytes, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (full URL or nothing, resource) of one file."""
    try:
        for whole in _parsed(content):
            if whole.get("resourceType") != "Bundle":
                yield "", whole
                continue
            if whole.get("type") not in _BUNDLES:
                raise TypeError
            for entry in whole.get("entry", []):
                if entry["resource"]["resourceType"] == "Bundle":
                    raise TypeError
                yield str(entry.get("fullUrl", "")), entry["resource"]
        return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    # Raised outside the handler: the original error quotes the file.
    raise DataError(
        f"FHIR file {index} by name is not a resource, a Bundle or NDJSON of either.",
        remedy="Export JSON, with Bundles of type collection or searchset.",
    )


def _parsed(content: bytes) -> list[dict[str, Any]]:
    text = content.decode("utf-8-sig")
    try:
        values = [json.loads(text)]
    except json.JSONDecodeError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    # An empty file is more likely cut off than a statement that nobody decided.
    if not values or not all(
        isinstance(value, dict) and "resourceType" in value for value in values
    ):
        raise TypeError
    return values
