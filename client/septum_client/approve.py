"""Saying yes: the checks that come before the site's own signature."""

from datetime import datetime

from septum.errors import BudgetExceeded
from septum.signed_study import SignedStudy
from septum_client.join import believed
from septum_client.review import rounds_left
from septum_client.site import Site


def approve(site: Site, signed: SignedStudy, *, by: str, now: datetime) -> int:
    """Sign the approval of ``signed``, and return how many of its rounds the limits pay for.

    Args:
      site: The hospital.
      signed: An offered study.
      by: Who says yes.
      now: The time, with its zone.

    Guarantees:
      - On any error nothing was signed.

    Raises:
      ConfigError: The site joined no coordinator.
      Refusal: The study is not of the coordinator that the site joined, has
        ended, or is outside the policy.
      BudgetExceeded: The limits do not pay for one round.
    """
    believed(site, signed, now=now)
    study = signed.study
    site.policy.mechanism(study, site=site.name)
    pays = rounds_left(site, study, now=now)
    if not pays:
        raise BudgetExceeded(
            "the limits do not pay for one round of this study.",
            remedy="Run `septum site review` on it: it shows what was spent of which limit.",
        )
    site.approve(signed, by=by, at=now)
    return pays
