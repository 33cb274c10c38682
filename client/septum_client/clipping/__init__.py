"""Per-patient clipping in one forward and one backward pass: a ``grad_sample_mode`` for Opacus.

The method is book-keeping (Bu et al. 2023, arXiv:2210.00038) with the cheaper
of two norms per layer (mixed ghost clipping, Bu et al. 2022, arXiv:2205.10683),
grouped by patient: what is clipped is a patient's gradient over all its images.
"""

from septum_client.clipping.book import Book
from septum_client.clipping.exactness import verify
from septum_client.clipping.memory import free_bytes, physical_batch, row_bytes
from septum_client.clipping.module import PatientGradSampleModule
from septum_client.clipping.optimizer import PatientOptimizer
from septum_client.clipping.patients import Patients
from septum_client.clipping.places import places_alike

__all__ = [
    "Book",
    "PatientGradSampleModule",
    "PatientOptimizer",
    "Patients",
    "free_bytes",
    "physical_batch",
    "places_alike",
    "row_bytes",
    "verify",
]
