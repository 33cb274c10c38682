"""What the page's tables and lists say, computed from the record alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from septum_bench.report import words
from septum_bench.report.canvas import png
from septum_bench.report.verdict import named, silent
from septum_bench.result import (
    AttackRow,
    Interval,
    Metrics,
    Reconstruction,
    RoundRow,
    SiteRow,
    StudyResult,
)


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One row of the hospitals' table, ready to print."""

    row: SiteRow
    federated: Metrics | None
    alone: Interval | None
    quarantined: tuple[str, ...]
    refused: tuple[str, ...]
    share: float

    @property
    def left(self) -> float:
        """Epsilon the hospital could still spend."""
        return self.row.epsilon_limit - self.row.epsilon_spent


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a target, with its figures beneath and its alternative text."""

    title: str
    uri: str
    alt: str
    lines: tuple[str, ...]
    rank: str = ""
    weight: Literal["", "works", "first"] = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target patient: the panels that belong side by side."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Course:
    """One row of the round record."""

    row: RoundRow
    silent: tuple[str, ...]
    refused: tuple[str, ...]
    complete: bool


def hospitals(result: StudyResult) -> tuple[Hospital, ...]:
    """Return one row per hospital, in the record's order."""
    rows = []
    for site in result.sites:
        own = result.alone.get(site.name)
        mine = own.per_site.get(site.name) if own else None
        limit = site.epsilon_limit
        rows.append(
            Hospital(
                row=site,
                federated=result.federated.per_site.get(site.name),
                alone=mine.auc if mine else None,
                quarantined=_coded(site.quarantined),
                refused=_coded(site.rounds_refused),
                share=min(100.0, max(0.0, 100 * site.epsilon_spent / limit)) if limit > 0 else 100,
            )
        )
    return tuple(rows)


def _coded(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{n} × {words.code(code)}" for code, n in sorted(counts.items()) if n)


def course(result: StudyResult) -> tuple[Course, ...]:
    """Return one row per round, with every absence named."""
    everyone = {site.name for site in result.sites}
    return tuple(
        Course(
            row=row,
            silent=silent(row),
            refused=tuple(f"{site}: {words.code(code)}" for site, code in row.refused.items()),
            complete=everyone <= set(row.answered),
        )
        for row in result.rounds
    )


def targets(result: StudyResult) -> tuple[Target, ...]:
    """Return each target of the attack with its reconstructions side by side.

    Guarantees:
      - Control and release share a row only if they show the same original.
      - Nothing is left out: a target of one arm alone keeps its own row.
    """
    if result.leakage is None:
        return ()
    control, release = result.leakage.control, result.leakage.release
    waiting = {_key(t): t for t in control.targets}
    pairs: list[tuple[Reconstruction | None, Reconstruction | None]] = [
        (waiting.pop(_key(t), None), t) for t in release.targets
    ]
    pairs += [(t, None) for t in waiting.values()]
    return tuple(
        _target(index, first, second, control, release)
        for index, (first, second) in enumerate(pairs, 1)
    )


def _key(target: Reconstruction) -> tuple[str, bytes]:
    return target.site, target.original.tobytes()


def _target(
    index: int,
    control: Reconstruction | None,
    release: Reconstruction | None,
    control_row: AttackRow,
    release_row: AttackRow,
) -> Target:
    known = release or control
    if known is None:
        raise ValueError("a target belongs to at least one arm")
    name = f"target {index}, {known.site}"
    panels = [
        Panel(title="Original", uri=png(known.original), alt=f"Original image of {name}.", lines=())
    ]
    if control is not None:
        panels.append(
            _attacked("Unprotected gradient", name, control, control_row.gallery, control=True)
        )
    if release is not None:
        panels.append(_attacked("This study's release", name, release, release_row.gallery))
    panels.append(
        Panel(
            title="Best blind guess",
            uri=png(known.prior),
            alt=f"Best guess for {name} without any update: PSNR "
            f"{words.number(known.prior_psnr, 1)} dB, SSIM {words.number(known.prior_ssim)}.",
            lines=_likeness(known.prior_psnr, known.prior_ssim),
        )
    )
    return Target(title=f"{index} · {known.site}", panels=tuple(panels))


def _likeness(psnr: float, ssim: float) -> tuple[str, str]:
    return f"PSNR {words.number(psnr, 1)} dB", f"SSIM {words.number(ssim)}"


def _attacked(
    title: str, name: str, target: Reconstruction, gallery: int, *, control: bool = False
) -> Panel:
    first = target.rank == 1
    finding = (
        "it names the patient" if first else f"the true patient ranks {target.rank} of {gallery}"
    )
    return Panel(
        title=title,
        uri=png(target.reconstruction),
        alt=f"Reconstruction of {name} from the {title.removeprefix('This ').lower()}: {finding}, "
        f"PSNR {words.number(target.psnr, 1)} dB, SSIM {words.number(target.ssim)}.",
        lines=_likeness(target.psnr, target.ssim),
        rank=f"Rank {target.rank} of {gallery}",
        weight=("works" if control else "first") if first else "",
    )


def attack_lines(result: StudyResult) -> tuple[tuple[str, tuple[str, str], bool], ...]:
    """Return the attack table line by line: a name, both arms' cells, whether cells are lists."""
    if result.leakage is None:
        return ()
    arms = (result.leakage.control, result.leakage.release)

    def cells(say: Callable[[AttackRow], str]) -> tuple[str, str]:
        return say(arms[0]), say(arms[1])

    return (
        ("Attack", cells(lambda a: a.name), False),
        ("Attacker", cells(lambda a: a.attacker), False),
        ("What the attacker was given", cells(lambda a: "\n".join(a.grants)), True),
        (
            "Update attacked",
            cells(lambda a: "clipped and noised" if a.protected else "unprotected"),
            False,
        ),
        ("Patients identified", cells(named), False),
        (
            "Identification rate, 95 % interval",
            cells(lambda a: words.figure(a.identification)),
            False,
        ),
        (
            "Chance of a first rank",
            cells(lambda a: f"{words.percent(1 / max(a.gallery, 1))} (1 in {a.gallery})"),
            False,
        ),
        ("PSNR above blind guess, dB", cells(lambda a: words.figure(a.psnr_gain, 1)), False),
        ("SSIM above blind guess", cells(lambda a: words.figure(a.ssim_gain)), False),
        (
            "Effort",
            cells(lambda a: f"{words.whole(a.iterations)} iterations, {words.duration(a.seconds)}"),
            False,
        ),
    )
