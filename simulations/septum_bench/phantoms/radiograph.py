"""The film itself: an anatomy, a pose and a scanner become a frontal radiograph.

Every structure is a soft-edged field on the detector's grid, in millimetres of
tissue along the ray; Beer and Lambert do the rest. Nothing is rasterised at a
higher resolution: edges are sigmoids about a pixel wide, so a film costs a few
milliseconds.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from septum_bench.phantoms.anatomy import (
    LESION_DRIFT_MM,
    LESION_VISIBILITY,
    TEXTURE_CELLS,
    Anatomy,
)
from septum_bench.phantoms.scanner import Scanner, expose

Array = NDArray[np.float32]
Field = NDArray[np.floating[Any]]  # what arithmetic with Python floats is typed as; still float32

MUSCLE_PER_MM: Final = 0.0185  # effective, scatter included, about 100 kVp
AIR_IN_LUNG: Final = 0.76
DEFAULT_MATRIX: Final = 96


@dataclass(frozen=True, kw_only=True)
class View:
    """How the patient stood and breathed for one film.

    Attributes:
      shift_mm: Off-centre by (x, y).
      turn: In-plane rotation, radians.
      zoom: Magnification; the distance to the detector varies.
      breath: -1 (expired) to 1 (deep inspiration).
      exposure: Dose relative to the scanner's usual.
      lesion_shift_mm: Where breathing and parallax put the nodule, (x, y).
      lesion_visibility: Factor on the nodule's contrast.
    """

    shift_mm: tuple[float, float]
    turn: float
    zoom: float
    breath: float
    exposure: float
    lesion_shift_mm: tuple[float, float]
    lesion_visibility: float


def draw_view(rng: np.random.Generator) -> View:
    """Draw the pose, breath and exposure of one film."""
    x, y, turn, zoom = rng.standard_normal(4)
    return View(
        shift_mm=(6.0 * float(x), 6.0 * float(y)),
        turn=0.025 * float(turn),
        zoom=float(np.exp(0.025 * zoom)),
        breath=float(np.clip(rng.normal(0.3, 0.5), -1.0, 1.0)),
        exposure=float(np.exp(rng.normal(0.0, 0.25))),
        lesion_shift_mm=(
            float(rng.normal(0.0, LESION_DRIFT_MM)),
            float(rng.normal(0.0, LESION_DRIFT_MM)),
        ),
        lesion_visibility=float(rng.uniform(*LESION_VISIBILITY)),
    )


def render(
    rng: np.random.Generator,
    anatomy: Anatomy,
    scanner: Scanner,
    *,
    matrix: int = DEFAULT_MATRIX,
) -> Array:
    """Return one film of a patient; each call draws a new pose, breath, dose and noise.

    Args:
      rng: The only source of chance.
      anatomy: From :func:`~septum_bench.phantoms.anatomy.grow`; shared by a patient's films.
      scanner: The machine.
      matrix: Rows and columns.

    Returns:
      float32 ``[matrix, matrix]`` in [0, 1]; dense tissue is white (MONOCHROME2).

    Guarantees:
      - The same generator state and arguments give the same film.
      - The draws do not depend on the lesion: a patient with and without it,
        from equal generators, differ in the nodule alone.
    """
    return film_of(rng, anatomy, draw_view(rng), scanner, matrix=matrix)


def film_of(
    rng: np.random.Generator, anatomy: Anatomy, view: View, scanner: Scanner, *, matrix: int
) -> Array:
    """Return the film of a chosen view; ``rng`` gives the noise only."""
    depth = attenuation(anatomy, view, field_mm=scanner.field_mm, matrix=matrix)
    return expose(rng, depth, scanner, exposure=view.exposure)


def attenuation(anatomy: Anatomy, view: View, *, field_mm: float, matrix: int) -> Array:
    """Return the optical depth of each ray: float32 ``[matrix, matrix]``, at least 0."""
    x, y = grid(view, field_mm, matrix)
    chest = anatomy.chest_half_mm(y)
    body = _body(anatomy, x, y, chest)
    lung = lungs(anatomy, view, x, y, chest)
    # What lies in the lung is seen against air; a tenth of it shines through elsewhere.
    airy = lung / np.float32(0.6 * anatomy.depth_mm)
    depth = MUSCLE_PER_MM * (body - AIR_IN_LUNG * lung)
    depth += airy * _parenchyma(anatomy, view, x, y, field_mm=field_mm)
    depth += _bones(anatomy, view, x, y, chest) * np.minimum(body / 60.0, 1.0)
    depth += _soft_parts(anatomy, view, x, y)
    if anatomy.attributes.lesion_mm > 0.0:
        depth += np.minimum(airy + 0.1, 1.0) * lesion(anatomy, view, x, y)
    return np.asarray(np.maximum(depth, 0.0), np.float32)


def grid(view: View, field_mm: float, matrix: int) -> tuple[Array, Array]:
    """Return body coordinates (x, y) in mm of each pixel's centre."""
    line = (np.arange(matrix, dtype=np.float32) + 0.5) * np.float32(field_mm / matrix)
    across = (line - field_mm / 2 - view.shift_mm[0])[None, :] / view.zoom
    down = (line - field_mm / 2 - view.shift_mm[1])[:, None] / view.zoom
    cosine, sine = math.cos(view.turn), math.sin(view.turn)
    x = cosine * across + sine * down
    y = cosine * down - sine * across + field_mm / 2
    return x.astype(np.float32), y.astype(np.float32)


