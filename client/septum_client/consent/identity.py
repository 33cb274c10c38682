"""Whose a FHIR Consent is: from its reference to the Patient ID that DICOM images carry."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from septum_client.pseudonyms import plain

_RECORD_NUMBER: Final = ("http://terminology.hl7.org/CodeSystem/v2-0203", "MR")

Identifiers = frozenset[tuple[str, bool]]
"""(value, whether it is typed as a medical record number) of one patient."""


@dataclass(frozen=True, kw_only=True)
class Patients:
    """The Patient resources of a register, by every name that a reference can use."""

    by_reference: Mapping[str, frozenset[Identifiers]] = field(repr=False)

    @staticmethod
    def of(resources: Iterable[tuple[str, dict[str, Any]]]) -> "Patients":
        """Return those among (full URL, resource)."""
        found: dict[str, set[Identifiers]] = {}
        for url, resource in resources:
            if resource.get("resourceType") != "Patient":
                continue
            identifiers = frozenset(_identifiers(resource.get("identifier")))
            for name in (url, f"Patient/{resource['id']}" if "id" in resource else ""):
                if name:
                    found.setdefault(name, set()).add(identifiers)
        return Patients(by_reference={name: frozenset(sets) for name, sets in found.items()})

    def certain(self, consent: Mapping[str, Any]) -> str | None:
        """Return the one Patient ID of a Consent; ``None`` where there could be two.

        It is the record number if the identifiers name exactly one, else the
        only identifier.
        """
        sets = list(self._sets(consent))
        values = {value for each in sets for value, _ in each}
        numbers = {value for each in sets for value, is_number in each if is_number}
        chosen = numbers or values
        return next(iter(chosen)) if len(chosen) == 1 else None

    def possible(self, consent: Mapping[str, Any]) -> tuple[str, ...]:
        """Return every identifier found for the patient of a Consent, sorted; maybe none."""
        return tuple(sorted({value for each in self._sets(consent) for value, _ in each}))

    def _sets(self, consent: Mapping[str, Any]) -> Iterator[Identifiers]:
        for who in (consent.get("subject"), consent.get("patient")):
            if not isinstance(who, dict):
                continue
            own = frozenset(_identifiers([who.get("identifier")]))
            if own:
                yield own
            name = who.get("reference")
            if isinstance(name, str) and name:
                yield from self.by_reference.get(name, ())


def _identifiers(stated: object) -> Iterator[tuple[str, bool]]:
    for each in stated if isinstance(stated, list) else []:
        value = each.get("value") if isinstance(each, dict) else None
        if isinstance(value, str) and plain(value):
            yield plain(value), _is_record_number(each.get("type"))


def _is_record_number(kind: object) -> bool:
    codings = kind.get("coding") if isinstance(kind, dict) else None
    return any(
        isinstance(coding, dict) and (coding.get("system"), coding.get("code")) == _RECORD_NUMBER
        for coding in (codings if isinstance(codings, list) else [])
    )
