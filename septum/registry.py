"""A study's entry for a public registry of differential privacy deployments.

Registries ask what was promised to whom by what means, so that numbers can be
compared (Dwork, Kohli and Mulligan 2019; Nanayakkara et al. 2025,
arXiv:2509.13509; the Differential Privacy Deployments Registry of OpenDP, in
three tiers of transparency). The fields here cover the third tier. No form
for machines had been published when this was written: names are Septum's.
"""

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from septum import __version__
from septum.accounting import ACCOUNTANT, Charge, epsilon, renyi_epsilon
from septum.study import Study

_PURPOSES: Final = {
    "HRESCH": "health research",
    "BIORCH": "biomedical research",
    "CLINTRCH": "clinical trial research",
    "DSRCH": "disease specific research",
    "POARCH": "population origins or ancestry research",
    "TRANSRCH": "translational research",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Deployment(_Part):
    """Who releases what, for what and to whom: the first tier."""

    name: str
    identifier: str = Field(pattern=r"^[0-9a-f]{64}$")
    organisation: str
    product: str
    intended_use: str
    commercial: bool
    recipients: tuple[str, ...]
    release_frequency: str
    source: str


class Guarantee(_Part):
    """What is promised: the second tier."""

    definition: Literal["approximate differential privacy"] = "approximate differential privacy"
    privacy_unit: Literal["one patient with all images and labels at one hospital"] = (
        "one patient with all images and labels at one hospital"
    )
    neighbouring_relation: Literal["add or remove one"] = "add or remove one"
    epsilon: float = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    epsilon_is: Literal["planned", "charged"]
    scope: str
    deployment_model: str


class Details(_Part):
    """How the promise is kept, and what it does not cover: the third tier."""

    mechanism: str
    noise_multiplier: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    clipping: str
    sampling: str
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)
    accountant: str
    epsilon_by_renyi: float = Field(ge=0)
    composition: str
    post_processing: str
    unprotected: tuple[str, ...]
    randomness: Literal["system", "seeded", "not drawn yet"]
    implementation: str


class Record(_Part):
    """One entry."""

    format: Literal["septum-registry-1"] = "septum-registry-1"
    deployment: Deployment
    guarantee: Guarantee
    details: Details

    def to_json(self) -> str:
        """Return the entry as indented JSON."""
        return self.model_dump_json(indent=2)


def of_study(study: Study, *, organisation: str = "", url: str = "") -> Record:
    """Return the entry of a study as agreed, at any of its hospitals.

    Args:
      study: The study.
      organisation: Who is responsible.
      url: Where more is published.
    """
    charge = study.mechanism(study.sites[0].name).charge()
    return _record(
        study,
        charges=[charge] * study.rounds,
        delta=study.privacy.delta,
        organisation=organisation,
        url=url,
        randomness="not drawn yet",
        scope=f"all {study.rounds} rounds of the study, at each hospital",
    )


def of_charges(
    study: Study,
    *,
    charges: Sequence[Charge],
    delta: float,
    organisation: str,
    seeded: bool,
) -> Record:
    """Return the entry of a study as one hospital's ledger was charged for it.

    Args:
      study: The study.
      charges: What was charged; at least one.
      delta: The smallest at which it was charged.
      organisation: The hospital.
      seeded: Whether noise came from a seed, which protects nobody.
    """
    return _record(
        study,
        charges=charges,
        delta=delta,
        organisation=organisation,
        url="",
        randomness="seeded" if seeded else "system",
        scope=f"the {len(charges)} rounds charged so far, of {study.rounds}, at this hospital",
    )


def _record(
    study: Study,
    *,
    charges: Sequence[Charge],
    delta: float,
    organisation: str,
    url: str,
    randomness: Literal["system", "seeded", "not drawn yet"],
    scope: str,
) -> Record:
    one = charges[0]
    return Record(
        deployment=Deployment(
            name=study.name,
            identifier=study.digest,
            organisation=organisation,
            product=f"{study.model.name} for {study.data.task}: {', '.join(study.data.labels)}",
            intended_use=f"{_PURPOSES[study.purpose_of_use]} ({study.purpose_of_use}): "
            f"{study.purpose}",
            commercial=study.commercial,
            recipients=study.recipients,
            release_frequency="one model update a round and hospital; one model at the end",
            source=url,
        ),
        guarantee=Guarantee(
            epsilon=epsilon(charges, delta=delta),
            delta=delta,
            epsilon_is="planned" if randomness == "not drawn yet" else "charged",
            scope=scope,
            deployment_model="central at each hospital, which adds noise before anything leaves; "
            "coordinator and other hospitals are not trusted",
        ),
        details=Details(
            mechanism="Poisson-subsampled Gaussian mechanism on per-patient gradients (DP-SGD)",
            noise_multiplier=one.noise_multiplier,
            max_grad_norm=study.privacy.max_grad_norm,
            clipping=study.privacy.clipping,
            sampling="Poisson, over patients",
            sampling_rate=one.sampling_rate,
            steps=sum(charge.steps for charge in charges),
            accountant=f"{ACCOUNTANT} (dp-accounting), rounded pessimistically",
            epsilon_by_renyi=renyi_epsilon(charges, delta=delta),
            composition="over all steps and rounds of the study; over studies by a Rényi filter "
            "at each hospital, whose limits its policy sets",
            post_processing="aggregation, choice of the final model, and everything after",
            unprotected=(
                "that a hospital takes part, and the number of patients that it declares",
                "refusal codes and the times of answers",
                "test patients, whose scores do not leave",
            ),
            randomness=randomness,
            implementation=f"Septum {__version__}; AES-256-CTR under a system key, sum and noise "
            "rounded to one grid; ledger charged before training",
        ),
    )
