"""The study card: what a privacy officer reads before saying yes."""

from septum.accounting import ACCOUNTANT, Charge, epsilon, rounds_within
from septum.study import Study
from septum.wire import METRICS, RELEASE_FIELDS
from septum_client.site import Site


def card(site: Site, study: Study) -> list[tuple[str, str]]:
    """Return what ``study`` would do and cost at ``site``, as (name, text) lines.

    Every epsilon is patient-level, for adding or removing one patient, and
    counts what the site's ledger has been charged so far.

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
