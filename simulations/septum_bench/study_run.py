"""Federate, compare, audit, report: the order of ``septum simulate``."""

from datetime import date
from pathlib import Path

from septum_bench import comparison, findings, simulate
from septum_bench.audit import loading, runner
from septum_bench.audit.report import AuditReport
from septum_bench.plan import Plan
from septum_bench.report import write_report
from septum_bench.result import StudyResult
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
    audit = _audit(run, reporter, warnings, today=date.fromisoformat(started[:10]))
    with simulate.timed(run.seconds, "scoring and report"):
        reporter.stage("Report", 2)
        result = findings.assemble(
            run,
            models,
            audit=audit,
            warnings=tuple(warnings),
            command=command,
            started=started,
        )
        reporter.advance("scored")
        write_durably(folder / "result.json", result.model_dump_json().encode())
        write_report(result, folder / "report.html")
        reporter.advance("report.html")
    return result


def _audit(
    run: simulate.Run, reporter: simulate.Reporter, warnings: list[str], *, today: date
) -> AuditReport | None:
    if not run.plan.attack:
        warnings.append("The attack was left out (--no-attack): leakage was not measured.")
        return None
    subject = loading.subject_of(
        run.study,
        run.cohorts,
        folder=run.folder,
        seed=run.plan.seed,
        phantoms=run.plan.data is None,
        source=run.source,
    )
    keys = [attack.key for attack in runner.REGISTRY if attack.default]
    with simulate.timed(run.seconds, "audit"):
        reporter.stage("Audit", len(keys))
        titles: dict[str, None] = {}

        def watch(title: str, done: int, total: int) -> None:
            titles[title] = None
            reporter.advance(
                f"{title}: {done}/{total}", done=len(titles) - (done < total), total=len(keys)
            )

        return runner.run(subject, name=run.study.name, today=today, attacks=keys, watch=watch)
