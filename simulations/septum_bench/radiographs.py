"""Public radiographs become the patients of simulated hospitals: DICOM, not arrays.

PneumoniaMNIST (Yang et al. 2023, doi:10.1038/s41597-022-01721-8; images of
Kermany et al. 2018, CC BY 4.0) has no patient numbers, so one image is one
patient. Each hospital gets its own share, prevalence and scanner, and every
header the invented identifiers of the phantoms.
"""

import csv
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from septum.errors import ConfigError, DataError
from septum_bench.hospitals import site_key
from septum_bench.phantoms.anatomy import Attributes
from septum_bench.phantoms.headers import Film, write_film
from septum_bench.phantoms.identity import Hospital, Person, draw_person, hospital
from septum_bench.phantoms.scanner import SCANNERS, Scanner, digitise, expose
from septum_client.cohort import CohortSpec
from septum_client.pseudonyms import is_held_out

LABEL: Final = "pneumonia"
SIDE: Final = 28
SPLITS: Final = ("train", "val", "test")

# --- the table of site shift, beside SCANNERS ---
SIZE_CONCENTRATION: Final = 3.0  # Dirichlet over hospitals: smaller is more uneven
LABEL_CONCENTRATION: Final = 6.0  # of each class around the hospital's share
LEAST_OF_A_CLASS: Final = 8  # learning images of either class at every hospital
CHEST_FIELD: Final = 0.6  # a child's film beside an adult's, in width
FILM_DEPTH: Final = 3.0  # optical depths between the black and the white of a published image
# --- end of the table ---

_SMALLEST: Final = 16
_NUMBERS: Final = 900_000

Pixels = NDArray[np.uint8]
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Images, uint8 ``(images, 28, 28)``, and one label each, uint8 ``(images,)``, 0 or 1."""

    images: Pixels
    labels: Pixels

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels]),
        )


def read_npz(path: Path) -> dict[str, Labelled]:
    """Return the published splits: ``train``, ``val`` and ``test``.

    Nothing is unpickled, and nothing is repaired.

    Raises:
      DataError: The file cannot be read, lacks an array, or an array is not
        what MedMNIST publishes; the message names it.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for split in SPLITS:
                for kind in ("images", "labels"):
                    name = f"{split}_{kind}"
                    if name not in archive.files:
                        raise DataError(
                            f"{path.name} has no array {name!r}.",
                            remedy="Use pneumoniamnist.npz of MedMNIST v2, 28 by 28 pixels.",
                        )
                    arrays[name] = archive[name]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or type(error).__name__}).",
            remedy="Name a readable pneumoniamnist.npz.",
        ) from None
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise DataError(
            f"{path.name} is not an npz archive of plain arrays.",
            remedy="Download pneumoniamnist.npz of MedMNIST v2 again.",
        ) from None
    return {split: _checked(path.name, split, arrays) for split in SPLITS}


def _checked(source: str, split: str, arrays: dict[str, NDArray[np.generic]]) -> Labelled:
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    count = len(images) if images.ndim else 0
    for name, array, shape in (
        (f"{split}_images", images, (count, SIDE, SIDE)),
        (f"{split}_labels", labels, (count, 1)),
    ):
        if array.dtype != np.uint8 or array.shape != shape or not count:
            raise DataError(
                f"{name} of {source} is {array.dtype}{list(array.shape)} and must be "
                f"uint8{['images', *shape[1:]]}.".replace("'", ""),
                remedy="Use pneumoniamnist.npz of MedMNIST v2, 28 by 28 pixels.",
            )
    values = np.unique(labels.astype(np.uint8))
    if values.tolist() != [0, 1]:
        raise DataError(
            f"{split}_labels of {source} holds {values[:5].tolist()} and must hold 0 and 1.",
            remedy="Use pneumoniamnist.npz of MedMNIST v2, 28 by 28 pixels.",
        )
    return Labelled(images=images.astype(np.uint8), labels=labels.astype(np.uint8)[:, 0])


