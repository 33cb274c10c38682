"""What a ledger's debits cost so far, and whether one more round fits. No files, no clock.

Within one study noise, rate and steps are those of its first debit: constants
that were fixed before anything of the study was released. So its rounds compose
as privacy-loss distributions (see :mod:`septum.accounting`), and stopping early,
for whatever reason, costs nothing. A policy tightened later adds noise to the
next rounds; they are charged at the first round's noise all the same, because
noise on top is post-processing, while a lower charge would be a mechanism chosen
after looking. Over studies, which *are* chosen after looking, the Rényi filter
of :mod:`septum.privacy_filter` decides, over any 365 days and in all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from septum.accounting import Charge, epsilon, rounds_within
from septum.caps import YEAR_DAYS
from septum.errors import BudgetExceeded
from septum.ledger import Value
from septum.privacy_filter import Filter

Said = Mapping[str, Value]
"""The fields of one entry of a ledger."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a site lets one study, any 365 days, and everything cost a patient.

    Args:
      study: Largest epsilon of this study, by privacy-loss distributions.
      delta: Delta at which ``study`` is stated.
      year: Filter over all studies of any 365 days.
      total: Filter over all studies.
      rounds: Rounds of the study, for messages.
    """

    study: float
    delta: float
    year: Filter
    total: Filter
    rounds: int


def charges(
    said: Iterable[Said], *, study: str | None = None, since: datetime | None = None
) -> list[Charge]:
    """Return what was charged: for one study or all, since a time or ever.

    A debit dated after ``since`` counts whatever the clock says now: one set back
    frees nothing.
    """
    return [
        Charge(
            noise_multiplier=float(fields["noise_multiplier"] or 0),
            sampling_rate=float(fields["sampling_rate"] or 0),
            steps=int(fields["steps"] or 0),
        )
        for fields in said
        if fields["kind"] == "debit"
        and (study is None or fields["study"] == study)
        and (since is None or datetime.fromisoformat(str(fields["at"])) > since)
    ]


def last_year(said: Iterable[Said], *, now: datetime) -> list[Charge]:
    """Return what was charged within 365 days before ``now``."""
    return charges(said, since=now - timedelta(days=YEAR_DAYS))


def announced(said: Iterable[Said], *, study: str) -> Charge | None:
    """Return what each round of this study is charged: its first debit, or None before it."""
    return next(iter(charges(said, study=study)), None)


def next_charge(
    said: Sequence[Said], *, study: str, charge: Charge, limits: Limits, now: datetime
) -> Charge:
    """Return what the next round of ``study`` is charged, if every limit has room for it.

    Args:
      said: All entries of the ledger.
      study: Digest of the study.
      charge: What the round runs.
      limits: The site's limits.
      now: The time of this round.

    Guarantees:
      - The releases of one study are (``limits.study``, ``limits.delta``)-DP given
        everything else; those of any 365 days, and all of them, as their filters
        say. Unit: one patient with all images; adjacency: add or remove.

    Raises:
      BudgetExceeded: One of them has no room, or the round would run with less
        noise than the study's first.
    """
    first = announced(said, study=study) or charge
    if charge.noise_multiplier < first.noise_multiplier or (
        (charge.sampling_rate, charge.steps) != (first.sampling_rate, first.steps)
    ):
        raise BudgetExceeded(
            f"the round would run at noise {charge.noise_multiplier:g}; the study began at "
            f"{first.noise_multiplier:g}, and its mechanism may not weaken on the way.",
            remedy="Ask again: the site now keeps the first round's noise.",
        )
    mine = charges(said, study=study)
    after = epsilon([*mine, first], delta=limits.delta)
    if after > limits.study:
        fits = rounds_within(
            first, limit=limits.study, delta=limits.delta, spent=mine, most=limits.rounds
        )
        raise BudgetExceeded(
            f"this round would bring epsilon of this study to {after:.3f} at delta "
            f"{limits.delta:g}; the limit is {limits.study:g}, which pays for {fits} more rounds.",
            remedy="Stop here, or let the privacy officer raise epsilon_per_study.",
        )
    for cap, spent, what, key in (
        (limits.year, last_year(said, now=now), "one year", "epsilon_per_year"),
        (limits.total, charges(said), "all studies of this site", "epsilon_total"),
    ):
        if not cap.admits([*spent, first]):
            fits = cap.rounds_within(first, spent=spent, most=limits.rounds)
            raise BudgetExceeded(
                f"this round does not fit under epsilon {cap.epsilon:g} of {what} at delta "
                f"{cap.delta:g}: {_percent(cap, spent)} of the filter is spent, and the rest pays "
                f"for {fits} more rounds.",
                remedy=f"Stop here, or let the privacy officer raise {key}.",
            )
    return first


def rounds_left(
    said: Sequence[Said], *, study: str, charge: Charge, limits: Limits, now: datetime
) -> int:
    """Return how many more rounds of ``study`` all limits pay for, if nothing else is charged."""
    first = announced(said, study=study) or charge
    most = limits.rounds
    mine, every = charges(said, study=study), charges(said)
    return min(
        rounds_within(first, limit=limits.study, delta=limits.delta, spent=mine, most=most),
        limits.year.rounds_within(first, spent=last_year(said, now=now), most=most),
        limits.total.rounds_within(first, spent=every, most=most),
    )


def _percent(cap: Filter, spent: Sequence[Charge]) -> str:
    return f"{100 * cap.share(spent):.0f} %"
