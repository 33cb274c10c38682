"""The verdict: three cards and the alerts that must not be missed."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from septum_bench.audit.finding import Verdict
from septum_bench.audit.report import AuditReport
from septum_bench.report import words
from septum_bench.result import ModelScore, RoundRow, StudyResult

State = Literal["plain", "seeded", "leak", "void", "missing", "open"]

SEEDED: Final = "SIMULATION: noise was seeded; this run protects nobody"

_HEADLINES: Final[dict[Verdict, tuple[State, str]]] = {
    Verdict.REFUTED: ("leak", "REFUTED"),
    Verdict.VOID: ("void", "VOID"),
    Verdict.NOT_REFUTED: ("open", "Not refuted"),
}
_ADVICE: Final = {
    Verdict.REFUTED: "A claim about what left the hospitals was refuted. "
    "Do not release this model before it is understood.",
    Verdict.VOID: "The attacks failed even without protection, so they had no power. "
    "Nothing follows about leakage, in either direction.",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One verdict: a headline, one sentence, and what qualifies it."""

    title: str
    state: State
    headline: str
    aside: str
    sentence: str
    notes: tuple[str, ...]
    loud: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something a reader must not miss, with its particulars."""

    title: str
    body: str
    items: tuple[str, ...] = ()
    severe: bool = False


def cards(result: StudyResult) -> tuple[Card, Card, Card]:
    """Return the verdicts on accuracy, privacy spent and measured leakage, in that order."""
    return _accuracy(result), _privacy(result), _leakage(result.audit)


def best_open(result: StudyResult) -> ModelScore | None:
    """Return the non-private baseline of the highest resolvable AUC, if one was run."""
    scored = [b for b in result.baselines if not b.private and b.pooled.auc.value is not None]
    return max(scored, key=lambda b: b.pooled.auc.value or 0.0, default=None)


def alone_values(result: StudyResult) -> tuple[float, ...]:
    """Return the AUC of each hospital's own model on all test patients, where resolvable."""
    values = (score.pooled.auc.value for score in result.alone.values())
    return tuple(value for value in values if value is not None)


def worst_epsilon(result: StudyResult) -> float:
    """Return the highest epsilon on any account: the sites' ledgers and the study's own."""
    return max([result.epsilon, *(site.epsilon_spent for site in result.sites)])


def silent(row: RoundRow) -> tuple[str, ...]:
    """Return the hospitals that were asked and neither answered nor gave a refusal."""
    return tuple(s for s in row.asked if s not in row.answered and s not in row.refused)


def incomplete(result: StudyResult) -> tuple[RoundRow, ...]:
    """Return the rounds that ran without every hospital of the study."""
    everyone = {site.name for site in result.sites}
    return tuple(row for row in result.rounds if not everyone <= set(row.answered))


def _own(result: StudyResult) -> str:
    own = [score.per_site[name].auc.value for name, score in result.alone.items()]
    known = [value for value in own if value is not None]
    return f" (on its own patients {words.number(median(known))})" if known else ""


def _accuracy(result: StudyResult) -> Card:
    pooled = result.federated.pooled
    tested = sum(site.patients_test > 0 for site in result.sites)
    best = best_open(result)
    values = alone_values(result)
    without = (
        f"best non-private {words.number(best.pooled.auc.value)} ({best.name})"
        if best
        else "no non-private training was run, so the cost of privacy is not known"
    )
    alone = (
        f"median hospital alone {words.number(median(values))}{_own(result)}"
        if values
        else "no hospital was trained alone, so the gain of joining is not known"
    )
    sensitivity = (
        f"Sensitivity at {words.percent(pooled.specificity_target)} specificity: "
        f"{words.figure(pooled.sensitivity)}."
    )
    partial = (
        f"PARTIAL: {len(missing)} of {words.plural(len(result.rounds), 'round')} "
        "ran without every hospital."
        if (missing := incomplete(result))
        else ""
    )
    resolved = pooled.auc.value is not None
    if not resolved and pooled.figures:
        first = pooled.figures[0]
        return Card(
            title="Accuracy",
            state="plain" if first.interval.value is not None else "missing",
            headline=f"{first.name} {words.number(first.interval.value)}",
            aside=words.bounds(first.interval),
            sentence=f"On {words.plural(pooled.patients, 'test patient')} of "
            f"{words.plural(tested, 'hospital')}.",
            notes=tuple(f"{f.name}: {words.figure(f.interval)}." for f in pooled.figures[1:]),
            loud=(partial,) if partial else (),
        )
    return Card(
        title="Accuracy",
        state="plain" if resolved else "missing",
        headline=f"AUC {words.number(pooled.auc.value)}" if resolved else "AUC not resolvable",
        aside=words.bounds(pooled.auc) if resolved else f"({pooled.auc.reason or 'no reason'})",
        sentence=f"On {words.plural(pooled.patients, 'test patient')} of "
        f"{words.plural(tested, 'hospital')}; {without}; {alone}.",
        notes=(sensitivity,),
        loud=(partial,) if partial else (),
    )