def spread(
    learn: Pixels, held_out: Pixels, *, sites: int, rng: np.random.Generator
) -> list[tuple[Places, Places]]:
    """Share images among hospitals that differ in size and prevalence.

    Args:
      learn: Labels of the images to learn from, 0 or 1, ``(learn,)``.
      held_out: Labels of the images to test on, ``(held_out,)``.
      sites: Hospitals.
      rng: Chance.

    Returns:
      For each hospital, its images of ``learn`` and of ``held_out``.

    Guarantees:
      - Every image is at exactly one hospital.
      - A hospital's test patients have its own prevalence, up to rounding.
      - Each hospital learns from at least 8 images of either class.

    Raises:
      ConfigError: Too few images for so many hospitals.
    """
    fewest = min(int((learn == label).sum()) for label in (0, 1))
    if sites < 1 or fewest < 2 * LEAST_OF_A_CLASS * sites or len(held_out) < 2 * sites:
        raise ConfigError(
            f"{sites} hospitals cannot share {len(learn)} training images, {fewest} of the "
            f"rarer class, and {len(held_out)} test images.",
            remedy=f"Choose 1 to {max(1, fewest // (2 * LEAST_OF_A_CLASS))} hospitals.",
        )
    size = rng.dirichlet(np.full(sites, SIZE_CONCENTRATION))
    parts: list[tuple[list[Places], list[Places]]] = [([], []) for _ in range(sites)]
    for label in (0, 1):
        share = rng.dirichlet(np.maximum(LABEL_CONCENTRATION * sites * size, 1.0))
        for side, labels in enumerate((learn, held_out)):
            members = rng.permutation(np.flatnonzero(labels == label))
            least = LEAST_OF_A_CLASS if side == 0 else min(1, len(members) // sites)
            spare = len(members) - least * sites
            edges = np.rint(np.cumsum(share) * spare).astype(int) + least * np.arange(1, sites + 1)
            for site, part in enumerate(np.split(members, edges[:-1])):
                parts[site][side].append(part)
    return [(np.concatenate(some), np.concatenate(others)) for some, others in parts]


def write_radiographs(
    folder: Path,
    *,
    learn: Labelled,
    held_out: Labelled,
    sites: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one folder of DICOM files and one ``labels.csv`` per hospital.

    A hospital's ingest holds patients out by a keyed hash of their number.
    Numbers here are invented, so they are drawn until the hash agrees with the
    published split: the door is the usual one, and what it holds out is
    exactly ``held_out``.

    Args:
      folder: Where ``hospital-1``, ``hospital-2``, … go; must not exist.
      learn: Images that hospitals train on.
      held_out: Images that no hospital trains on.
      sites: Hospitals.
      seed: Of the split, the scanners' noise and the invented people; the
        simulation that ingests this must have the same.
      progress: Called with films written and films in all.

    Returns:
      The hospitals' folders, in order.

    Guarantees:
      - The same arguments give the same bytes.
      - All or nothing: the work is done in a hidden sibling and renamed.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))  # phantoms use 0..2
    parts = spread(learn.labels, held_out.labels, sites=sites, rng=rng)
    numbers = iter(rng.permutation(_NUMBERS).tolist())
    total = len(learn.labels) + len(held_out.labels)
    done = 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as work:
        root = Path(work) / "hospitals"
        for site, (ours, tests) in enumerate(parts):
            name = f"hospital-{site + 1}"
            rows = []
            for source, places, held in ((learn, ours, False), (held_out, tests, True)):
                place = hospital(site, seed)
                key = site_key(seed, name)
                ids = _numbers(numbers, place, key=key, held=held)
                for image in places:
                    uid = _write(
                        root / name, source.images[image], next(ids), site=site, seed=seed, rng=rng
                    )
                    rows.append((uid, int(source.labels[image])))
                    done += 1
                    if progress is not None and done % 100 == 0:
                        progress(done, total)
            _write_labels(root / name / "labels.csv", rows)
        root.replace(folder)
    if progress is not None:
        progress(total, total)
    return [folder / f"hospital-{site + 1}" for site in range(sites)]


def scanner_of(site: int) -> Scanner:
    """Return the machine of hospital number ``site`` (from 0), set up for children."""
    machine = SCANNERS[site % len(SCANNERS)]
    # A lead letter would cover a fortieth of so small a film.
    return replace(machine, field_mm=CHEST_FIELD * machine.field_mm, marker=False)


def _numbers(
    candidates: Iterator[int], place: Hospital, *, key: bytes, held: bool
) -> Iterator[str]:
    share = CohortSpec(image_size=_SMALLEST, labels=(LABEL,)).test_fraction
    for candidate in candidates:
        number = place.mrn_format.format(candidate + 100_000)
        if is_held_out(key, number, share) == held:
            yield number


def _write(
    folder: Path, image: Pixels, number: str, *, site: int, seed: int, rng: np.random.Generator
) -> str:
    """Expose and write one film; nothing in its header depends on the label."""
    attributes = Attributes(
        sex="F" if rng.random() < 0.5 else "M",
        age_years=int(rng.integers(1, 6)),
        body_size=float(rng.normal()),
    )
    place, scanner = hospital(site, seed), scanner_of(site)
    person = _child(draw_person(rng, attributes, place, 0), attributes, number)
    exposure = float(rng.lognormal(0.0, 0.15))
    depth = image.astype(np.float32) * np.float32(FILM_DEPTH / 255)
    film = Film(
        stored=digitise(expose(rng, depth, scanner, exposure=exposure), scanner),
        exposure=exposure,
        sop_uid=_uid(rng),
        study_uid=_uid(rng),
        series_uid=_uid(rng),
        taken=datetime.combine(person.first_visit, time(7, 0))
        + timedelta(seconds=int(rng.integers(0, 36_000))),
        study_number=1,
        number=1,
    )
    path = folder / "DICOM" / number.replace("/", "-") / "IM000001.dcm"
    write_film(path, film, attributes=attributes, person=person, place=place, scanner=scanner)
    return film.sop_uid


def _child(person: Person, attributes: Attributes, number: str) -> Person:
    height_m = 0.70 + 0.07 * attributes.age_years
    return replace(
        person,
        number=number,
        height_m=round(height_m, 2),
        weight_kg=round((16.0 + attributes.body_size) * height_m**2, 1),
        history="cough and fever",
    )


def _write_labels(path: Path, rows: list[tuple[str, int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("sop_instance_uid", LABEL))
        table.writerows(sorted(rows))


def _uid(rng: np.random.Generator) -> str:
    return f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"
