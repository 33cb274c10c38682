"""The study card: what a privacy officer reads before saying yes. One text, for screen and page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from septum.accounting import ACCOUNTANT, Charge, epsilon
from septum.errors import DataError
from septum.models import network_of, to_vector
from septum.plain_text import visible
from septum.privacy_filter import Filter
from septum.signing import fingerprint
from septum.study import Study
from septum_client import spending
from septum_client.cohort import Cohort, CohortSpec, Split
from septum_client.consent.standing import standing
from septum_client.policy import Policy
from septum_client.review_leaving import Leaving, leaving, size
from septum_client.site import Site

Line = tuple[str, str]

_ENVELOPE: Final[Line] = (
    "around it",
    (
        "Flower's numbers of run and message, and when and after how long this hospital answered: "
        "`septum egress` lists every field"
    ),
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the card under its question; each line is a name and its text."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one study would do and cost at one site."""

    study: str
    digest: str
    sections: tuple[Section, ...]

    @property
    def lines(self) -> list[Line]:
        """Every line, first to last."""
        return [line for section in self.sections for line in section.lines]


def card(site: Site, study: Study, *, now: datetime | None = None, pace: str = "") -> Card:
    """Return what ``study`` would do and cost at ``site``.

    Every epsilon is patient-level, for adding or removing one patient, and
    counts what the site's ledger has been charged so far. How many patients
    consent is counted as of ``now``; each round counts again.

    Args:
      site: The hospital.
      study: What is reviewed.
      now: The time, with its zone; this machine's unless told.
      pace: What a pre-flight measured of a round's time, in words.

    Guarantees:
      - No character of the study acts on the screen: what is not printed is written out.

    Raises:
      Refusal: The site has no policy, or the policy does not allow the study.
    """
    policy = site.policy
    now = now or datetime.now(UTC)
    parameters = len(to_vector(network_of(study)))
    leaves = leaving(policy.metrics, parameters=parameters)
    return Card(
        study=study.name,
        digest=study.digest,
        sections=(
            _section("What is it?", _agreement(study, site=site.name)),
            _section("What runs here?", _work(site, study, policy, parameters=parameters)),
            _section("On whom?", _patients(site, study, policy, today=now.date())),
            _section("What does it cost a patient?", _cost(site, study, policy, now=now)),
            _section("What leaves?", [*((each.name, each.text) for each in leaves), _ENVELOPE]),
            _section("Who gets the model?", [("model goes to", ", ".join(study.recipients))]),
            _section("What does it take of this machine?", _machine(study, leaves, pace=pace)),
        ),
    )


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


def _section(title: str, lines: Sequence[Line]) -> Section:
    return Section(title=title, lines=tuple((name, visible(text)) for name, text in lines))


def _agreement(study: Study, *, site: str) -> list[Line]:
    others = [participant.name for participant in study.sites if participant.name != site]
    ethics = [
        f"{each.number} of {each.body}" + (f" until {each.expires}" if each.expires else "")
        for each in study.approvals
    ]
    rules = study.participation
    below = "stops" if rules.dropout == "stop" else f"asks again, {rules.retries} times at most"
    return [
        ("study", study.name),
        ("digest", study.digest),
        (
            "signed by",
            f"the coordinator {fingerprint(study.coordinator)}"
            if study.coordinator
            else "nobody: this draft can be read, not approved",
        ),
        ("purpose", study.purpose),
        ("use", f"{study.purpose_of_use}, {'' if study.commercial else 'not '}commercial"),
        ("approvals", "; ".join(ethics) or "none stated"),
        ("ends", study.expires or "no last day stated"),
        ("with", ", ".join(others) or "nobody else"),
        (
            "quorum",
            (
                f"{study.strategy.minimum_sites} of {len(study.sites)} hospitals within "
                f"{_time(rules.deadline_s)} of each round's order; below that the run {below}"
            ),
        ),
    ]


