"""A made-up hospital in memory, to record clients with where no hospital's data is at hand."""

from types import MappingProxyType

import numpy as np

from septum.study import Data, Participant, Privacy, Study
from septum.training import Aggregation, Training
from septum_bench.phantoms import public_images
from septum_client.cohort import Cohort, CohortSpec, Split

SITE = "practice"


def practice_study(
    *,
    patients: int = 60,
    image_size: int = 32,
    steps: int = 20,
    noise_multiplier: float = 1.0,
    max_grad_norm: float = 0.3,
    sampling_rate: float = 0.2,
) -> Study:
    """Return a study of one round whose clip binds on every patient of :func:`practice_cohort`.

    Args:
      patients: Train patients, which it also declares.
      image_size: Pixels a side.
      steps: Of the round.
      noise_multiplier: Of the mechanism.
      max_grad_norm: Clip: about a tenth of what untrained gradients measure.
      sampling_rate: Of each step.
    """
    return Study(
        name="practice",
        purpose="Conformance of a client; no hospital takes part.",
        rounds=1,
        data=Data(image_size=image_size, labels=("sick",)),
        training=Training(learning_rate=0.5, images_per_patient=2),
        privacy=Privacy(
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            sampling_rate=sampling_rate,
            steps_per_round=steps,
            delta=1e-4,
        ),
        strategy=Aggregation(minimum_sites=1),
        sites=(Participant(name=SITE, patients=patients),),
    )


def practice_cohort(study: Study, *, seed: int, images_each: int = 2) -> Cohort:
    """Return a cohort of phantoms for ``study``, in memory, all of whose patients train.

    Args:
      study: Of :func:`practice_study`.
      seed: Of the phantoms and their labels.
      images_each: Images of each patient.
    """
    count = study.participant(SITE).patients
    rows = count * images_each
    side = study.data.image_size
    images = public_images(rows, side, seed=seed).astype(np.float16)
    owner = np.repeat(np.arange(count, dtype=np.int32), images_each)
    labels = np.random.default_rng(seed).integers(0, 2, (count, 1))[owner].astype(np.float32)
    nobody = np.zeros(count, dtype=np.uint8)
    return Cohort(
        spec=CohortSpec.of(study.data),
        images=images,
        labels=labels,
        patient_of_image=owner,
        split=np.full(count, Split.TRAIN, dtype=np.uint8),
        sex=nobody,
        age_band=nobody,
        declared=nobody,
        meta=MappingProxyType({}),
        pseudonyms=tuple(f"{patient:032x}" for patient in range(count)),
        quarantined=MappingProxyType({}),
        lineage=MappingProxyType({}),
        digest="",
        images_digest="",
    )