def _privacy(result: StudyResult) -> Card:
    worst = worst_epsilon(result)
    deltas = sorted({result.delta, *(site.delta for site in result.sites)})
    odds = (
        f"At most, the odds that a given patient took part grow {words.factor(worst)}-fold "
        "(e to the ε), except with probability near δ."
    )
    unearned = "NOT EARNED: the noise was seeded. This is what secret noise would spend."
    notes = [odds]
    if len(deltas) > 1:
        notes.append("δ differs between hospitals; the largest is shown.")
    if words.spent(result.epsilon) != words.spent(worst):
        notes.append(f"The study's own account says {words.spent(result.epsilon)}.")
    return Card(
        title="Privacy spent",
        state="seeded" if result.seeded else "plain",
        headline=f"ε = {words.spent(worst)}",
        aside=f"at δ = {words.delta(deltas[-1])}",
        sentence=f"{result.unit.capitalize()}-level, per hospital: the highest of all accounts "
        f"(Poisson sampling, {words.accountant(result.accountant)}, {result.adjacency}).",
        notes=tuple(notes),
        loud=(unearned,) if result.seeded else (),
    )


def _leakage(audit: AuditReport | None) -> Card:
    if audit is None:
        return Card(
            title="Measured leakage",
            state="missing",
            headline="Not measured",
            aside="",
            sentence="The attacks were skipped, so this run holds no evidence about leakage.",
            notes=("Run the study again with the attacks before anything leaves a hospital.",),
        )
    state, headline = _HEADLINES[audit.verdict]
    refuted, open_, void = (len(audit.of(verdict)) for verdict in Verdict)
    return Card(
        title="Measured leakage",
        state=state,
        headline=headline,
        aside=f"{refuted} refuted, {open_} not refuted, {void} void",
        sentence=audit.sentence,
        notes=(_ADVICE[audit.verdict],) if audit.verdict in _ADVICE else (),
    )


def alerts(result: StudyResult) -> tuple[Alert, ...]:
    """Return what must be loud: broken ledgers, overspending, absences, the run's warnings."""
    found: list[Alert] = []
    if broken := [site.name for site in result.sites if not site.ledger_verified]:
        found.append(
            Alert(
                title="Ledger not verified",
                body=f"The chain does not verify at {words.listing(broken)}. "
                "The ε shown there rests on nothing.",
                severe=True,
            )
        )
    if over := [site.name for site in result.sites if site.epsilon_spent > site.epsilon_limit]:
        found.append(
            Alert(
                title="Budget exceeded",
                body=f"More ε was spent than allowed at {words.listing(over)}.",
                severe=True,
            )
        )
    if missing := incomplete(result):
        found.append(_absences(result, missing))
    if result.warnings:
        found.append(
            Alert(title="Warnings of this run", body="", items=tuple(result.warnings)),
        )
    return tuple(found)


def _absences(result: StudyResult, missing: tuple[RoundRow, ...]) -> Alert:
    gone: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in missing:
        for site in (s.name for s in result.sites):
            if site in row.refused:
                gone[site, f"refused with {words.code(row.refused[site])}"].append(row.round)
            elif site not in row.asked:
                gone[site, "was not asked"].append(row.round)
            elif site not in row.answered:
                gone[site, "did not answer"].append(row.round)
    return Alert(
        title="Partial participation",
        body=f"{len(missing)} of {words.plural(len(result.rounds), 'round')} ran without every "
        "hospital. The model leans towards those that answered.",
        items=tuple(
            f"{site} {what} in {'round' if len(rounds) == 1 else 'rounds'} {words.spans(rounds)}."
            for (site, what), rounds in gone.items()
        ),
    )
