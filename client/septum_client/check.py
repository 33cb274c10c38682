"""Can this export take part? Said in a minute, from a sample, without a value of anybody.

Shares are rounded to whole percent and groups of fewer than
:data:`SMALLEST_GROUP` files are not counted out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from septum.errors import Quarantine
from septum.study import Reference
from septum_client import labels, tasks
from septum_client.label_table import LabelTable
from septum_client.rules import Intake
from septum_client.sandbox import pool
from septum_client.sandbox.pool import Answer, Task
from septum_client.sandbox.settings import settings
from septum_client.screening.verdict import Decision
from septum_client.sources import count, walk

SMALLEST_GROUP: Final = 5
SAMPLE: Final = 400
_SIDE: Final = 64
_FEWEST_USABLE: Final = 0.5
_FAR: Final = 5.0
_TURNED: Final = 0.05

State = Literal["ok", "look", "stop"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One finding: ``ok``, ``look`` (a person should), or ``stop`` (it cannot take part)."""

    state: State
    name: str
    text: str


@dataclass(kw_only=True, eq=False)
class _Sample:
    files: int = 0
    codes: Counter[Quarantine] = field(default_factory=Counter)
    facts: list[dict[str, Any]] = field(default_factory=list)
    images: list[NDArray[np.float32]] = field(default_factory=list)


def check(
    source: Path,
    *,
    key: bytes,
    rules: Intake,
    decisions: Mapping[str, Decision],
    wanted: Sequence[str],
    reference: Reference | None = None,
    most: int = SAMPLE,
    workers: int = 1,
) -> list[Line]:
    """Return what stands between an export and a cohort.

    Args:
      source: Folder or archive with its labels table.
      key: The site's key; what it makes is dropped at the end.
      rules: What may enter.
      decisions: What people decided on the review page.
      wanted: The label columns that the study needs.
      reference: The ranges that the study states, if it does.
      most: Files to read, evenly spaced over the export.
      workers: Child processes that read.

    Raises:
      DataError: The source cannot be read at all.
    """
    table = labels.parse(labels.text_of(source), wanted).pseudonymised(key)
    told = settings(key, rules=rules, decisions=decisions, image_size=_SIDE)
    found = _sample(source, told=told, table=table, most=most, workers=workers)
    reference = reference or Reference()
    lines = [_readable(found), *_prevalences(table, wanted, reference)]
    if found.images:
        lines += [
            _modalities(found, reference),
            _spacing(found, reference),
            _polarity(found),
            _copies(found),
            _outliers(found),
            _drift(found, reference),
        ]
    return lines


