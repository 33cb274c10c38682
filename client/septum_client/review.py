"""The study card: what a privacy officer reads before saying yes."""

from datetime import UTC, date, datetime

from septum.accounting import ACCOUNTANT, Charge, epsilon
from septum.errors import DataError
from septum.privacy_filter import Filter
from septum.study import Study
from septum.wire import METRICS, RELEASE_FIELDS
from septum_client import spending
from septum_client.cohort import Cohort, Split
from septum_client.consent.standing import standing
from septum_client.policy import Policy
from septum_client.site import Site


def card(site: Site, study: Study, *, now: datetime | None = None) -> list[tuple[str, str]]:
    """Return what ``study`` would do and cost at ``site``, as (name, text) lines.

    Every epsilon is patient-level, for adding or removing one patient, and
    counts what the site's ledger has been charged so far. How many patients
    consent is counted as of ``now``; each round counts again.

    Raises:
      Refusal: The site has no policy, or the policy does not allow the study.
    """
    policy = site.policy
    now = now or datetime.now(UTC)
    mechanism, limits = policy.mechanism(study, site=site.name), policy.limits(study)
    said = site.ledger.said()
    charge = spending.announced(said, study=study.digest) or mechanism.charge()
    mine, every = spending.charges(said, study=study.digest), spending.charges(said)
    recent = spending.last_year(said, now=now)
    cost = epsilon([charge] * study.rounds, delta=limits.delta)
    pays = rounds_left(site, study, now=now)
    leaves = [*RELEASE_FIELDS, *(name for name in METRICS if name in policy.metrics)]
    others = [participant.name for participant in study.sites if participant.name != site.name]
    return [
        ("study", study.name),
        ("digest", study.digest),
        ("purpose", study.purpose),
        ("use", f"{study.purpose_of_use}, {'' if study.commercial else 'not '}commercial"),
        ("consent", _consent(site, study, policy, now.date())),
        ("network", f"{study.model.name}, to find {', '.join(study.data.labels)}"),
        ("with", ", ".join(others) or "nobody else"),
        ("declared", f"{study.participant(site.name).patients} training patients here"),
        ("noise", f"multiplier {mechanism.noise_multiplier:g}, clip {mechanism.max_grad_norm:g}"),
        ("rounds", f"{study.rounds}, of {mechanism.steps} steps each"),
        ("drawing", f"every patient with probability {mechanism.sampling_rate:g} in each step"),
        ("cost", f"epsilon {cost:.2f} at delta {limits.delta:g} for all rounds ({ACCOUNTANT})"),
        ("this study", _spent(mine, limits.study, limits.delta)),
        ("this year", _share(limits.year, recent)),
        ("all studies", _share(limits.total, every)),
        ("budget", f"pays for {pays} of {study.rounds} rounds" + (" more" if mine else "")),
        ("model goes to", ", ".join(study.recipients)),
        ("leaves", f"one vector a round, and {', '.join(leaves)}; or a refusal's code and name"),
    ]


def rounds_left(site: Site, study: Study, *, now: datetime | None = None) -> int:
    """Return how many more rounds of ``study`` the limits of ``site`` pay for.

    Raises:
      Refusal: The site has no policy, or the policy does not allow the study.
    """
    policy = site.policy
    return spending.rounds_left(
        site.ledger.said(),
        study=study.digest,
        charge=policy.mechanism(study, site=site.name).charge(),
        limits=policy.limits(study),
        now=now or datetime.now(UTC),
    )


def _spent(spent: list[Charge], limit: float, delta: float) -> str:
    return f"spent epsilon {epsilon(spent, delta=delta):.2f} of {limit:g} at delta {delta:g}"


def _share(cap: Filter, spent: list[Charge]) -> str:
    share = f"{100 * cap.share(spent):.0f} % of the Rényi filter"
    return f"spent {share} for epsilon {cap.epsilon:g} at delta {cap.delta:g}"


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
