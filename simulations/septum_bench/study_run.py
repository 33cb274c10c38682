"""Federate, compare, attack, report: the order of ``septum simulate``."""

from pathlib import Path

from septum_bench import comparison, findings, rehearsal, simulate
from septum_bench.plan import Plan
from septum_bench.report import write_report
from septum_bench.result import Leakage, StudyResult
from septum_client.site import write_durably


def study_run(
    plan: Plan, folder: Path, *, reporter: simulate.Reporter, command: str, started: str
) -> StudyResult:
    """Run the plan in ``folder`` and write ``result.json`` and ``report.html`` there.

    Raises:
      SeptumError: See :func:`septum_bench.simulate.federate`; what was finished is kept.
    """
    run = simulate.federate(plan, folder, reporter=reporter)
    models = comparison.compare(run, reporter=reporter)
    warnings: list[str] = []
    if not plan.baselines:
        warnings.append("Baselines were left out (--no-baselines).")
    if len(run.study.data.labels) > 1 and run.study.data.task == "multilabel":
        warnings.append(
            f"The study trains {len(run.study.data.labels)} labels; "
            f"the scores are of the first, {run.study.data.labels[0]}."
        )
    leakage = _attack(run, reporter, warnings)
    with simulate.timed(run.seconds, "scoring and report"):
        reporter.stage("Report", 2)
        result = findings.assemble(
            run,
            models,
            leakage=leakage,
            warnings=tuple(warnings),
            command=command,
            started=started,
        )
        reporter.advance("scored")
        write_durably(folder / "result.json", result.model_dump_json().encode())
        write_report(result, folder / "report.html")
        reporter.advance("report.html")
    return result


def _attack(run: simulate.Run, reporter: simulate.Reporter, warnings: list[str]) -> Leakage | None:
    if not run.plan.attack:
        warnings.append("The attack was left out (--no-attack): leakage was not measured.")
        return None
    reason = rehearsal.cannot(run)
    if reason:
        warnings.append(f"Leakage was not measured: {reason}.")
        return None
    with simulate.timed(run.seconds, "attack"):
        reporter.stage("Attack", 1)
        return rehearsal.attack(
            run,
            progress=lambda done, total: reporter.advance(
                "gradient inversion: control, then release", done=done, total=total
            ),
        )
