"""Invented people: the names, numbers and addresses that must never leave a hospital.

Nobody here exists. Telephone numbers are from the range that Ofcom reserves for
drama (01632 960xxx); everything else comes from the tables below.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np

from septum_bench.phantoms.anatomy import Attributes, Sex

_FAMILY: Final = (
    "Abernathy", "Achterberg", "Balogun", "Castellanos", "Dragomir", "Ekström", "Farouqi",
    "Grünwald", "Halloran", "Ivanović", "Jakobsen", "Kowalczyk", "Lindqvist", "Mbeki", "Nakagawa",
    "O'Rourke", "Papadakis", "Quesada", "Rasmussen", "Sándor", "Thibault", "Uchida", "Vandermeer",
    "Whitcombe", "Xanthopoulos", "Yilmaz", "Zabłocki", "Brandão", "Chaudhry", "Dufresne",
)  # fmt: skip
_GIVEN: Final[dict[Sex, tuple[str, ...]]] = {
    "F": ("Adaeze", "Birgit", "Clémence", "Dorota", "Elena", "Fatima", "Greta", "Hanako", "Ingrid",
          "Josephine", "Katarzyna", "Leonor", "Marisol", "Nadia", "Ottilie", "Priya"),
    "M": ("Anselm", "Bogdan", "Cormac", "Dmitri", "Emeka", "Florian", "Gustaf", "Haruto", "Ibrahim",
          "Joaquín", "Kazimir", "Lorenzo", "Matthias", "Nikos", "Oluwaseun", "Rafael"),
}  # fmt: skip
_STREETS: Final = ("Alder Lane", "Bakery Row", "Canal Street", "Dovecote Hill", "Elm Crescent")
_HISTORIES: Final = (
    "cough for six weeks", "weight loss and night sweats", "follow-up of a known finding",
    "pre-operative assessment", "chest pain on exertion", "ex-smoker, 30 pack years",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One invented hospital: what its machines print into every header."""

    name: str
    address: str
    department: str
    station: str
    serial: str
    mrn_format: str  # of one integer, unique in the whole plan
    staff: tuple[str, str, str]  # referring, performing, operator; DICOM person names
    named_folders: bool  # the export's paths carry the patient's name and number


# fmt: off
_HOSPITALS: Final = (
    ("St. Brannoc's General Hospital", "1 Infirmary Road, Averham", "Radiology", "AVX-DX-01",
     "MRN{:07d}",
     ("Pemberton^Alice^^Dr", "Oyelaran^Tunde^^Dr", "Bright^Sam")),
    ("Klinikum Hohenlinden", "Lindenallee 44, 99999 Hohenlinden", "Röntgen 2", "HL_CR_2",
     "HL-{:06d}",
     ("Vogt^Renate^^Dr. med.", "Kaspar^Jürgen^^Dr. med.", "Amsel^Ute")),
    ("Fjordvik Universitetssykehus", "Havnegata 9, Fjordvik", "Thorax", "FJV-TX3",
     "{:010d}",
     ("Nordahl^Siri^^Dr", "Hauge^Eirik^^Dr", "Moen^Lise")),
    ("Cresthaven Community Clinic", "200 Orchard Ave, Cresthaven", "Mobile X-ray", "CCC-PORT2",
     "CC{:06d}A",
     ("Delgado^Maria^^Dr", "Tran^Minh^^Dr", "Reyes^Luis")),
    ("Hôpital Sainte-Oriane", "12 rue des Tilleuls, Valmère", "Imagerie", "HSO-DX-B",
     "SO/{:07d}",
     ("Lefèvre^Odile^^Dr", "Marchand^Yves^^Dr", "Petit^Luc")),
    ("Northmoor Veterans' Hospital", "75 Garrison Way, Northmoor", "Diagnostic Imaging",
     "NMV-CR-90", "NV{:08d}",
     ("Strand^Helen^^Dr", "Kimura^Ken^^Dr", "Fox^Dana")),
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Person:
    """What one hospital knows about one patient besides the images."""

    name: str  # DICOM person name, family^given
    number: str  # PatientID, the MRN
    birth: date
    address: str
    telephone: str
    mother: str
    history: str
    height_m: float
    weight_kg: float
    first_visit: date


def hospital(site: int, seed: int) -> Hospital:
    """Return the invented hospital number ``site`` (from 0); the table repeats after six."""
    kind = site % len(_HOSPITALS)
    again = site // len(_HOSPITALS)
    name, address, department, station, mrn, staff = _HOSPITALS[kind]
    suffix = f" {again + 1}" if again else ""
    return Hospital(
        name=name + suffix,
        address=address,
        department=department,
        station=station + suffix.strip(),
        serial=f"SN{(seed * 7919 + site * 104_729) % 9_000_000 + 1_000_000}",
        mrn_format=mrn,
        staff=staff,
        named_folders=site % 2 == 1,
    )


def draw_person(
    rng: np.random.Generator, attributes: Attributes, place: Hospital, patient: int
) -> Person:
    """Draw the identity of patient number ``patient`` (unique in the plan, below 900,000).

    Guarantees:
      - Two patients of a plan never share a number, whichever their hospitals.
      - On every day from ``first_visit`` to 30 days later the patient is
        ``attributes.age_years`` old.
    """

    def pick(table: tuple[str, ...]) -> str:
        return table[int(rng.integers(len(table)))]

    first_visit = date(2021, 1, 1) + timedelta(days=int(rng.integers(0, 1400)))
    # 365.25 days a year and both margins keep the birthday outside the 30 days of visits.
    days = int(attributes.age_years * 365.25) + int(rng.integers(2, 330))
    female = attributes.sex == "F"
    height = float(rng.normal(1.64 if female else 1.77, 0.06))
    mass_index = float(np.clip(25.5 + 4.5 * attributes.body_size + rng.normal(0.0, 1.0), 16, 45))
    family = pick(_FAMILY)
    # 7919 is prime to 900,000, so numbers look scattered and never collide.
    number = place.mrn_format.format((patient * 7919 + 31_337) % 900_000 + 100_000)
    return Person(
        name=f"{family}^{pick(_GIVEN[attributes.sex])}",
        number=number,
        birth=first_visit - timedelta(days=days),
        address=f"{int(rng.integers(1, 200))} {pick(_STREETS)}",
        telephone=f"01632 960{int(rng.integers(1000)):03d}",
        mother=pick(_FAMILY),
        history=pick(_HISTORIES),
        height_m=round(height, 2),
        weight_kg=round(mass_index * height**2, 1),
        first_visit=first_visit,
    )
