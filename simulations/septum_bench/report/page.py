"""The page: the record in, one self-contained file out."""

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final

import jinja2

from septum.errors import DataError
from septum_bench.report import figures, forest, sections, verdict, words
from septum_bench.report.audit_view import view
from septum_bench.result import StudyResult

_REMEDIES: Final = {
    errno.ENOSPC: "Free some disk space and write the report again.",
    errno.EDQUOT: "Free some of your disk quota and write the report again.",
    errno.ENOENT: "Create the folder first.",
    errno.EISDIR: "Give the name of a file, for example report.html.",
    errno.ENOTDIR: "Give a path whose parent is a folder.",
}


def render_report(result: StudyResult) -> str:
    """Return the report as one HTML page that asks for nothing outside itself.

    Guarantees:
      - Equal results give equal text: no clock, no random identifier.
      - Every string of the record is escaped; the page runs no script.
      - Nothing appears that the record does not hold.
    """
    page = environment().get_template("page.html.j2")
    return page.render(
        result=result,
        seeded=verdict.SEEDED,
        cards=verdict.cards(result),
        alerts=verdict.alerts(result),
        best=verdict.best_open(result),
        worst=verdict.worst_epsilon(result),
        hospitals=sections.hospitals(result),
        course=sections.course(result),
        audit=view(result.audit) if result.audit else None,
        scores=(result.federated, *result.baselines, *result.alone.values()),
        pictures={
            "course": figures.course(result),
            "participation": figures.participation(result),
            "comparison": forest.comparison(result),
            "by_hospital": forest.by_hospital(result),
            "calibration": figures.calibration(result),
            "subgroups": forest.subgroups(result),
        },
    )


def write_report(result: StudyResult, path: Path) -> None:
    """Write the report whole or not at all; see :func:`write_page`."""
    write_page(render_report(result), path)


def write_page(page: str, path: Path) -> None:
    """Write a page whole or not at all.

    Args:
      page: Its text.
      path: The HTML file; an older one of that name is replaced.

    Guarantees:
      - ``path`` holds the old file or the new one, never a part.

    Raises:
      DataError: the file cannot be written; nothing was left behind.
    """
    data = page.encode()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(
            f"The report ({len(data) / 2**20:.1f} MiB) cannot be written to {path}: "
            f"{error.strerror or 'input or output error'}.",
            remedy=_REMEDIES.get(error.errno or 0, "Choose a folder that you may write to."),
        ) from error


def environment() -> jinja2.Environment:
    """Return the templates, with every string escaped and the report's words as filters."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("septum_bench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        accountant=words.accountant,
        code=words.code,
        delta=words.delta,
        duration=words.duration,
        factor=words.factor,
        figure=words.figure,
        left=words.left,
        listing=words.listing,
        measured=words.measured,
        number=words.number,
        percent=words.percent,
        score=words.score,
        spent=words.spent,
        whole=words.whole,
    )
    return templates
