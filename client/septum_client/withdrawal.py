"""A patient withdraws: gone from the cohort, from every later round, and told of what was.

What was released before cannot be taken back. It was made under patient-level
differential privacy, and that bounds, in a number, what the patient's images
can have changed of it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from septum.errors import DataError
from septum_client import consent, lineage, retention, storage
from septum_client.cohort import Cohort, without
from septum_client.exposure import Exposure, exposures
from septum_client.pseudonyms import pseudonym
from septum_client.site import Site

NOT_REACHED: Final = (
    "Not reached: a round that is training now; backups and snapshots; the PACS and its exports.",
    "Not reached: de-identified files that `septum site deidentify` wrote elsewhere.",
    "Not reached: images that wait for review, which do not say whose they are: look through them.",
)
"""What a withdrawal cannot delete."""


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """What a withdrawal did, and what had been done with the patient before.

    Args:
      at: When.
      images: Images deleted from the cohort.
      received: Files deleted from the inbox.
      studies: Each study that used the patient.
      epsilon: Over all these studies together, at ``delta``.
      delta: The smallest of theirs; 0 where there is no study.
    """

    at: str
    images: int
    received: int
    studies: tuple[Exposure, ...]
    epsilon: float
    delta: float

    def lines(self) -> list[str]:
        """Return the withdrawal in words, for the patient's file; they name nobody."""
        return [
            f"Deleted {self.images} images of this patient from the cohort.",
            f"Deleted {self.received} files of this patient from the inbox.",
            "No later ingest and no later round at this site takes this patient in.",
            *(self._exposures() or ["No round of any study was charged with this patient in it."]),
            *NOT_REACHED,
        ]

    def _exposures(self) -> list[str]:
        if not self.studies:
            return []
        said = []
        for each in self.studies:
            numbers = ", ".join(map(str, each.rounds))
            said.append(
                f"Study {each.study[:12]}: in the cohort at rounds {numbers} ({each.released} of "
                f"{len(each.rounds)} released). Unit: one patient, with all images, added or "
                f"removed. Epsilon {each.epsilon:.3f} at delta {each.delta:g}."
            )
            if each.uncertain:
                doubt = ", ".join(map(str, each.uncertain))
                said.append(f"  Counted although their list of patients is gone: rounds {doubt}.")
        return [
            *said,
            f"All studies together: epsilon {self.epsilon:.3f} at delta {self.delta:g}.",
            "It holds if no study was chosen by what another released; else epsilon_total does.",
            "That bounds what this patient can have changed in everything this site released.",
            "Whether a step of those rounds drew the patient is recorded nowhere; it holds if so.",
        ]


def withdraw(site: Site, patient_id: str, *, at: datetime) -> Withdrawal:
    """Withdraw a patient for good.

    Args:
      site: The hospital's directory.
      patient_id: As in the images, (0010,0020).
      at: Now.

    Guarantees:
      - The withdrawal is on the disk before anything is deleted: from then on no
        round that begins and no ingest takes the patient in. Asked again after a
        crash, or for a patient withdrawn before, it finishes and says the same.
      - The patient's files are gone when this returns, half-made ones included (an
        ingest under way fails and is run again); the cohort of the others is whole.

    Raises:
      DataError: Neither the cohort nor any round knows this patient: probably a
        wrong ID. It is recorded all the same. Or the disk refuses.
      LedgerError: The ledger is missing or does not verify.
    """
    who = pseudonym(site.key, patient_id)
    folder = site.folder / consent.FOLDER
    before = consent.withdrawn(folder, site.key)
    consent.withdraw(folder, who, key=site.key, on=at.date())
    retention.sweep(site)
    images = _delete(site, who)
    received = _empty_inbox(site, who)
    rounds = lineage.rounds_of(site, who)
    if not (images or received) and who not in before and not any(each.certain for each in rounds):
        raise DataError(
            "no patient of this ID is in the cohort or was in a round; the withdrawal is recorded "
            "and holds for later ingests.",
            remedy="Compare the ID with (0010,0020) of the images, and withdraw that one too.",
        )
    used = exposures(rounds)
    return Withdrawal(
        at=at.isoformat(timespec="seconds"),
        images=images,
        received=received,
        studies=used.studies,
        epsilon=used.epsilon,
        delta=used.delta,
    )


def _delete(site: Site, who: str) -> int:
    if not (site.cohort_path / storage.MANIFEST).is_file():
        return 0
    cohort = Cohort.open(site.cohort_path)
    if who not in cohort.pseudonyms:
        return 0
    rows = cohort.images_of(cohort.pseudonyms.index(who))
    without(site.cohort_path, {who})
    return int(rows.stop - rows.start)


def _empty_inbox(site: Site, who: str) -> int:
    from septum_client.pacs import inbox  # noqa: PLC0415 - reads DICOM, which training need not

    try:
        return inbox.remove(site.folder / retention.INBOX, who)
    except OSError as error:
        raise DataError(
            f"the patient's files in the inbox could not be deleted ({error.strerror}).",
            remedy="Correct the folder's permissions, then withdraw again.",
        ) from None
