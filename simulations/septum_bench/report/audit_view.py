"""What the audit's part of a page says, computed from its record alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from septum_bench.audit.finding import Finding, ThreatRecord, Verdict
from septum_bench.audit.report import AuditReport
from septum_bench.record import Reconstruction
from septum_bench.report import scores, words
from septum_bench.report.canvas import Picture, png

State = Literal["leak", "open", "void"]

_STATES: dict[Verdict, tuple[State, str]] = {
    Verdict.REFUTED: ("leak", "REFUTED"),
    Verdict.NOT_REFUTED: ("open", "Not refuted"),
    Verdict.VOID: ("void", "VOID"),
}
_RESIDUAL = {
    Verdict.REFUTED: "What leaked.| {names} learnt something from what was released. "
    "Do not release more under these settings before it is understood.",
    Verdict.VOID: "What this says nothing about.| {names} failed even without protection, "
    "so that failure on the release counts for nothing.",
    Verdict.NOT_REFUTED: "What may still leak.| Anything smaller than the faults and leaks named "
    "beside each claim, and anything that a stronger attack than these would find.",
}
_MOST_PICTURED = 6


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
class Shown:
    """One finding, ready to print."""

    finding: Finding
    anchor: str
    state: State
    headline: str
    strip: Picture
    curves: tuple[Picture, ...]
    targets: tuple[Target, ...]
    left_out: int

    @property
    def where(self) -> str:
        """The hospital and rounds attacked, in words."""
        parts = [self.finding.site or "all hospitals or the global model"]
        if self.finding.rounds:
            each = "round" if len(self.finding.rounds) == 1 else "rounds"
            parts.append(f"{each} {words.spans(sorted(self.finding.rounds))}")
        return ", ".join(parts)

    @property
    def p_value(self) -> str:
        """The corrected p-value, in words."""
        p = self.finding.p_adjusted
        return "no test" if p is None else f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """The audit, ready to print."""

    report: AuditReport
    state: State
    headline: str
    findings: tuple[Shown, ...]
    threats: tuple[tuple[ThreatRecord, tuple[str, ...]], ...]
    residual: tuple[tuple[str, str], ...]


def view(report: AuditReport) -> AuditView:
    """Return the record ready to print."""
    state, headline = _STATES[report.verdict]
    threats = tuple(
        (threat, tuple(dict.fromkeys(f.attack for f in report.findings if f.threat == threat)))
        for threat in report.threats
    )
    return AuditView(
        report=report,
        state=state,
        headline=headline,
        findings=tuple(_shown(finding, n) for n, finding in enumerate(report.findings, 1)),
        threats=threats,
        residual=residual(report),
    )


def residual(report: AuditReport) -> tuple[tuple[str, str], ...]:
    """Return what this audit leaves open, in plain words: a heading and its sentence each."""
    said = []
    for verdict, text in _RESIDUAL.items():
        if found := report.of(verdict):
            names = _sentence(finding.attack for finding in found)
            heading, _, sentence = text.partition("| ")
            said.append((heading, sentence.replace("{names}", names)))
    if report.untried:
        names = _sentence(each.title for each in report.untried)
        said.append(("What was not tried.", f"{names}."))
    bound = (
        f"Against every attack, tried or not, there is only the bound: for one patient the odds "
        f"of any guess grow at most {words.factor(report.epsilon)}-fold (ε = "
        f"{words.spent(report.epsilon)} for all rounds as planned), except with probability "
        f"near δ = {words.delta(report.delta)}."
    )
    if report.seeded:
        bound += " The noise here came from a seed, so that the bound is hypothetical."
    said.append(("What bounds the rest.", bound))
    return tuple(said)


def _sentence(names: Iterable[str]) -> str:
    """Return each name once, as the beginning of a sentence."""
    text = words.listing(dict.fromkeys(names))
    return text[:1].upper() + text[1:]


def _shown(finding: Finding, number: int) -> Shown:
    state, headline = _STATES[finding.verdict]
    pictured = finding.reconstructions[:_MOST_PICTURED]
    return Shown(
        finding=finding,
        anchor=f"finding-{number}",
        state=state,
        headline=headline,
        strip=scores.strip(finding),
        curves=scores.curves(finding),
        targets=tuple(_target(each, n) for n, each in enumerate(pictured, 1)),
        left_out=len(finding.reconstructions) - len(pictured),
    )


def _target(target: Reconstruction, number: int) -> Target:
    name = f"target {number}, {target.site}"
    panels = [Panel(title="Original", uri=png(target.original), alt=f"Original image of {name}.",
                    lines=())]  # fmt: skip
    for title, image, figures, rank, weight in (
        (
            "Unprotected",
            target.control,
            (target.control_psnr, target.control_ssim),
            target.control_rank,
            "works",
        ),
        (
            "This release",
            target.reconstruction,
            (target.psnr, target.ssim),
            target.rank,
            "first",
        ),
        (
            "Null run",
            target.null,
            (target.null_psnr, target.null_ssim),
            target.null_rank,
            "first",
        ),
        ("Best blind guess", target.prior, (target.prior_psnr, target.prior_ssim), None, ""),
    ):
        if image is None:
            continue
        lines = _likeness(*figures)
        placed = _placed(rank, target.gallery)
        panels.append(
            Panel(
                title=title,
                uri=png(image),
                alt=f"{title}, {name}: {', '.join((*lines, placed) if placed else lines)}.",
                lines=lines,
                rank=placed,
                weight=weight if rank == 1 else "",  # type: ignore[arg-type] # a literal above
            )
        )
    return Target(title=f"{number} · {target.site}", panels=tuple(panels))


def _likeness(psnr: float | None, ssim: float | None) -> tuple[str, ...]:
    said = [] if psnr is None else [f"PSNR {words.number(psnr, 1)} dB"]
    return (*said, *([] if ssim is None else [f"SSIM {words.number(ssim)}"]))


def _placed(rank: int | None, gallery: int | None) -> str:
    if rank is None or rank < 1:
        return ""
    return f"Rank {rank} of {gallery}" if gallery else f"Rank {rank}"
