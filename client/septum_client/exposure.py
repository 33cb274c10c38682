"""What one patient took part in, and within which epsilon: the ledger, read for a person.

At a site a patient of the cohort is in every study that trains on it, so the
site's caps are this patient's caps too. Who came later, left earlier or did not
permit a study was in fewer rounds, and its figure is smaller. That a patient was
in the cohort of a round, not that a step drew it, is what counts: the draw is
the mechanism's secret, and its sampling rate is already in the figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from septum.accounting import Charge, epsilon
from septum_client.lineage import Round


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What one study was charged for rounds that the patient was in.

    ``epsilon`` is patient-level, under add-or-remove of one patient with all
    images, composed over these rounds at ``delta``: the smallest that any of
    them was charged at.
    """

    study: str
    rounds: tuple[int, ...]
    uncertain: tuple[int, ...]
    released: int
    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """Every study that used one patient.

    ``epsilon`` is over all studies together at ``delta``, the smallest of theirs
    (0 where there is none), by privacy-loss distributions: it holds if no study
    was chosen by what another released. If one was, the site's filter over all
    studies bounds it; ``charges`` is what this patient used of that.
    """

    studies: tuple[Exposure, ...]
    epsilon: float
    delta: float
    charges: tuple[Charge, ...]


def exposures(rounds: Sequence[Round]) -> Exposures:
    """Return what the charged rounds that a patient was in cost this patient.

    Args:
      rounds: From :func:`septum_client.lineage.rounds_of`.
    """
    delta = min((each.delta for each in rounds), default=0.0)
    charges = tuple(each.charge for each in rounds)
    return Exposures(
        studies=tuple(
            _exposure(study, [each for each in rounds if each.study == study])
            for study in dict.fromkeys(each.study for each in rounds)
        ),
        epsilon=epsilon(charges, delta=delta) if rounds else 0.0,
        delta=delta,
        charges=charges,
    )


def _exposure(study: str, rounds: Sequence[Round]) -> Exposure:
    delta = min(each.delta for each in rounds)
    return Exposure(
        study=study,
        rounds=tuple(each.number for each in rounds),
        uncertain=tuple(each.number for each in rounds if not each.certain),
        released=sum(each.released for each in rounds),
        epsilon=epsilon((each.charge for each in rounds), delta=delta),
        delta=delta,
    )
