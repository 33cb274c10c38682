"""A cohort: images, labels and splits of one hospital, on disk, indexed by patient."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import ConfigError, DataError, Quarantine
from septum_client import storage
from septum_client.cohort_spec import CohortSpec
from septum_client.demographics import AGE_BANDS, SEXES

__all__ = ["AGE_BANDS", "SEXES", "Cohort", "CohortSpec", "Split", "shared_patients", "without"]

_WITHHELD: Final = 255
_REMEDY: Final = "Ingest again from the DICOM source."


class Split(IntEnum):
    """Which side of the hold-out a patient is on, with all of the patient's images."""

    TRAIN = 0
    TEST = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """One hospital's training data. All arrays are read-only.

    Args:
      spec: What it was made to be.
      images: float16 memory map, ``(images, *spec.shape)``, in [0, 1]; a
        patient's images are contiguous.
      labels: float32 ``(images, labels)``: 0 or 1; 1 at the class and 0 elsewhere;
        or the numbers of a regression. No columns where the mask is the target.
      masks: For segmentation, uint8 memory map ``(images, *spec.shape[1:])``: 0 for
        background, else 1 and up in the order of the labels. ``None`` else.
      patient_of_image: int32 ``(images,)``, from 0, never decreasing.
      split: uint8 ``(patients,)``, a :class:`Split`.
      sex: uint8 ``(patients,)``, index into :data:`SEXES`.
      age_band: uint8 ``(patients,)``, index into :data:`AGE_BANDS`.
      declared: uint8 ``(patients,)``: what the patient's files say of consent
        (:mod:`septum_client.consent.declared`).
      meta: Evaluation-only strata from ``meta_*`` columns, each float32
        ``(images,)``, NaN where absent. Never an input of a model.
      pseudonyms: One per patient: 32 hex characters keyed by the site's key.
        Without that key they cannot be traced by trying all IDs.
      quarantined: Files that stayed out, by reason.
      lineage: Where it came from: digest of the rules, version of the code,
        counts of files, day made, day it expires.
      digest: SHA-256 over the spec, the day it expires and all arrays except ``linkage``.
      images_digest: SHA-256 over the images alone.
      masks_digest: SHA-256 over the masks alone; empty where there are none.
      linkage: One keyed hash per patient under a key that several simulated
        hospitals share, so that a bench can refuse a patient who is in two of
        them (:func:`shared_patients`). Empty in production.
    """

    spec: CohortSpec
    images: NDArray[np.float16] = field(repr=False)
    labels: NDArray[np.float32] = field(repr=False)
    patient_of_image: NDArray[np.int32] = field(repr=False)
    split: NDArray[np.uint8] = field(repr=False)
    sex: NDArray[np.uint8] = field(repr=False)
    age_band: NDArray[np.uint8] = field(repr=False)
    declared: NDArray[np.uint8] = field(repr=False)
    meta: Mapping[str, NDArray[np.float32]] = field(repr=False)
    pseudonyms: tuple[str, ...] = field(repr=False)
    quarantined: Mapping[Quarantine, int]
    lineage: Mapping[str, Any]
    digest: str
    images_digest: str
    linkage: tuple[str, ...] = field(default=(), repr=False)
    masks: NDArray[np.uint8] | None = field(default=None, repr=False)
    masks_digest: str = ""

    @property
    def targets(self) -> NDArray[np.float32] | NDArray[np.uint8]:
        """What the network learns: :attr:`masks` where there are any, else :attr:`labels`."""
        return self.labels if self.masks is None else self.masks

    @property
    def expires(self) -> date:
        """The last day on which it may train."""
        return date.fromisoformat(self.lineage["expires"])

    def patients(self, split: Split) -> NDArray[np.int32]:
        """Return the indices of a split's patients, ascending."""
        return np.flatnonzero(self.split == split).astype(np.int32)

    def images_of(self, patient: int) -> slice:
        """Return where a patient's images lie; raises IndexError for an unknown patient."""
        if not 0 <= patient < len(self.split):
            raise IndexError(f"patient {patient} of {len(self.split)}")
        first, last = np.searchsorted(self.patient_of_image, [patient, patient + 1])
        return slice(int(first), int(last))

    def only(self, patients: NDArray[np.bool_]) -> "Cohort":
        """Return this cohort with every other patient in neither split; nothing is copied.

        Args:
          patients: bool ``(patients,)``.
        """
        split = np.where(patients, self.split, _WITHHELD).astype(np.uint8)
        split.setflags(write=False)
        return replace(self, split=split)

    @staticmethod
    def open(folder: Path) -> "Cohort":
        """Open a cohort that an ingest made.

        Everything but the pixels is checked against the digest; :meth:`verify`
        checks those.

        Raises:
          DataError: It is missing, incomplete, altered, or of another format.
        """
        stored = storage.load(folder)
        try:
            cohort = _from_stored(stored)
        except (KeyError, TypeError, ValueError, ConfigError, AttributeError):
            cohort = None
        if cohort is None:
            raise DataError("The cohort on disk does not fit together.", remedy=_REMEDY)
        return cohort

    def verify(self) -> None:
        """Pass when every pixel, of images and masks, is the one that the digest was made of.

        The arrays beside them were checked by :meth:`open` and are in memory since.

        Raises:
          DataError: Something was altered since the ingest.
        """
        intact = storage.images_digest(self.images) == self.images_digest
        if self.masks is not None:
            intact = intact and storage.images_digest(self.masks) == self.masks_digest
        if not intact:
            raise DataError(
                "The images of the cohort were altered since the ingest.", remedy=_REMEDY
            )