def _work(site: Site, study: Study, policy: Policy, *, parameters: int) -> list[Line]:
    mechanism = policy.mechanism(study, site=site.name)
    start = f"weights {study.model.weights[:12]}…" if study.model.weights else "random numbers"
    if study.model.initial:
        start += f", as a vector {study.model.initial[:12]}…"
    return [
        ("code", "the Septum that is installed here; the coordinator sends no code"),
        ("network", f"{study.model.name}, to find {', '.join(study.data.labels)}"),
        ("starts from", f"{start}; {parameters:,} numbers are trained"),
        ("rounds", f"{study.rounds}; steps of each: {mechanism.steps}"),
        ("drawing", f"every patient with probability {mechanism.sampling_rate:g} in each step"),
        ("noise", f"multiplier {mechanism.noise_multiplier:g}, clip {mechanism.max_grad_norm:g}"),
    ]


def _patients(site: Site, study: Study, policy: Policy, *, today: date) -> list[Line]:
    declared = ("declared", f"{study.participant(site.name).patients} training patients here")
    basis = policy.intake.consent
    try:
        cohort = Cohort.open(site.cohort_path)
    except DataError:
        return [declared, ("cohort", "none yet"), ("consent", f"{basis}; no cohort yet")]
    train, test = cohort.patients(Split.TRAIN), cohort.patients(Split.TEST)
    fits = "" if cohort.spec == CohortSpec.of(study.data) else "; made for another study's data"
    standings = standing(site, cohort, study, policy=policy, today=today)
    register = standings.register
    unread = f", {register.not_understood} not understood" if register.not_understood else ""
    permitted = int(standings.permitted[train].sum())
    return [
        declared,
        (
            "cohort",
            (
                f"{len(cohort.images)} images; {len(train)} patients to train on, {len(test)} held "
                f"out and never trained on{fits}"
            ),
        ),
        (
            "consent",
            (
                f"{basis}; {permitted} of {len(train)} training patients "
                f"permit this today ({register.sources} registers{unread})"
            ),
        ),
    ]


def _cost(site: Site, study: Study, policy: Policy, *, now: datetime) -> list[Line]:
    said, limits = site.ledger.said(), policy.limits(study)
    charge = (
        spending.announced(said, study=study.digest)
        or policy.mechanism(study, site=site.name).charge()
    )
    mine, every = spending.charges(said, study=study.digest), spending.charges(said)
    recent = spending.last_year(said, now=now)
    cost = epsilon([charge] * study.rounds, delta=limits.delta)
    pays = rounds_left(site, study, now=now)
    left = [charge] * max(0, study.rounds - len(mine))
    after = 100 * limits.total.share([*every, *left])
    return [
        (
            "worst case",
            f"epsilon {cost:.2f} at delta {limits.delta:g} for all rounds ({ACCOUNTANT})",
        ),
        ("this study", _spent(mine, limits.study, limits.delta)),
        ("this year", _share(limits.year, recent)),
        ("all studies", _share(limits.total, every)),
        (
            "with this one",
            (
                f"all its rounds would bring that to {after:.0f} %; "
                f"whatever is asked here, ever: at most epsilon {limits.total.epsilon:g} at delta "
                f"{limits.total.delta:g}, or nothing trains"
            ),
        ),
        ("budget", f"pays for {pays} of {study.rounds} rounds" + (" more" if mine else "")),
    ]


def _machine(study: Study, leaves: Sequence[Leaving], *, pace: str) -> list[Line]:
    vector = max(each.most_bytes for each in leaves)
    traffic, kept = size(2 * vector * study.rounds), size(vector * study.rounds)
    return [
        ("traffic", f"{size(vector)} in and out each round, {traffic} in all, and retries"),
        ("disk", f"{kept}: each release is kept, to be sent again unchanged"),
        ("time", pace or "not measured yet: `septum site check --study` does, on made-up images"),
    ]


def _spent(spent: list[Charge], limit: float, delta: float) -> str:
    return f"spent epsilon {epsilon(spent, delta=delta):.2f} of {limit:g} at delta {delta:g}"


def _share(cap: Filter, spent: list[Charge]) -> str:
    share = f"{100 * cap.share(spent):.0f} % of the Rényi filter"
    return f"spent {share} for epsilon {cap.epsilon:g} at delta {cap.delta:g}"


def _time(seconds: int) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
