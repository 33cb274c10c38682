"""Images enter a site: under its key, its policy, its register and what its reviewers decided."""

from collections.abc import Callable
from datetime import UTC, date, datetime

from septum.errors import ConfigError, Quarantine
from septum_client.assembly import enqueue
from septum_client.consent.decisions import Declared
from septum_client.consent.register import FOLDER, Register, deny, withdrawn
from septum_client.ingest import Terms
from septum_client.owner import Owner
from septum_client.review_pixels import queue_of
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Task
from septum_client.sandbox.settings import settings
from septum_client.screening import deface, ocr
from septum_client.screening.verdict import Decision
from septum_client.site import Site


def terms(site: Site, *, today: date) -> Terms:
    """Return the terms under which images enter ``site`` today.

    Raises:
      ConfigError: The policy asks for a tool that is not installed, or for
        consent on record where there is no record.
      DataError: The register of consent cannot be read.
    """
    rules = site.policy.intake
    require(rules)
    register = Register.load(site.folder / FOLDER, site.key)
    if not register.sources and rules.consent != "waived":
        # Said before hours of reading, not after.
        raise ConfigError(
            f"intake.consent is {rules.consent!r}, and {site.folder / FOLDER} holds no register.",
            remedy="Put the register there (docs/consent.md), or let the privacy officer decide "
            'that consent is "waived".',
        )

    def admits(pseudonym: str, declared: int) -> bool:
        return register.admits(pseudonym, basis=rules.consent, today=today, declared=declared)

    return Terms(
        rules=rules,
        admits=admits,
        decisions=decisions(site),
        queue=queue_of(site.folder),
        today=today,
    )


def require(rules: Intake) -> None:
    """Pass when what the rules need is installed.

    Raises:
      ConfigError: Tesseract is not and ``burned_in_text`` is ``ocr``, or no
        defacer is and ``faces`` is ``deface``.
    """
    if rules.burned_in_text == "ocr":
        ocr.require()
    if rules.faces == "deface":
        deface.require()


def decisions(site: Site) -> dict[str, Decision]:
    """Return what people decided on this site's review page, by name of the pixels."""
    return {
        name: Decision(verdict=said.verdict, boxes=said.boxes)
        for name, said in queue_of(site.folder).decisions().items()
    }


def inbox_engine(site: Site) -> Callable[[bytes], bytes | Quarantine]:
    """Return what a PACS inbox asks before it writes: de-identified bytes, or why not.

    Each call runs in the child process; refused images that a person could let
    in go to the review page. A patient who was withdrawn is refused,
    and so is one whose image denies consent.
    """
    rules = site.policy.intake
    require(rules)
    queue = queue_of(site.folder)
    told = settings(site.key, rules=rules, decisions=decisions(site))

    def deidentified(data: bytes) -> bytes | Quarantine:
        task = Task(verb="deidentify", body=data)
        answer = next(pool.shared(1).map([task], settings=told))
        owner = Owner(**answer.fields.get("owner") or {})
        if owner.declared == Declared.DENIED:
            # Nothing of the image is kept, not even for review, and what it said holds for
            # the patient's others, though it be refused itself.
            if owner.patient:
                deny(site.folder / FOLDER, owner.patient, key=site.key, on=_today())
            return Quarantine.NO_CONSENT
        if "code" in answer.fields:
            code = Quarantine(answer.fields["code"])
            enqueue(answer, code, queue)
            return code
        if answer.fields["face"]:
            # One file cannot be defaced, and its copy has fewer clues to judge it by.
            return Quarantine.FACE
        gone = owner.patient in withdrawn(site.folder / FOLDER, site.key)
        return Quarantine.NO_CONSENT if gone else answer.body

    return deidentified


def _today() -> date:
    return datetime.now(UTC).date()
