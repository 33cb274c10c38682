"""Phantoms: synthetic hospitals whose patients nobody can harm.

The films are real DICOM under headers full of invented identifiers; the nodules
are known to the millimetre; the hospitals differ in scanner, prevalence and
size. ``write_hospitals`` builds them, ``render`` makes one film, and
``public_images`` is what an attacker may have seen elsewhere.

>>> public_images(2, 16, seed=0).shape
(2, 1, 16, 16)
"""

from septum_bench.phantoms.anatomy import Anatomy, Attributes, draw_attributes, grow
from septum_bench.phantoms.hospitals import write_hospitals
from septum_bench.phantoms.public import public_images
from septum_bench.phantoms.radiograph import render
from septum_bench.phantoms.roster import PhantomPlan
from septum_bench.phantoms.scanner import SCANNERS, Scanner

__all__ = [
    "SCANNERS",
    "Anatomy",
    "Attributes",
    "PhantomPlan",
    "Scanner",
    "draw_attributes",
    "grow",
    "public_images",
    "render",
    "write_hospitals",
]
