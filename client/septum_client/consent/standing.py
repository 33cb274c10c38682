"""Who of a cohort may train a study today: the register as it is now, asked for each patient."""

from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from septum.study import Study
from septum_client.cohort import Cohort
from septum_client.consent.register import FOLDER, Register
from septum_client.policy import Policy
from septum_client.site import Site


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """Who is permitted, bool ``(patients,)``, and by which register."""

    permitted: NDArray[np.bool_] = field(repr=False)
    register: Register


def standing(site: Site, cohort: Cohort, study: Study, *, policy: Policy, today: date) -> Standing:
    """Ask the register on disk about every patient of ``cohort``.

    Guarantees:
      - Each patient's answer depends on this patient's records alone. Adding or
        removing one patient never changes who else may train, so the mechanism's
        neighbouring relation, and with it epsilon, is what it was.

    Raises:
      DataError: The register cannot be read; then nobody is permitted.
    """
    register = Register.load(site.folder / FOLDER, site.key)
    digest = study.digest
    permitted = [
        register.permits(
            pseudonym,
            basis=policy.intake.consent,
            study_name=study.name,
            study_digest=digest,
            purpose=study.purpose_of_use,
            commercial=study.commercial,
            today=today,
            declared=int(declared),
        )
        for pseudonym, declared in zip(cohort.pseudonyms, cohort.declared, strict=True)
    ]
    return Standing(permitted=np.array(permitted, dtype=bool), register=register)
