"""Progress that people watch (rich) or machines read (one JSON object a line)."""

import json
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RichReporter:
    """One bar per stage, with what it is doing and the time left."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        self._bars.stop()

    def stage(self, name: str, total: int) -> None:
        """Close the bar of the last stage and open one of ``total`` parts."""
        self.finish()
        self._bar = self._bars.add_task(name, total=max(total, 1), text="")

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Move the bar by one part, or to ``done`` of ``total``."""
        if self._bar is None:
            return
        step = None if done is not None else 1
        self._bars.update(self._bar, advance=step, completed=done, total=total, text=text)

    def finish(self) -> None:
        """Show the current stage as done."""
        if self._bar is not None:
            total = self._bars.tasks[self._bar].total
            self._bars.update(self._bar, completed=total)
            self._bar = None


class JsonReporter:
    """One JSON object a line on standard output."""

    def __init__(self) -> None:
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, name: str, total: int) -> None:
        """Say that a stage begins."""
        self._stage = name
        _say(event="stage", stage=name, total=total)

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Say that a part is done."""
        _say(event="progress", stage=self._stage, text=text, done=done, total=total)


def _say(**fields: object) -> None:
    typer.echo(json.dumps(fields))
