"""Which releases the coordinator accepts, and for how much. It checks; it repairs nothing."""

from typing import Final

import numpy as np

from septum.errors import AdmissionError
from septum.step_bounds import update_norm, update_norm_bound
from septum.study import Study
from septum.wire import Instruction, Release

_SLACK: Final = 1.0 + 1e-6  # the site and this check round differently
_LOUDEST: Final = 10.0  # a site states its own noise, and with it its own norm bound


def admit(release: Release, *, study: Study, instruction: Instruction) -> float:
    """Accept ``release`` as an answer to ``instruction``, or say why not; return its norm.

    Raises:
      AdmissionError: An earlier round, another study or instruction; a site that is not in
        the study; a privacy promise weaker than the study's, or noise that
        drowns the others; a wrong shape; a value that is not finite; a norm
        that the mechanism cannot have made.
    """
    if release.study == instruction.study and release.round < instruction.round:
        raise AdmissionError("REPLAYED: the release answers an earlier round.")
    expected = (instruction.study, instruction.round, instruction.digest)
    if (release.study, release.round, release.instruction) != expected:
        raise AdmissionError("OTHER_INSTRUCTION: the release answers another instruction.")
    if release.site not in {site.name for site in study.sites}:
        raise AdmissionError("UNKNOWN_SITE: the release comes from a site outside the study.")
    terms = study.privacy
    if (
        release.noise_multiplier < terms.noise_multiplier
        or not 0 < release.max_grad_norm <= terms.max_grad_norm
    ):
        raise AdmissionError("WEAKER_PRIVACY: less noise or a larger clip than the study's.")
    if release.noise_multiplier > _LOUDEST * terms.noise_multiplier:
        raise AdmissionError(
            f"TOO_MUCH_NOISE: more than {_LOUDEST:g} times the study's noise multiplier."
        )
    if release.update.shape != instruction.model.shape:
        raise AdmissionError(
            f"SHAPE: the update has shape {release.update.shape}; "
            f"the model has {instruction.model.shape}."
        )
    norm = update_norm(release.update)
    if not np.isfinite(norm):
        raise AdmissionError("NOT_FINITE: the update holds a value that is not finite.")
    bound = _bound(release, study=study, parameters=len(release.update))
    if norm > bound * _SLACK:
        raise AdmissionError(f"NORM: the update's norm is {norm:.4g}; the limit is {bound:.4g}.")
    return norm


def share(release: Release, *, study: Study, parameters: int) -> float:
    """Return how much of a release's update counts: 1, or less where it states more noise.

    A hospital may add more noise than the study asks for, and its update is then
    longer. It counts for as much as brings it back to the length that the study's
    own noise makes, while its patients weigh what they weigh: so a claim of more
    noise moves the model no further than none does. Made of public constants alone.

    Args:
      release: An admitted one; its update is not looked at.
      study: Its study.
      parameters: Numbers of an update.

    Guarantees:
      - Times the norm limit of :func:`admit`, it is no more than the study's own limit.
    """
    own = update_norm_bound(study.mechanism(release.site), study.training, parameters=parameters)
    return min(1.0, own / _bound(release, study=study, parameters=parameters))


def _bound(release: Release, *, study: Study, parameters: int) -> float:
    """Return the norm that the mechanism as stated does not pass."""
    stated = study.mechanism(release.site).model_copy(
        update={
            "noise_multiplier": release.noise_multiplier,
            "max_grad_norm": release.max_grad_norm,
        }
    )
    return update_norm_bound(stated, study.training, parameters=parameters)
