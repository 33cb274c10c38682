"""Which releases the coordinator accepts. It checks; it repairs nothing."""

from typing import Final

import numpy as np

from septum.errors import AdmissionError
from septum.step_bounds import update_norm, update_norm_bound
from septum.study import Study
from septum.wire import Instruction, Release

_SLACK: Final = 1.0 + 1e-6  # the site and this check round differently
_LOUDEST: Final = 10.0  # a site states its own noise, and with it its own norm bound


def admit(release: Release, *, study: Study, instruction: Instruction) -> None:
    """Accept ``release`` as an answer to ``instruction``, or say why not.

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
    mechanism = study.mechanism(release.site).model_copy(
        update={
            "noise_multiplier": release.noise_multiplier,
            "max_grad_norm": release.max_grad_norm,
        }
    )
    bound = update_norm_bound(mechanism, study.training, parameters=len(release.update))
    if norm > bound * _SLACK:
        raise AdmissionError(f"NORM: the update's norm is {norm:.4g}; the limit is {bound:.4g}.")
