"""Who stands in front of the detector: the parametric chest of one phantom patient.

All lengths are millimetres in the frontal plane, seen as a radiologist sees the
film: ``x`` is 0 at the midline and positive towards the patient's *left* (the
right of the image), ``y`` is 0 at the top edge of the film and grows downwards.
Numbers are rounded textbook adult anatomy; they make films plausible, not true.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Sex = Literal["F", "M"]

# --- the table of difficulty: change these numbers, and only these, to make the task harder ---


@dataclass(frozen=True, kw_only=True)
class LesionKind:
    """One stratum of nodules: its share, its size and how dense its tissue is.

    Attributes:
      share: Fraction of the positive patients, 0..1.
      diameter_mm: Lowest and highest diameter.
      density: Lowest and highest attenuation relative to muscle. Above 1 is
        calcification, far denser than a clinic's: a pixel is 3 to 5 mm wide, and
        training with patient-level privacy needs a finding that stands out.
    """

    share: float
    diameter_mm: tuple[float, float]
    density: tuple[float, float]


LESIONS: Final = (
    LesionKind(share=0.36, diameter_mm=(25.0, 30.0), density=(3.80, 5.00)),
    LesionKind(share=0.42, diameter_mm=(19.0, 25.0), density=(3.80, 5.00)),
    LesionKind(share=0.12, diameter_mm=(10.0, 18.0), density=(3.60, 5.00)),
    LesionKind(share=0.10, diameter_mm=(6.0, 8.0), density=(1.30, 2.00)),
)
LESION_VISIBILITY: Final = (0.80, 1.15)  # factor per film: angle of view, overlap, motion
LESION_DRIFT_MM: Final = 4.0  # standard deviation per film; breathing and parallax
DOTS_MEAN: Final = 3.0  # calcified granulomas and end-on vessels per patient, in either class
DOT_DIAMETER_MM: Final = (2.5, 5.5)

# --- end of the table ---

TEXTURE_CELLS: Final = 40  # per side; one cell is about 9 mm
BRANCHES_PER_LUNG: Final = 26
STEPS_PER_BRANCH: Final = 22
AGE_LIMITS_YEARS: Final = (18, 94)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What a clerk would note about a patient, and what changes the anatomy.

    Attributes:
      sex: ``"F"`` or ``"M"``, as DICOM PatientSex.
      age_years: 18..94; age widens heart and aorta and thins bone.
      body_size: Standard score of body mass for that sex, about -2..2.
      lesion_mm: Diameter of the nodule, 0 when there is none.
      lesion_density: Attenuation relative to muscle, 0 when there is none.
    """

    sex: Sex
    age_years: int
    body_size: float
    lesion_mm: float = 0.0
    lesion_density: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient's chest; every film of the patient is taken of this same value."""

    attributes: Attributes
    chest_mm: float  # inner half-width of the rib cage at its base
    wall_mm: float  # soft tissue outside the ribs
    depth_mm: float  # front to back
    apex_mm: float  # top of the lungs
    apex_x_mm: float
    dome_mm: tuple[float, float]  # top of the diaphragm: patient's right, left
    dome_bend_mm: float
    shoulder_mm: float
    mediastinum_mm: float  # half-width
    heart_mm: tuple[float, float, float, float]  # centre x, y; half-axes
    heart_tilt: float  # radians
    knob_mm: float  # radius of the aortic arch
    spine_mm: float  # half-width
    spine_bend_mm: float
    rib_gap_mm: float
    rib_start_mm: float
    rib_half_mm: float
    rib_sag_mm: float
    rib_contrast: float
    collar_mm: tuple[float, float]  # clavicles: medial y, rise to the shoulder
    breast_mm: float  # radius, 0 for men
    breast_y_mm: float
    bubble_mm: float  # radius of the gastric air bubble
    hila_mm: tuple[float, float]  # y: patient's right, left
    vessels: Array  # [points, 3]: x, y, cross-section area in mm²
    dots: Array  # [dots, 3]: x, y, diameter
    texture: Array  # [TEXTURE_CELLS, TEXTURE_CELLS], unit variance
    lesion_xy_mm: tuple[float, float]
    lesion_lobes: Array  # [5]: relative amplitude of the outline's harmonics 2..6
    lesion_phases: Array  # [5]: radians

    def without_lesion(self) -> "Anatomy":
        """Return the same chest, healthy: the counterfactual of the label."""
        return replace(self, attributes=replace(self.attributes, lesion_mm=0.0, lesion_density=0.0))

    def chest_half_mm(self, y: Array) -> Array:
        """Return the inner half-width of the rib cage at heights ``y`` (mm)."""
        t = np.clip((y - self.apex_mm) / (self.dome_mm[1] - self.apex_mm), 0.0, 1.0)
        return np.asarray(self.chest_mm * (1.0 - 0.50 * (1.0 - t) ** 2.2), np.float32)