def _sample(
    source: Path, *, told: Mapping[str, Any], table: LabelTable, most: int, workers: int
) -> _Sample:
    every = max(1, -(-count(source) // most))
    sample = (item for place, item in enumerate(walk(source)) if place % every == 0)
    found = _Sample()

    def ask(tasks: Iterable[Task | Answer]) -> Iterator[Answer]:
        return pool.shared(workers).map(tasks, settings=told)

    for _, answer in tasks.read(sample, table, ask=ask):
        found.files += 1
        if "code" in answer.fields:
            found.codes[Quarantine(answer.fields["code"])] += 1
            continue
        found.facts.append(answer.fields["facts"])
        square = np.frombuffer(answer.body, dtype="<f2")[: _SIDE * _SIDE]
        found.images.append(square.astype(np.float32).reshape(_SIDE, _SIDE))
    return found


def _readable(found: _Sample) -> Line:
    share = len(found.images) / max(1, found.files)
    refused = ", ".join(
        f"{code} {code.name.lower().replace('_', ' ')} {_share(n, found.files)}"
        for code, n in found.codes.most_common(4)
    )
    text = f"{_share(len(found.images), found.files)} of {found.files} files looked at can be used"
    return Line(
        state="stop" if share < _FEWEST_USABLE else "look" if share < 1 else "ok",
        name="files",
        text=text + (f"; refused: {refused}" if refused else ""),
    )


def _prevalences(table: LabelTable, wanted: Sequence[str], reference: Reference) -> Iterator[Line]:
    for column, name in enumerate(wanted):
        positive, rows = int(table.values[:, column].sum()), len(table.values)
        share = positive / max(1, rows)
        low, high = reference.prevalence or (0.0, 1.0)
        state: State = "ok" if 0.01 <= share <= 0.99 else "stop"
        if state == "ok" and not low <= share <= high:
            state = "look"
        yield Line(
            state=state,
            name=f"label {name}",
            text=f"positive in {_share(positive, rows)} of the rows"
            + _expected(reference.prevalence),
        )


def _modalities(found: _Sample, reference: Reference) -> Line:
    seen = Counter(str(facts.get("modality") or "none") for facts in found.facts)
    other = set(seen) - set(reference.modalities) if reference.modalities else set()
    text = ", ".join(f"{name} {_share(n, len(found.facts))}" for name, n in seen.most_common())
    if other:
        return Line(
            state="stop",
            name="modality",
            text=f"{text}; the study takes {', '.join(reference.modalities)}",
        )
    return Line(state="ok" if len(seen) == 1 else "look", name="modality", text=text)


def _spacing(found: _Sample, reference: Reference) -> Line:
    spacings = [facts["spacing_mm"] for facts in found.facts if facts.get("spacing_mm")]
    if not spacings:
        return Line(state="look", name="spacing", text="no file states the size of its pixels")
    middle = float(np.median(np.array(spacings)[:, 0]))
    low, high = reference.spacing_mm or (0.0, np.inf)
    return Line(
        state="ok" if low <= middle <= high and len(spacings) == len(found.facts) else "look",
        name="spacing",
        text=f"median {middle:.2g} mm, stated by {_share(len(spacings), len(found.facts))} "
        "of the images" + _expected(reference.spacing_mm, " mm"),
    )


def _polarity(found: _Sample) -> Line:
    """An image that looks like the others' negative probably is one."""
    stack = np.stack(found.images).reshape(len(found.images), -1)
    stack = stack - stack.mean(axis=1, keepdims=True)
    middle = np.median(stack, axis=0)
    turned = int(((stack * middle).sum(axis=1) < 0).sum())
    declared = sum(facts.get("photometric") == "MONOCHROME1" for facts in found.facts)
    total = len(found.images)
    return Line(
        state="look" if turned > _TURNED * total else "ok",
        name="polarity",
        text=f"{_share(declared, total)} are declared inverted (MONOCHROME1) and were "
        f"turned; {_share(turned, total)} still look like negatives of the rest",
    )


def _copies(found: _Sample) -> Line:
    copies = len(found.images) - len({image.tobytes() for image in found.images})
    return Line(
        state="look" if copies else "ok",
        name="duplicates",
        text=f"{_share(copies, len(found.images))} of the images looked at repeat another",
    )


def _outliers(found: _Sample) -> Line:
    means = np.array([image.mean() for image in found.images])
    middle = np.median(means)
    spread = 1.4826 * float(np.median(np.abs(means - middle))) or 1e-6
    far = int((np.abs(means - middle) > _FAR * spread).sum())
    return Line(
        state="look" if far else "ok",
        name="outliers",
        text=f"{_share(far, len(found.images))} of the images are more than {_FAR:g} robust "
        "deviations brighter or darker than the rest",
    )


def _drift(found: _Sample, reference: Reference) -> Line:
    mean = float(np.mean([image.mean() for image in found.images]))
    low, high = reference.mean_intensity or (0.0, 1.0)
    return Line(
        state="ok" if low <= mean <= high else "look",
        name="brightness",
        text=f"mean {mean:.2f} of 1 after normalisation{_expected(reference.mean_intensity)}",
    )


def _share(number: int, total: int) -> str:
    """Return a share in whole percent, unless it would count out a small group, or all but it."""
    if 0 < number < min(SMALLEST_GROUP, total):
        return f"fewer than {SMALLEST_GROUP}"
    if 0 < total - number < SMALLEST_GROUP:
        return f"all but fewer than {SMALLEST_GROUP}"
    return f"{100 * number / max(1, total):.0f} %"


def _expected(limits: tuple[()] | tuple[float, float], unit: str = "") -> str:
    return "" if not limits else f"; the study expects {limits[0]:g} to {limits[1]:g}{unit}"