def _soft(distance_mm: Field, width_mm: float) -> Array:
    """Return 0..1: a step over ``distance_mm`` = 0, about ``4 * width_mm`` wide."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance_mm * np.float32(0.5 / width_mm)), np.float32)


def _ellipse(x: Field, y: Field, a: float, b: float, soft_mm: float) -> Array:
    radius = np.sqrt((x / np.float32(a)) ** 2 + (y / np.float32(b)) ** 2)
    return _soft((1.0 - radius) * np.float32(min(a, b)), soft_mm)


def _body(anatomy: Anatomy, x: Array, y: Array, chest: Array) -> Array:
    """Return millimetres of body along each ray."""
    ax = np.abs(x)
    trunk = chest + np.float32(anatomy.wall_mm)
    # Shoulders and upper arms leave the film sideways; the flank starts below the axilla.
    arms = 140.0 * _soft(anatomy.apex_mm + 66.0 - y, 12.0)
    flank = trunk + arms
    thick = np.sqrt(np.clip(1.0 - (ax / (flank + 8.0)) ** 2.6, 0.0, 1.0))
    top = anatomy.shoulder_mm + 0.30 * np.maximum(ax - 62.0, 0.0) - 140.0 * _soft(58.0 - ax, 6.0)
    neck = 0.60 + 0.40 * _soft(y - anatomy.apex_mm - 30.0, 22.0)
    inside = _soft(flank - ax, 2.0) * _soft(y - top, 4.0)
    return np.asarray(anatomy.depth_mm * thick * neck * inside, np.float32)


def lungs(anatomy: Anatomy, view: View, x: Array, y: Array, chest: Array) -> Array:
    """Return millimetres of lung along each ray; heart, great vessels and diaphragm cut it."""
    ax = np.abs(x)
    left = x > 0
    span = np.maximum(chest - anatomy.mediastinum_mm, 1.0)
    u = (ax - np.float32(anatomy.mediastinum_mm)) / span
    profile = np.clip(4.0 * u * (1.0 - u), 0.0, 1.0) ** 0.42
    roof = anatomy.apex_mm + 0.016 * (ax - anatomy.apex_x_mm) ** 2
    dome = np.where(left, np.float32(anatomy.dome_mm[1]), np.float32(anatomy.dome_mm[0]))
    bow = (ax - 0.48 * anatomy.chest_mm) / (0.5 * anatomy.chest_mm)
    floor = dome + 12.0 * view.breath + anatomy.dome_bend_mm * bow**2
    lung = profile * _soft(y - roof, 3.0) * _soft(floor - y, 2.0)
    cx, cy, a, b = anatomy.heart_mm
    cosine, sine = math.cos(anatomy.heart_tilt), math.sin(anatomy.heart_tilt)
    dx, dy = x - np.float32(cx), y - np.float32(cy + 8.0 * view.breath)
    heart = _ellipse(cosine * dx + sine * dy, cosine * dy - sine * dx, a, b, 2.0)
    atrium = _ellipse(x + 0.20 * anatomy.chest_mm, dy, 0.17 * anatomy.chest_mm, 0.8 * b, 2.5)
    knob_y = anatomy.hila_mm[1] - 28.0
    knob = _ellipse(
        x - np.float32(anatomy.mediastinum_mm - 2.0),
        y - np.float32(knob_y),
        anatomy.knob_mm,
        1.1 * anatomy.knob_mm,
        2.0,
    )
    solid = np.maximum(np.maximum(heart, atrium), knob)
    reach = 0.60 * anatomy.depth_mm * (1.0 + 0.05 * view.breath)
    return np.asarray(reach * lung * (1.0 - 0.80 * solid), np.float32)


def _parenchyma(anatomy: Anatomy, view: View, x: Array, y: Array, *, field_mm: float) -> Array:
    """Return what lies in aerated lung: vessels, dots and interstitial texture."""
    matrix = x.shape[0]
    pixel_mm = field_mm / matrix
    points = np.vstack([anatomy.vessels, anatomy.dots])
    mass = MUSCLE_PER_MM * points[:, 2]
    sphere = np.pi / 6.0 * anatomy.dots[:, 2] ** 3
    mass[len(anatomy.vessels) :] = 2.2 * MUSCLE_PER_MM * sphere  # calcified, or a vessel end-on
    stretch = 1.0 + 0.03 * view.breath
    px, py = points[:, 0], anatomy.apex_mm + (points[:, 1] - anatomy.apex_mm) * stretch
    py = py - np.float32(field_mm / 2)
    cosine, sine = math.cos(view.turn), math.sin(view.turn)
    column = ((cosine * px - sine * py) * view.zoom + view.shift_mm[0] + field_mm / 2) / pixel_mm
    row = ((sine * px + cosine * py) * view.zoom + view.shift_mm[1] + field_mm / 2) / pixel_mm
    lines = _splat(row - 0.5, column - 0.5, mass / pixel_mm**2, matrix)
    cell = np.float32((TEXTURE_CELLS - 1) / 380.0)
    where = np.stack([(y + 10.0) * cell, (x + 190.0) * cell])
    texture = ndimage.map_coordinates(anatomy.texture, where, order=1, mode="nearest")
    return np.asarray(lines + 0.045 * texture, np.float32)


def _splat(row: Array, column: Array, mass: Array, matrix: int) -> Array:
    """Return bilinear deposits of point masses on the grid; points outside are dropped."""
    inside = (row >= 0) & (row < matrix - 1) & (column >= 0) & (column < matrix - 1)
    row, column, mass = row[inside], column[inside], mass[inside]
    r, c = row.astype(np.intp), column.astype(np.intp)
    fr, fc = row - r, column - c
    index = np.concatenate([r * matrix + c, r * matrix + c + 1])
    index = np.concatenate([index, index + matrix])
    upper = np.concatenate([mass * (1 - fr) * (1 - fc), mass * (1 - fr) * fc])
    lower = np.concatenate([mass * fr * (1 - fc), mass * fr * fc])
    weights = np.concatenate([upper, lower])
    total = np.bincount(index, weights, minlength=matrix * matrix)
    return np.asarray(total.reshape(matrix, matrix), np.float32)


def _bones(anatomy: Anatomy, view: View, x: Array, y: Array, chest: Array) -> Array:
    """Return the optical depth of ribs, spine and clavicles."""
    ax = np.abs(x)
    out = np.minimum(ax / chest, 1.0)
    cage = _soft(chest + 5.0 - ax, 1.5) * _soft(y - anatomy.apex_mm + 8.0, 4.0)
    cage = cage * (0.15 + 0.85 * _soft(anatomy.dome_mm[0] + 30.0 - y, 9.0))
    # Rays meet a rib edge-on where the cage turns.
    turned = 1.0 / np.sqrt(np.maximum(1.0 - out**2, 0.0) + 0.22)
    lift = anatomy.rib_start_mm - 3.0 * view.breath
    back = _bands(y - lift - anatomy.rib_sag_mm * out**2 + 9.0 * np.sin(3.1 * out), anatomy)
    front = _bands(y - lift - 62.0 * (1.0 - out) - 0.5 * anatomy.rib_gap_mm, anatomy)
    # Costal cartilage does not show: front ribs fade towards the sternum.
    ribs = 0.62 * turned * cage * (back + 0.55 * front * _soft(ax - 0.42 * anatomy.chest_mm, 4.0))
    bend = anatomy.spine_bend_mm * np.sin(y * np.float32(np.pi / 260.0))
    column = _soft(anatomy.spine_mm - np.abs(x - bend), 2.0)
    discs = 0.80 + 0.20 * np.cos(y * np.float32(2.0 * np.pi / 23.0))
    trachea = _soft(8.0 - np.abs(x - 1.0), 1.5) * _soft(anatomy.hila_mm[1] - 12.0 - y, 5.0)
    medial, rise = anatomy.collar_mm
    run = np.clip((ax - 14.0) / 120.0, 0.0, 1.3)
    collar_y = medial - rise * run - 7.0 * np.sin(5.2 * run)
    collar = _soft(5.2 - np.abs(y - collar_y), 1.3) * _soft(ax - 14.0, 2.0) * _soft(150.0 - ax, 6.0)
    depth = ribs + 2.0 * column * discs + 1.25 * collar
    return np.asarray(anatomy.rib_contrast * depth - 0.42 * trachea, np.float32)


def _bands(height_mm: Field, anatomy: Anatomy) -> Array:
    """Return ribs as one periodic band with brighter cortical rims."""
    gap = np.float32(anatomy.rib_gap_mm)
    near = np.abs(height_mm - gap * np.rint(height_mm / gap))
    rim = np.exp(-(((near - np.float32(anatomy.rib_half_mm)) / np.float32(1.8)) ** 2))
    return np.asarray(_soft(anatomy.rib_half_mm - near, 1.0) + 0.45 * rim, np.float32)


def _soft_parts(anatomy: Anatomy, view: View, x: Array, y: Array) -> Array:
    """Return breasts and hila, less the gastric bubble, as optical depth."""
    ax = np.abs(x)
    depth = np.zeros_like(x)
    for side, hilum_y in zip((-1.0, 1.0), anatomy.hila_mm, strict=True):
        hx = x * np.float32(side) - np.float32(anatomy.mediastinum_mm + 6.0)
        depth += 0.34 * np.exp(-((hx / 10.0) ** 2) - ((y - np.float32(hilum_y)) / 21.0) ** 2)
    if anatomy.breast_mm > 0.0:
        r = anatomy.breast_mm
        bx = ax - np.float32(0.60 * anatomy.chest_mm)
        by = y - np.float32(anatomy.breast_y_mm)
        dome = np.sqrt(np.clip(1.0 - (bx / (1.15 * r)) ** 2 - (by / r) ** 2, 0.0, 1.0))
        depth += np.float32(0.011 * r) * dome * _soft(by + 0.55 * r, 9.0)
    if anatomy.bubble_mm > 5.0:
        below = y - np.float32(anatomy.dome_mm[1] + 12.0 * view.breath + 16.0)
        gas = _ellipse(x - 54.0, below, 1.7 * anatomy.bubble_mm, 0.8 * anatomy.bubble_mm, 2.0)
        depth -= 0.75 * gas
    return depth


def lesion(anatomy: Anatomy, view: View, x: Array, y: Array) -> Array:
    """Return the nodule's optical depth: a lobulated ball of soft tissue."""
    stretch = 1.0 + 0.03 * view.breath
    cx = anatomy.lesion_xy_mm[0] + view.lesion_shift_mm[0]
    cy = anatomy.apex_mm + (anatomy.lesion_xy_mm[1] - anatomy.apex_mm) * stretch
    dx, dy = x - np.float32(cx), y - np.float32(cy + view.lesion_shift_mm[1])
    radius = anatomy.attributes.lesion_mm / 2.0
    angle = np.arctan2(dy, dx)
    outline = np.ones_like(x)
    for order, (lobe, phase) in enumerate(
        zip(anatomy.lesion_lobes, anatomy.lesion_phases, strict=True), start=2
    ):
        outline += lobe * np.cos(order * angle + phase)
    reach = np.hypot(dx, dy) / (np.float32(radius) * outline)
    # A ball's chord, with enough rim to stay visible where it is only a pixel wide.
    chord = 2.0 * radius * np.sqrt(np.clip(1.08 - reach**2, 0.0, 1.0))
    weight = MUSCLE_PER_MM * anatomy.attributes.lesion_density * view.lesion_visibility
    return np.asarray(weight * chord, np.float32)
