"""A cohort: images, labels and splits of one hospital, on disk, indexed by patient."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import ConfigError, DataError, Quarantine
from septum_client import pseudonyms, storage
from septum_client.demographics import AGE_BANDS, SEXES

__all__ = ["AGE_BANDS", "SEXES", "Cohort", "CohortSpec", "Split", "ingest", "shared_patients"]

_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_SIDES: Final = (16, 1024)
_ROWS: Final = "rows.partial"


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

    Raises:
      ConfigError: Names the key, its value and the limit.
    """

    image_size: int
    labels: tuple[str, ...]
    test_fraction: float = 0.25

    def __post_init__(self) -> None:
        size, low, high = self.image_size, *_SIDES
        if type(size) is not int or not low <= size <= high:
            raise ConfigError(f"image_size is {size!r} and must be {low} to {high} pixels.")
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """One hospital's training data. All arrays are read-only.

    Args:
      spec: What it was made to be.
      images: float16 memory map, ``(images, 1, size, size)``, in [0, 1]; a
        patient's images are contiguous.
      labels: float32 ``(images, labels)``, 0 or 1.
      patient_of_image: int32 ``(images,)``, from 0, never decreasing.
      split: uint8 ``(patients,)``, a :class:`Split`.
      sex: uint8 ``(patients,)``, index into :data:`SEXES`.
      age_band: uint8 ``(patients,)``, index into :data:`AGE_BANDS`.
      meta: Evaluation-only strata from ``meta_*`` columns, each float32
        ``(images,)``, NaN where absent. Never an input of a model.
      pseudonyms: One per patient: 32 hex characters of HMAC-SHA256 under the
        site's key. Without that key they cannot be traced by trying all IDs.
      quarantined: Files that stayed out, by reason.
      digest: SHA-256 over the spec and all arrays except ``linkage``.
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
    meta: Mapping[str, NDArray[np.float32]] = field(repr=False)
    pseudonyms: tuple[str, ...] = field(repr=False)
    quarantined: Mapping[Quarantine, int]
    digest: str
    linkage: tuple[str, ...] = field(default=(), repr=False)

    def patients(self, split: Split) -> NDArray[np.int32]:
        """Return the indices of a split's patients, ascending."""
        return np.flatnonzero(self.split == split).astype(np.int32)

    def images_of(self, patient: int) -> slice:
        """Return where a patient's images lie; raises IndexError for an unknown patient."""
        if not 0 <= patient < len(self.split):
            raise IndexError(f"patient {patient} of {len(self.split)}")
        first, last = np.searchsorted(self.patient_of_image, [patient, patient + 1])
        return slice(int(first), int(last))

    @staticmethod
    def open(folder: Path) -> "Cohort":
        """Open a cohort that :func:`ingest` made.

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
            raise DataError(
                "The cohort on disk does not fit together.",
                remedy="Ingest again from the DICOM source.",
            )
        return cohort

    def verify(self) -> None:
        """Pass when every pixel and number is the one that the digest was made of.

        Raises:
          DataError: Something was altered since the ingest.
        """
        manifest = {
            "spec": asdict(self.spec),
            "images_digest": storage.images_digest(self.images),
        }
        names = ("labels", "patient_of_image", "split", "sex", "age_band")
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        arrays["pseudonyms"] = np.array(self.pseudonyms, dtype="S32")
        arrays |= {storage.META + name: values for name, values in self.meta.items()}
        if storage.digest(manifest, arrays) != self.digest:
            raise DataError(
                "The images of the cohort were altered since the ingest.",
                remedy="Ingest again from the DICOM source.",
            )


def ingest(
    source: Path,
    folder: Path,
    *,
    spec: CohortSpec,
    key: bytes,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    linkage_key: bytes | None = None,
) -> Cohort:
    """Make a cohort from a DICOM export and its labels.

    Args:
      source: Folder with DICOM files anywhere below it and, at its top, one
        labels CSV (:mod:`septum_client.labels`).
      folder: The cohort; replaced on success if it is one already.
      spec: What to make.
      key: The site's key, at least 16 bytes: pseudonyms, split and order.
      workers: At least 1; every value reads in this process. Pools of newly
        started interpreters were never faster where we measured them (two
        busy cores, 3,000 small and 240 large files), and forking is unsafe
        beside torch's threads.
      progress: Called with files done and files in all.
      linkage_key: Simulations only; see :attr:`Cohort.linkage`.

    Guarantees:
      - The same files, key and spec give the same bytes, whatever the order
        in which folders list their files.
      - From the header, only a sex, an age band and a keyed hash of the
        Patient ID reach the disk; file names and other fields reach neither
        disk nor message.
      - At most one decoded image, or 64 prepared ones, are in memory.
      - On any error or interrupt, ``folder`` is what it was.

    Raises:
      ConfigError: ``key`` or ``workers`` cannot be used.
      DataError: The source, its labels, or the disk cannot be used.
    """
    # Here because pydicom takes 0.4 s to import and training never needs it.
    from septum_client import assembly, intake, labels  # noqa: PLC0415 - see above

    pseudonyms.require_key(key)
    if linkage_key is not None:
        pseudonyms.require_key(linkage_key)
    if workers < 1:
        raise ConfigError(f"workers is {workers} and must be at least 1.")
    storage.require_apart(source, folder)
    paths = intake.files_below(source)
    table_path = labels.find(source)
    table = labels.read(table_path, spec.labels)
    paths.remove(table_path)
    with storage.replacing(folder) as work:
        with storage.private(work / _ROWS) as out:
            draft = assembly.collect(paths, spec=spec, table=table, out=out, progress=progress)
        order, arrays, patients = assembly.arrange(draft.rows, spec=spec, table=table, key=key)
        shape = (len(order), 1, spec.image_size, spec.image_size)
        images_digest = storage.write_images(work, work / _ROWS, order, shape)
        (work / _ROWS).unlink()
        storage.write_index(
            work,
            manifest={
                "spec": asdict(spec),
                "images_digest": images_digest,
                "images": len(order),
                "patients": len(patients),
                "quarantined": {code.value: n for code, n in sorted(draft.quarantined.items())},
            },
            arrays=arrays,
            linkage=()
            if linkage_key is None
            else tuple(pseudonyms.linkage(linkage_key, patient) for patient in patients),
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
    promised: dict[str, tuple[str, tuple[int, ...]]] = {
        "labels": ("<f4", (images, len(spec.labels))),
        "patient_of_image": ("<i4", (images,)),
        "split": ("|u1", (patients,)),
        "sex": ("|u1", (patients,)),
        "age_band": ("|u1", (patients,)),
        "pseudonyms": ("|S32", (patients,)),
    }
    strata = sorted(set(arrays) - set(promised))
    promised |= dict.fromkeys(strata, ("<f4", (images,)))
    side = spec.image_size
    owner = arrays["patient_of_image"]
    fits = (
        stored.images.dtype.str == "<f2"
        and stored.images.shape == (images, 1, side, side)
        and all((arrays[n].dtype.str, arrays[n].shape) == want for n, want in promised.items())
        and all(name.startswith(storage.META) for name in strata)
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
    return Cohort(
        spec=spec,
        images=stored.images,
        meta=MappingProxyType({n.removeprefix(storage.META): arrays[n] for n in strata}),
        pseudonyms=tuple(value.decode("ascii") for value in arrays["pseudonyms"].tolist()),
        quarantined=MappingProxyType({Quarantine(c): n for c, n in said["quarantined"].items()}),
        digest=said["digest"],
        linkage=stored.linkage,
        **{n: arrays[n] for n in ("labels", "patient_of_image", "split", "sex", "age_band")},
    )
