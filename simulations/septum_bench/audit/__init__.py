"""The audit: every claim about a release put to the attacks that could refute it.

::

    from septum_bench.audit import audit

    report = audit("septum-run", attacks=["identification"])
    report.verdict, report.sentence
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from septum_bench.audit.report import AuditReport
    from septum_bench.audit.subject import Subject

__all__ = ["audit"]


def audit(
    what: "Subject | Path | str",
    *,
    attacks: Sequence[str] | None = None,
    name: str | None = None,
    today: date | None = None,
    watch: Callable[[str, int, int], None] | None = None,
) -> "AuditReport":
    """Attack a study and return what it gives away.

    Args:
      what: A subject, or the folder of a run of ``septum simulate``.
      attacks: Keys of the attacks to run; None for the default suite.
      name: What to call it; the folder's or the study's name unless told.
      today: The day to print; the day it is, in UTC, unless told.
      watch: Told of the progress: title of the attack, steps done, steps in all.

    Guarantees:
      - Equal subjects, seeds, attacks and days give equal records.

    Raises:
      ConfigError: An attack is not known.
      DataError: The folder holds no finished run.
    """
    # Torch takes seconds to import; naming this function must not.
    from septum_bench.audit.loading import open_run  # noqa: PLC0415
    from septum_bench.audit.runner import run  # noqa: PLC0415

    if isinstance(what, str | Path):
        subject, known = open_run(Path(what)), Path(what).name
    else:
        subject, known = what, what.study.name
    return run(
        subject,
        name=name or known,
        today=today or datetime.now(UTC).date(),
        attacks=attacks,
        watch=watch,
    )
