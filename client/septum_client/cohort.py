"""A cohort: images, labels and splits of one hospital, on disk, indexed by patient."""

import re
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
from septum_client.demographics import AGE_BANDS, SEXES

__all__ = ["AGE_BANDS", "SEXES", "Cohort", "CohortSpec", "Split", "shared_patients", "without"]

_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_SIDES: Final = (16, 1024)
_DEPTHS: Final = (1, 256)
_WITHHELD: Final = 255
_REMEDY: Final = "Ingest again from the DICOM source."


class Split(IntEnum):
    """Which side of the hold-out a patient is on, with all of the patient's images."""

    TRAIN = 0
    TEST = 1


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """What a cohort is made to be.

    Args:
      image_size: Side of the square images, 16 to 1024 pixels.
      labels: Label columns, in the order of the model's outputs.
      test_fraction: Expected share of patients held out, above 0 and below 1.
      depth: Slices of a volume, 2 to 256; 1 makes every frame an image of its own.

    Raises:
      ConfigError: Names the key, its value and the limit.
    """

    image_size: int
    labels: tuple[str, ...]
    test_fraction: float = 0.25
    depth: int = 1

    def __post_init__(self) -> None:
        for key, (low, high) in (("image_size", _SIDES), ("depth", _DEPTHS)):
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{key} is {value!r} and must be {low} to {high}.")
        if not isinstance(self.labels, tuple) or not self.labels:
            raise ConfigError("labels is empty and must name at least one column.")
        for name in self.labels:
            if not isinstance(name, str) or not _LABEL.fullmatch(name) or name.startswith("meta_"):
                raise ConfigError(
                    f"labels holds {name!r}, which is not a label column.",
                    remedy="Use a letter, then at most 63 letters, digits, _ or -; not meta_.",
                )
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError("labels names a column twice.")
        if not isinstance(self.test_fraction, float) or not 0 < self.test_fraction < 1:
            raise ConfigError(
                f"test_fraction is {self.test_fraction!r} and must be above 0 and below 1."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: ``(1, size, size)``, or ``(1, depth, size, size)`` of a volume."""
        depth = () if self.depth == 1 else (self.depth,)
        return (1, *depth, self.image_size, self.image_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """One hospital's training data. All arrays are read-only.

    Args:
      spec: What it was made to be.
      images: float16 memory map, ``(images, *spec.shape)``, in [0, 1]; a
        patient's images are contiguous.
      labels: float32 ``(images, labels)``, 0 or 1.
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
        """Pass when every pixel is the one that the digest was made of.

        The arrays beside them were checked by :meth:`open` and are in memory since.

        Raises:
          DataError: Something was altered since the ingest.
        """
        if storage.images_digest(self.images) != self.images_digest:
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
        digest = storage.write_images(work, old.images, rows)
        storage.write_index(
            work,
            manifest=dict(stored.manifest)
            | {"images_digest": digest, "images": len(rows), "patients": int(stays.sum())},
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
    spec = CohortSpec(**{**said["spec"], "labels": tuple(said["spec"]["labels"])})
    images, patients = said["images"], said["patients"]
    promised = dict(storage.promised(images, patients, labels=len(spec.labels)))
    strata = sorted(name for name in arrays if name.startswith(storage.META))
    promised |= dict.fromkeys(strata, ("<f4", (images,)))
    owner = arrays["patient_of_image"]
    fits = (
        stored.images.dtype.str == "<f2"
        and stored.images.shape == (images, *spec.shape)
        and set(arrays) == set(promised)
        and all((arrays[n].dtype.str, arrays[n].shape) == want for n, want in promised.items())
        # Contiguous, and no patient without an image.
        and np.array_equal(np.unique(owner), np.arange(patients))
        and bool((np.diff(owner) >= 0).all())
        and bool(np.isin(arrays["labels"], (0, 1)).all())
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
        **{n: arrays[n] for n in ("labels", "patient_of_image", *of_patients)},
    )