def without(folder: Path, pseudonyms: Collection[str]) -> Cohort | None:
    """Rewrite the cohort at ``folder`` without these patients, and return what is left.

    Guarantees:
      - The old files are gone when this returns, or the cohort is what it was.

    Returns:
      The new cohort; ``None``, and no files, where no patient is left.

    Raises:
      DataError: There is no intact cohort, or the disk refuses.
    """
    stored = storage.load(folder)
    old = Cohort.open(folder)
    stays = np.array([name not in pseudonyms for name in old.pseudonyms], dtype=bool)
    rows = np.flatnonzero(stays[old.patient_of_image])
    if not len(rows):
        storage.purge(folder)
        return None
    per_patient = {"split", "sex", "age_band", "declared", "pseudonyms"}
    arrays = {
        name: values[stays if name in per_patient else rows]
        for name, values in stored.arrays.items()
    }
    renumbered = np.cumsum(stays) - 1
    arrays["patient_of_image"] = renumbered[old.patient_of_image[rows]].astype(np.int32)
    with storage.replacing(folder) as work:
        digests = {"images_digest": storage.write_images(work, old.images, rows)}
        if old.masks is not None:
            digests["masks_digest"] = storage.write_images(
                work, old.masks, rows, name=storage.MASKS
            )
        storage.write_index(
            work,
            manifest=dict(stored.manifest)
            | digests
            | {"images": len(rows), "patients": int(stays.sum())},
            arrays=arrays,
            linkage=tuple(np.array(old.linkage)[stays].tolist()) if old.linkage else (),
        )
    return Cohort.open(folder)


def shared_patients(cohorts: Sequence[Cohort]) -> frozenset[str]:
    """Return the linkage hashes that occur in more than one cohort.

    Only a simulation can ask this: it gave every site the same
    ``linkage_key``. A patient with another Patient ID elsewhere is not found.

    Raises:
      DataError: A cohort was made without a linkage key.
    """
    if not all(cohort.linkage for cohort in cohorts):
        raise DataError(
            "A cohort carries no linkage, so shared patients cannot be found.",
            remedy="Ingest every simulated site with one linkage_key.",
        )
    seen = Counter(link for cohort in cohorts for link in set(cohort.linkage))
    return frozenset(link for link, sites in seen.items() if sites > 1)


def _from_stored(stored: storage.Stored) -> Cohort:
    """Build a cohort; any error or a failed check means that the files do not fit together."""
    said, arrays = stored.manifest, stored.arrays
    spec = CohortSpec.read(said["spec"])
    images, patients = said["images"], said["patients"]
    promised = dict(spec.promised(images, patients))
    strata = sorted(name for name in arrays if name.startswith(storage.META))
    promised |= dict.fromkeys(strata, ("<f4", (images,)))
    owner = arrays["patient_of_image"]
    fits = (
        stored.images.dtype.str == "<f2"
        and stored.images.shape == (images, *spec.shape)
        and _masks_fit(stored.masks, (images, *spec.shape[1:]), spec)
        and set(arrays) == set(promised)
        and all((arrays[n].dtype.str, arrays[n].shape) == want for n, want in promised.items())
        # Contiguous, and no patient without an image.
        and np.array_equal(np.unique(owner), np.arange(patients))
        and bool((np.diff(owner) >= 0).all())
        and _labels_fit(arrays["labels"], spec)
        and int(arrays["split"].max()) <= max(Split)
        and int(arrays["sex"].max()) < len(SEXES)
        and int(arrays["age_band"].max()) < len(AGE_BANDS)
        and len(stored.linkage) in {0, patients}
    )
    if not fits:
        raise ValueError("the arrays do not fit the manifest")
    of_patients = ("split", "sex", "age_band", "declared")
    return Cohort(
        spec=spec,
        images=stored.images,
        meta=MappingProxyType({n.removeprefix(storage.META): arrays[n] for n in strata}),
        pseudonyms=tuple(value.decode("ascii") for value in arrays["pseudonyms"].tolist()),
        quarantined=MappingProxyType({Quarantine(c): n for c, n in said["quarantined"].items()}),
        lineage=MappingProxyType(
            {
                **said["lineage"],
                "expires": date.fromisoformat(said["lineage"]["expires"]).isoformat(),
            }
        ),
        digest=said["digest"],
        images_digest=said["images_digest"],
        linkage=stored.linkage,
        masks=stored.masks,
        masks_digest=said["masks_digest"] if spec.masked else "",
        **{n: arrays[n] for n in ("labels", "patient_of_image", *of_patients)},
    )


def _masks_fit(masks: NDArray[np.uint8] | None, shape: tuple[int, ...], spec: CohortSpec) -> bool:
    if masks is None or not spec.masked:
        return masks is None and not spec.masked
    return masks.dtype.str == "|u1" and masks.shape == shape


def _labels_fit(labels: NDArray[np.float32], spec: CohortSpec) -> bool:
    if spec.task == "regression":
        low, high = np.array(spec.ranges, dtype=np.float32).T
        return bool(((labels >= low) & (labels <= high)).all())
    binary = bool(np.isin(labels, (0, 1)).all())
    return binary and (spec.task != "classification" or bool((labels.sum(axis=1) == 1).all()))
