"""Files to tasks for the child processes, and answers back to their files."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from septum.errors import Quarantine
from septum_client.label_table import LabelTable
from septum_client.sandbox.pool import Answer, Task
from septum_client.sources import Item

MaskOf = Callable[[str], Mapping[str, str]]
"""Told the key of a mask's file, says where the mask is kept."""
Ask = Callable[[Iterable[Task | Answer]], Iterator[Answer]]


class _HasKey(Protocol):
    @property
    def key(self) -> str: ...


Keyed = TypeVar("Keyed", bound=_HasKey)


def read(
    items: Iterable[Item], table: LabelTable, *, ask: Ask, mask_of: MaskOf | None = None
) -> Iterator[tuple[str, Answer]]:
    """Yield the key of each item but tables, and what became of it: every frame an image."""
    files = (item for item in items if item.kind != "table")
    return keyed(files, lambda item: task_of(item, table, verb="prepare", mask_of=mask_of), ask)


def keyed(
    things: Iterable[Keyed], task: Callable[[Keyed], Task | Answer], ask: Ask
) -> Iterator[tuple[str, Answer]]:
    """Yield the key of each thing, and the answer to the task it makes."""
    ahead: deque[str] = deque()

    def tasks() -> Iterator[Task | Answer]:
        for thing in things:
            ahead.append(thing.key)
            yield task(thing)

    for answer in ask(tasks()):
        yield ahead.popleft(), answer


def task_of(
    item: Item, table: LabelTable, *, verb: str, mask_of: MaskOf | None = None
) -> Task | Answer:
    """Return what a child must do for an item, or the answer where that is known already."""
    if item.code is not None:
        return Answer(fields={"code": item.code.value})
    if item.kind == "index":
        return Answer(fields={"code": Quarantine.NOT_AN_IMAGE.value})
    fields: dict[str, Any] = {"kind": item.kind}
    if item.path is not None:
        fields["path"] = os.fspath(item.path)
    if item.kind != "dicom":
        # Only the table says whose they are.
        row = table.row_of("", "", file=item.key)
        if row is None:
            return Answer(fields={"code": Quarantine.NO_LABEL.value})
        fields["person"] = {
            "patient": table.patients[row],
            "sex": table.sexes[row],
            "age_band": table.age_bands[row],
        }
        fields |= mask_of(table.masks[row]) if mask_of is not None else {}
    return Task(verb=verb, fields=fields, body=item.content or b"")
