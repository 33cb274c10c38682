"""Files to volumes: each is de-identified first, then every series becomes one answer.

Between the two, the de-identified files lie in the private folder of the
ingest, which is deleted with it; a raw byte never lies there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from septum_client.consent.declared import of_patient
from septum_client.label_table import LabelTable
from septum_client.sandbox.pool import Answer, Task
from septum_client.sources import Item
from septum_client.tasks import Ask, MaskOf, keyed, task_of

_TASK_SECONDS = 120.0
_FILE_SECONDS = 2.0
# The defacer's own limit, and time to start it.
_DEFACE_SECONDS = 3700.0


@dataclass(kw_only=True, eq=False)
class _Series:
    key: str = field(repr=False)
    owners: list[dict[str, Any]] = field(default_factory=list, repr=False)
    face: bool = False
    frame_of_reference: str = field(default="", repr=False)
    sources: list[str] = field(default_factory=list, repr=False)
    paths: list[str] = field(default_factory=list, repr=False)

    @property
    def owner(self) -> dict[str, Any]:
        """The first slice's by UID, because file names decide nothing; one that denies, denies."""
        first = min(self.owners, key=lambda owner: str(owner["instance"]))
        said = [int(owner["declared"]) for owner in self.owners]
        return first | {"declared": int(of_patient(said))}


def stacked(
    items: Iterable[Item],
    table: LabelTable,
    *,
    ask: Ask,
    folder: Path,
    mask_of: MaskOf | None = None,
) -> Iterator[tuple[str, Answer]]:
    """Yield what became of each refused file, and then of each series.

    Args:
      items: Files in their order.
      table: The labels, by pseudonym; says whose a NIfTI volume is.
      ask: Has tasks done, in their order.
      folder: Private and empty; holds de-identified files meanwhile.
      mask_of: For a segmentation, the masks of NIfTI volumes.

    Returns:
      Key and answer. A series goes by the key of its first file; its
      ``instances`` are those of its files.
    """
    found: dict[tuple[str, str], _Series] = {}
    plain: list[Item] = []
    written = 0

    def files() -> Iterator[Item]:
        for item in items:
            if item.kind == "dicom" or item.code is not None:
                yield item
            elif item.kind != "table":
                plain.append(item)

    for key, answer in keyed(files(), lambda item: task_of(item, table, verb="deidentify"), ask):
        if "code" in answer.fields:
            yield key, answer
            continue
        owner = answer.fields["owner"]
        series = found.setdefault((owner["patient"], owner["series"]), _Series(key=key))
        path = folder / f"{written}.dcm"
        path.write_bytes(answer.body)
        written += 1
        series.paths.append(str(path))
        series.owners.append(owner)
        series.sources.append(answer.fields["source"])
        series.face |= answer.fields["face"]
        series.frame_of_reference = max(
            series.frame_of_reference, answer.fields["frame_of_reference"]
        )
    yield from keyed(plain, lambda item: task_of(item, table, verb="volume", mask_of=mask_of), ask)
    yield from _volumes(found.values(), ask)


def _volumes(found: Iterable[_Series], ask: Ask) -> Iterator[tuple[str, Answer]]:
    def task(series: _Series) -> Task:
        limit = _TASK_SECONDS + _FILE_SECONDS * len(series.paths)
        return Task(
            verb="series",
            fields={
                "paths": series.paths,
                "owner": series.owner,
                "face": series.face,
                "frame_of_reference": series.frame_of_reference,
                "instances": [owner["instance"] for owner in series.owners],
                "sources": series.sources,
            },
            seconds=limit + _DEFACE_SECONDS * series.face,
        )

    yield from keyed(found, task, ask)