def draw_attributes(rng: np.random.Generator, *, positive: bool) -> Attributes:
    """Draw a patient; sex, age and body size do not depend on ``positive``.

    Args:
      rng: Consumed; always by the same number of draws before the lesion's.
      positive: Whether the patient carries a nodule.

    Returns:
      Attributes with ``lesion_mm > 0`` exactly when ``positive``.
    """
    sex: Sex = "F" if rng.random() < 0.48 else "M"
    age = int(np.clip(rng.normal(59.0, 16.0), *AGE_LIMITS_YEARS))
    size = float(np.clip(rng.normal(0.0, 0.9), -2.0, 2.2))
    healthy = Attributes(sex=sex, age_years=age, body_size=size)
    if not positive:
        return healthy
    kind = LESIONS[int(rng.choice(len(LESIONS), p=[each.share for each in LESIONS]))]
    return replace(
        healthy,
        lesion_mm=round(float(rng.uniform(*kind.diameter_mm)), 1),
        lesion_density=float(rng.uniform(*kind.density)),
    )


def grow(rng: np.random.Generator, attributes: Attributes) -> Anatomy:
    """Draw the chest of a patient with these attributes.

    Guarantees:
      - Everything but the lesion's own fields is drawn before the lesion is
        placed, in the same order for everyone: the healthy anatomy carries no
        trace of the label.
    """
    female = attributes.sex == "F"
    size = attributes.body_size
    aged = (attributes.age_years - 55) / 20.0

    def normal(mean: float, deviation: float) -> float:
        return mean + deviation * float(np.clip(rng.standard_normal(), -2.5, 2.5))

    chest = normal(121.0 if female else 133.0, 5.0) + 3.0 * size
    apex = normal(42.0, 5.0)
    dome = apex + normal(176.0 if female else 192.0, 10.0) - 4.0 * aged - 3.0 * size
    tall = dome - apex
    heart_half = chest * (normal(0.44, 0.03) + 0.022 * aged + 0.008 * size)
    hila = apex + 0.46 * tall
    anatomy = Anatomy(
        attributes=attributes,
        chest_mm=chest,
        wall_mm=max(8.0, normal(19.0 if female else 17.0, 2.5) + 7.0 * size),
        depth_mm=normal(186.0 if female else 204.0, 8.0) + 15.0 * size,
        apex_mm=apex,
        apex_x_mm=normal(60.0, 4.0) * chest / 128.0,
        dome_mm=(dome, dome + normal(9.0, 4.0)),
        dome_bend_mm=normal(27.0, 6.0),
        shoulder_mm=normal(16.0 if female else 10.0, 6.0) - 2.0 * size,
        mediastinum_mm=normal(22.0, 2.5) + 1.5 * aged,
        heart_mm=(
            normal(16.0, 4.0) * chest / 128.0,
            dome - 0.12 * tall + normal(0.0, 5.0),
            heart_half,
            tall * normal(0.25, 0.02),
        ),
        heart_tilt=normal(0.50, 0.13) + 0.05 * aged,
        knob_mm=max(9.0, normal(15.0, 2.0) + 2.6 * aged),
        spine_mm=normal(17.0, 1.2),
        spine_bend_mm=normal(0.0, 3.0) + 1.5 * aged * float(rng.choice([-1.0, 1.0])),
        rib_gap_mm=tall / normal(8.2, 0.35),
        rib_start_mm=apex + normal(0.0, 7.0),
        rib_half_mm=normal(4.6 if female else 5.4, 0.5),
        rib_sag_mm=normal(34.0, 8.0) + 5.0 * aged,
        rib_contrast=float(np.clip(normal(0.15, 0.02) - 0.02 * aged, 0.08, 0.22)),
        collar_mm=(apex + normal(25.0, 6.0), normal(22.0, 7.0)),
        breast_mm=max(30.0, normal(47.0, 6.0) + 7.0 * size) if female else 0.0,
        breast_y_mm=dome - 0.20 * tall + normal(0.0, 7.0) + 6.0 * aged,
        bubble_mm=max(0.0, normal(13.0, 7.0)),
        hila_mm=(hila + normal(5.0, 4.0), hila - normal(4.0, 4.0)),
        vessels=np.empty((0, 3), np.float32),
        dots=np.empty((0, 3), np.float32),
        texture=_fractal(rng),
        lesion_xy_mm=(0.0, 0.0),
        lesion_lobes=np.zeros(5, np.float32),
        lesion_phases=np.zeros(5, np.float32),
    )
    anatomy = replace(anatomy, vessels=_vessels(rng, anatomy), dots=_dots(rng, anatomy))
    if attributes.lesion_mm == 0.0:
        return anatomy
    place = _lung_points(rng, anatomy, 1)[0]
    return replace(
        anatomy,
        lesion_xy_mm=(float(place[0]), float(place[1])),
        lesion_lobes=rng.normal(0.0, 0.035, 5).astype(np.float32),
        lesion_phases=rng.uniform(0.0, 2.0 * math.pi, 5).astype(np.float32),
    )


