"""A pytest plugin: a study's own CI runs its audit and asserts what it must not show.

::

    # pytest.ini
    [pytest]
    septum_run = septum-run

    # test_leakage.py
    from septum_bench.pytest_plugin import assert_not_refuted

    def test_no_line_up_names_a_patient(septum_audit):
        assert_not_refuted(septum_audit(attacks=["identification"]))
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from septum_bench.audit.report import AuditReport
    from septum_bench.audit.subject import Subject

Auditor = Callable[..., "AuditReport"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the project's configuration or ``--septum-run`` name the run to audit."""
    text = "Folder of the run of `septum simulate` that septum_audit attacks."
    parser.addini("septum_run", text, default="")
    parser.getgroup("septum").addoption("--septum-run", help=text, default="")


@pytest.fixture(scope="session")
def septum_audit(pytestconfig: pytest.Config) -> Auditor:
    """Return ``septum_audit(what=None, attacks=None) -> AuditReport``.

    ``what`` is a subject or a run's folder; the configured run unless given.
    Each (folder, attacks) is attacked once a session.
    """
    done: dict[tuple[Path, tuple[str, ...] | None], AuditReport] = {}

    def run(
        what: "Subject | Path | str | None" = None, attacks: Sequence[str] | None = None
    ) -> "AuditReport":
        # Torch takes seconds to import; collecting tests without an audit must not.
        from septum_bench.audit import audit  # noqa: PLC0415

        if what is None:
            named = pytestconfig.getoption("--septum-run") or pytestconfig.getini("septum_run")
            if not named:
                raise pytest.UsageError("name a run: --septum-run, septum_run in the configuration")
            what = Path(str(pytestconfig.rootpath), str(named))
        if not isinstance(what, str | Path):
            return audit(what, attacks=attacks)
        key = (Path(what).resolve(), None if attacks is None else tuple(attacks))
        if key not in done:
            done[key] = audit(what, attacks=attacks)
        return done[key]

    return run


def assert_not_refuted(
    report: "AuditReport", *, keys: Collection[str] | None = None, allow_void: bool = False
) -> None:
    """Fail the test unless every claim stood, at the power that the report states.

    Args:
      report: What the audit found.
      keys: Only these claims count; all of them unless given.
      allow_void: Let a claim pass whose positive control failed. It then says nothing.

    Guarantees:
      - An audit without the asked-for claims fails: nothing tried is no evidence.
    """
    __tracebackhide__ = True
    counted = [found for found in report.findings if keys is None or found.key in keys]
    missing = sorted(set(keys or ()) - {found.key for found in counted})
    if missing or not counted:
        reasons = {each.key: each.reason for each in report.untried}
        said = [f"{key}: {reasons.get(key, 'no such claim')}" for key in missing]
        pytest.fail("Not attacked. " + "; ".join(said or [report.sentence]), pytrace=False)
    bad = {"refuted"} if allow_void else {"refuted", "void"}
    faults = [
        f"{found.verdict.upper()}: {found.claim} {found.sentence}"
        for found in counted
        if found.verdict in bad
    ]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
