"""The study card: what a privacy officer reads before saying yes."""

from datetime import UTC, date, datetime

from septum.accounting import ACCOUNTANT, Charge, epsilon, rounds_within
from septum.errors import DataError
from septum.study import Study
from septum.wire import METRICS, RELEASE_FIELDS
from septum_client.cohort import Cohort, Split
from septum_client.consent.standing import standing
from septum_client.policy import Policy
from septum_client.site import Site


def card(site: Site, study: Study, *, today: date | None = None) -> list[tuple[str, str]]:
    """Return what ``study`` would do and cost at ``site``, as (name, text) lines.

    Every epsilon is patient-level, for adding or removing one patient, and
    counts what the site's ledger has been charged so far. How many patients
    consent is counted as of ``today``; each round counts again.

    Raises:
      Refusal: The site has no policy, or the policy does not allow the study.
    """
    policy = site.policy
    mechanism = policy.mechanism(study, site=site.name)
    charge, delta = mechanism.charge(), policy.study_delta(study)
    ledger = site.ledger
    mine, every = ledger.charges(study.digest), ledger.charges()
    of_study = (mine, policy.epsilon_per_study, delta)
    of_all = (every, policy.epsilon_total, policy.delta)
    cost = epsilon([charge] * study.rounds, delta=delta)
    pays = min(
        rounds_within(charge, limit=limit, delta=at, spent=spent, most=study.rounds)
        for spent, limit, at in (of_study, of_all)
    )
    leaves = [*RELEASE_FIELDS, *(name for name in METRICS if name in policy.metrics)]
    others = [participant.name for participant in study.sites if participant.name != site.name]
    return [
        ("study", study.name),
        ("digest", study.digest),
        ("purpose", study.purpose),
        ("use", f"{study.purpose_of_use}, {'' if study.commercial else 'not '}commercial"),
        ("consent", _consent(site, study, policy, today or datetime.now(UTC).date())),
        ("network", f"{study.model.name}, to find {', '.join(study.data.labels)}"),
        ("with", ", ".join(others) or "nobody else"),
        ("declared", f"{study.participant(site.name).patients} training patients here"),
        ("noise", f"multiplier {mechanism.noise_multiplier:g}, clip {mechanism.max_grad_norm:g}"),
        ("rounds", f"{study.rounds}, of {mechanism.steps} steps each"),
        ("drawing", f"every patient with probability {mechanism.sampling_rate:g} in each step"),
        ("cost", f"epsilon {cost:.2f} at delta {delta:g} for all rounds ({ACCOUNTANT} accountant)"),
        ("this study", _budget(*of_study)),
        ("all studies", _budget(*of_all)),
        ("budget", f"pays for {pays} of {study.rounds} rounds"),
        ("leaves", f"one vector a round, and {', '.join(leaves)}; or a refusal's code and name"),
    ]


def _budget(spent: list[Charge], limit: float, delta: float) -> str:
    return f"spent epsilon {epsilon(spent, delta=delta):.2f} of {limit:g} at delta {delta:g}"


def _consent(site: Site, study: Study, policy: Policy, today: date) -> str:
    """Return the basis of consent, and how many patients permit this; the counts stay here."""
    basis = policy.intake.consent
    try:
        cohort = Cohort.open(site.cohort_path)
    except DataError:
        return f"{basis}; no cohort yet"
    train = cohort.patients(Split.TRAIN)
    standings = standing(site, cohort, study, policy=policy, today=today)
    register = standings.register
    unread = f", {register.not_understood} not understood" if register.not_understood else ""
    return (
        f"{basis}; {int(standings.permitted[train].sum())} of {len(train)} training patients "
        f"permit this today ({register.sources} registers{unread})"
    )