def _fractal(rng: np.random.Generator) -> Array:
    """Return parenchyma-like noise: power falls as 1/f², zero mean, unit variance."""
    n = TEXTURE_CELLS
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((n, n))) / frequency
    field = np.fft.irfft2(spectrum, s=(n, n))
    return np.asarray(field / field.std(), np.float32)


def _vessels(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """Return centreline points of both arterial trees, fanning out from the hila."""
    branches = 2 * BRANCHES_PER_LUNG
    side = np.repeat([-1.0, 1.0], BRANCHES_PER_LUNG)
    hilum_y = np.repeat(anatomy.hila_mm, BRANCHES_PER_LUNG)
    fan = np.tile(np.linspace(-1.25, 1.35, BRANCHES_PER_LUNG), 2)
    angle = fan + rng.normal(0.0, 0.12, branches)
    turn = rng.normal(0.0, 0.035, (branches, STEPS_PER_BRANCH)).cumsum(axis=1)
    heading = angle[:, None] + turn
    step_mm = rng.uniform(2.4, 4.6, branches)[:, None]
    x = anatomy.mediastinum_mm + 6.0 + (step_mm * np.cos(heading)).cumsum(axis=1)
    y = hilum_y[:, None] + (step_mm * np.sin(heading)).cumsum(axis=1)
    start_mm = rng.uniform(3.0, 7.0, branches)[:, None]
    diameter = start_mm * np.linspace(1.0, 0.30, STEPS_PER_BRANCH)[None, :]
    volume = np.pi / 4.0 * diameter**2 * step_mm
    points = np.stack([side[:, None] * x, y, volume], axis=-1)
    return np.asarray(points.reshape(-1, 3), np.float32)


def _dots(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    count = int(rng.poisson(DOTS_MEAN))
    diameter = rng.uniform(*DOT_DIAMETER_MM, (count, 1))
    return np.asarray(np.hstack([_lung_points(rng, anatomy, count), diameter]), np.float32)


def _lung_points(rng: np.random.Generator, anatomy: Anatomy, count: int) -> Array:
    """Return ``count`` points (x, y) in aerated lung, clear of heart and diaphragm."""
    side = rng.choice([-1.0, 1.0], count)
    # The heart hides the lower left lung's inner half.
    inner = np.where(side > 0, 0.42, 0.30)
    u = rng.uniform(inner, 0.80, count)
    t = rng.uniform(0.22, 0.84, count)
    low = np.where(t > 0.55, np.where(side > 0, 0.66, 0.40), 0.0)
    u = np.maximum(u, np.minimum(low + 0.1 * rng.random(count), 0.80))
    y = anatomy.apex_mm + t * (anatomy.dome_mm[0] - anatomy.apex_mm)
    half = anatomy.chest_half_mm(y.astype(np.float32))
    x = anatomy.mediastinum_mm + u * (half - anatomy.mediastinum_mm)
    return np.asarray(np.stack([side * x, y], axis=1), np.float32)
