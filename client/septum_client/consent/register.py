"""The register: every record of consent that a site keeps, read anew whenever it is asked.

``<site>/consent/`` holds CSV registers (``*.csv``), FHIR (``*.json``,
``*.ndjson``), ``withdrawn/``, one file per patient whom `septum site
withdraw` withdrew, and ``denied/``, likewise for patients whose images that a
PACS sent said no. Replace a file by renaming a complete one over it: half a
list of denials denies half.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args

from septum.durable import replace
from septum.errors import DataError
from septum.study import PurposeOfUse
from septum_client import pseudonyms
from septum_client.consent import decisions, fhir, table
from septum_client.consent.decisions import Basis, Declared, Record, Use

FOLDER: Final = "consent"
WITHDRAWN: Final = "withdrawn"
DENIED: Final = "denied"
MAX_BYTES: Final = 256 * 2**20

_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")
_TABLES: Final = frozenset({".csv"})
_FHIR: Final = frozenset({".json", ".ndjson"})


@dataclass(frozen=True, kw_only=True)
class Register:
    """What patients of this site decided, by pseudonym; identifiers are not kept.

    Args:
      records: Each patient's records.
      withdrawn: Patients who were withdrawn here, whatever else is on record.
      denied: Patients of whom an image said no that was not kept.
      sources: How many files of record there are. None is not an empty list:
        without a register, only ``waived`` permits anybody.
      not_understood: FHIR Consents that deny because they were not understood.
      digest: SHA-256 over what the register says; the order of rows and files
        does not move it.
    """

    records: Mapping[str, tuple[Record, ...]] = field(repr=False)
    withdrawn: frozenset[str] = field(repr=False)
    denied: frozenset[str] = field(repr=False)
    sources: int
    not_understood: int
    digest: str

    @staticmethod
    def load(folder: Path, key: bytes) -> "Register":
        """Read ``folder``, which may be absent.

        Raises:
          DataError: A file cannot be read or understood as a whole. Nobody is
            permitted by the rest: what is missing may be a denial.
        """
        files = {suffixes: _contents(folder, suffixes) for suffixes in (_TABLES, _FHIR)}
        _require_known(folder)

        def pseudonym(patient_id: str) -> str:
            return pseudonyms.pseudonym(key, patient_id)

        found = [
            record
            for content in files[_TABLES]
            for record in table.read(content, pseudonym=pseudonym)
        ]
        resources = fhir.read(files[_FHIR], pseudonym=pseudonym)
        found += resources.records
        by_patient: dict[str, list[Record]] = {}
        for record in found:
            by_patient.setdefault(record.pseudonym, []).append(record)
        withdrawals, denials = withdrawn(folder, key), _listed(folder, DENIED, key)
        sources = sum(map(len, files.values()))
        total = hashlib.sha256(f"{sources > 0}\n".encode())
        kept_out = [*withdrawals, *(f"denied {who}" for who in denials)]
        for line in (*decisions.canonical(found), *sorted(kept_out)):
            total.update(f"{line}\n".encode())
        return Register(
            records=MappingProxyType({who: tuple(said) for who, said in by_patient.items()}),
            withdrawn=withdrawals,
            denied=denials,
            sources=sources,
            not_understood=resources.not_understood,
            digest=total.hexdigest(),
        )

    def permits(
        self,
        pseudonym: str,
        *,
        basis: Basis,
        study_name: str,
        study_digest: str,
        purpose: str,
        commercial: bool,
        today: date,
        declared: int,
    ) -> bool:
        """Return whether this patient's images may train this study today.

        Args:
          pseudonym: Of the patient.
          basis: The policy's ``intake.consent``.
          study_name: Name of the study.
          study_digest: Its digest.
          purpose: Its ``purpose_of_use``.
          commercial: Its ``commercial``.
          today: The day of the round.
          declared: What the images say; see
            :func:`septum_client.consent.decisions.permits` for how all are weighed.

        Guarantees:
          - A withdrawn patient is never permitted.
          - The answer depends on nothing about any other patient.
        """
        if pseudonym in self.withdrawn or not (self.sources or basis == "waived"):
            return False
        use = Use(
            names=frozenset({study_name, study_digest}),
            purpose=purpose,
            commercial=commercial,
            today=today,
        )
        if pseudonym in self.denied:
            declared = Declared.DENIED
        return decisions.permits(
            self.records.get(pseudonym, ()), use, basis=basis, declared=declared
        )

    def admits(self, pseudonym: str, *, basis: Basis, today: date, declared: int) -> bool:
        """Return whether some study might train on this patient today: whether to ingest at all.

        Guarantees:
          - Whoever :meth:`permits` permits today is admitted.
        """
        named = {name for said in self.records.get(pseudonym, ()) for name in said.rule.names()}
        return any(
            self.permits(
                pseudonym,
                basis=basis,
                study_name=name,
                study_digest=name,
                purpose=purpose,
                commercial=False,
                today=today,
                declared=declared,
            )
            for name in ("", *sorted(named))
            for purpose in get_args(PurposeOfUse)
        )


def withdrawn(folder: Path, key: bytes) -> frozenset[str]:
    """Return who was withdrawn at a site; ``folder`` is its consent folder.

    Raises:
      DataError: The list cannot be read, or was made under another key, so that
        it would match nobody: it is never taken for empty.
    """
    return _listed(folder, WITHDRAWN, key)


def withdraw(folder: Path, pseudonym: str, *, key: bytes, on: date) -> None:
    """Add a patient to the withdrawn, for good and durably.

    One file per patient: two withdrawals at once never lose one.

    Raises:
      DataError: The disk refuses, or ``pseudonym`` is none under ``key``.
    """
    _add(folder, WITHDRAWN, pseudonym, key=key, on=on)


def deny(folder: Path, pseudonym: str, *, key: bytes, on: date) -> None:
    """Remember that an image, of which nothing is kept, denied consent for its patient.

    Raises:
      DataError: The disk refuses, or ``pseudonym`` is none under ``key``: the process
        that read the image chose it, and must not choose a path.
    """
    _add(folder, DENIED, pseudonym, key=key, on=on)


def _listed(folder: Path, name: str, key: bytes) -> frozenset[str]:
    names = [path.name for path in _visible(folder / name)]
    # A pseudonym carries its own check: another key's would match no patient, and deny nobody.
    if not all(_is_pseudonym(key, who) for who in names):
        raise DataError(
            f"the folder consent/{name} holds something else than pseudonyms under the site's key.",
            remedy="Restore it, and the key it was made under; nothing trains without them.",
        )
    return frozenset(names)


def _is_pseudonym(key: bytes, who: str) -> bool:
    return _PSEUDONYM.fullmatch(who) is not None and pseudonyms.is_own(key, who)


def _add(folder: Path, name: str, pseudonym: str, *, key: bytes, on: date) -> None:
    if not _is_pseudonym(key, pseudonym):
        raise DataError(
            f"what was to be added to consent/{name} is no pseudonym under the site's key.",
            remedy="Look for the file that causes this with `septum site check`; do not use it.",
        )
    try:
        for place in (folder, folder / name):
            place.mkdir(mode=0o700, exist_ok=True)
        if not (folder / name / pseudonym).exists():
            day = f"{on.isoformat()}\n".encode("ascii")
            replace(folder / name / pseudonym, lambda file: file.write(day))
    except OSError as error:
        raise DataError(
            f"consent/{name} could not be written ({error.strerror}).",
            remedy="Free disk space or correct the folder's permissions, then try again.",
        ) from None


def _visible(folder: Path) -> list[Path]:
    """Return what a site keeps in the folder; editors and file systems hide their own files."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(
            f"the consent folder or its list of withdrawn cannot be read ({error.strerror}).",
            remedy="Give this account permission; nothing trains without them.",
        ) from None


def _require_known(folder: Path) -> None:
    unknown = [
        path
        for path in _visible(folder)
        if path.name not in {WITHDRAWN, DENIED} and path.suffix.lower() not in _TABLES | _FHIR
    ]
    if unknown:
        raise DataError(
            f"the consent folder holds {len(unknown)} thing(s) that are no register.",
            remedy="Keep CSV, JSON and NDJSON there alone: anything else may hold denials.",
        )


def _contents(folder: Path, suffixes: Collection[str]) -> list[bytes]:
    contents = []
    for path in _visible(folder):
        if path.suffix.lower() not in suffixes:
            continue
        try:
            # A pipe or device would hang the round.
            small = path.is_file() and path.stat().st_size <= MAX_BYTES
            content = path.read_bytes() if small else None
        except OSError:
            content = None
        if content is None:
            raise DataError(
                f"a register of consent cannot be read, or is over {MAX_BYTES // 2**20} MiB.",
                remedy="Give this account permission to read it, or split it.",
            )
        contents.append(content)
    return contents
