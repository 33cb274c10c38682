"""The audit's page: its record in, one self-contained file out."""

from septum_bench.audit.report import AuditReport
from septum_bench.report import verdict
from septum_bench.report.audit_view import view
from septum_bench.report.page import environment


def render_audit(report: AuditReport) -> str:
    """Return the audit as one HTML page that asks for nothing outside itself.

    Guarantees:
      - Equal records give equal text: no clock, no random identifier.
      - Every string of the record is escaped; the page runs no script.
      - Every claim stands beside its control, null run and best blind guess.
    """
    page = environment().get_template("audit_page.html.j2")
    return page.render(
        audit=view(report), seeded=verdict.SEEDED if report.seeded else "", title=report.name
    )
