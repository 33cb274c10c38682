"""The report is one inert file that says what the record says, worst first."""

import base64
import errno
import functools
import html
import io
import itertools
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image as Pillow
from rich.console import Console

from septum.errors import DataError
from septum_bench.audit.finding import Curve, Finding, Measured, ThreatRecord, settle
from septum_bench.audit.report import Attacked, AuditReport, Untried
from septum_bench.report import render_report, write_report
from septum_bench.result import (
    Figure,
    Interval,
    Metrics,
    ModelScore,
    Provenance,
    Reconstruction,
    Reliability,
    RoundRow,
    SiteRow,
    StudyResult,
    Subgroup,
)
from septum_bench.summary import print_summary

SITES = ("Charité Nord", "Lakeside", "Porto Geral", "St Bride", "Tampere", "Utrecht Oost")
BANNER = "SIMULATION: noise was seeded; this run protects nobody"


def interval(value: float, half: float) -> Interval:
    return Interval(value=value, low=max(0.0, value - half), high=min(1.0, value + half * 0.8))


def metrics(auc: float, patients: int, half: float = 0.04) -> Metrics:
    grid = (0.04, 0.13, 0.24, 0.38, 0.55, 0.72, 0.9)
    seen = (0.06, 0.17, 0.22, 0.44, 0.61, 0.81, 0.93)
    size = (0.24, 0.2, 0.14, 0.12, 0.11, 0.1, 0.09)
    return Metrics(
        patients=patients,
        positives=round(patients * 0.41),
        auc=interval(auc, half),
        sensitivity=interval(auc - 0.22, half * 1.8),
        specificity_target=0.9,
        brier=interval(0.15, 0.02),
        calibration_error=interval(0.049, 0.02),
        reliability=tuple(
            Reliability(predicted=p, observed=o, patients=round(patients * n))
            for p, o, n in zip(grid, seen, size, strict=True)
        ),
    )


def score(name: str, auc: float, sites: tuple[str, ...], *, private: bool = True) -> ModelScore:
    return ModelScore(
        name=name,
        private=private,
        pooled=metrics(auc, 297),
        per_site={s: metrics(auc - 0.03 + 0.012 * k, 49, 0.1) for k, s in enumerate(sites)},
    )


def disc(seed: int, noise: float, *, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = 70 + 60 * (x**2 / 0.8 + y**2 / 0.55 < 1)
    for centre in (-0.42, 0.42):
        body -= 85 * ((x - centre) ** 2 / 0.11 + (y + 0.05) ** 2 / 0.28 < 1)
    cx, cy = rng.uniform(-0.5, 0.5, 2)
    body += 90 * ((x - cx) ** 2 + (y - cy) ** 2 < rng.uniform(0.006, 0.03))
    return np.clip((1 - noise) * body + noise * rng.uniform(0, 255, body.shape), 0, 255).astype(
        np.uint8
    )


def reconstruction(k: int, site: str) -> Reconstruction:
    return Reconstruction(
        site=site,
        original=disc(k, 0.03),
        reconstruction=disc(k, 0.95),
        prior=disc(99, 0.2),
        psnr=9.1 + 0.2 * k,
        ssim=0.04,
        prior_psnr=14.2,
        prior_ssim=0.33,
        rank=23 + k,
        gallery=64,
        control=disc(k, 0.12),
        control_psnr=24.3 + k,
        control_ssim=0.81,
        control_rank=1,
        null=disc(k + 1, 0.95),
        null_psnr=8.9,
        null_ssim=0.04,
        null_rank=31,
    )


def audited(verdict: str = "not refuted", sites: tuple[str, ...] = SITES) -> AuditReport:
    control, release = {"not refuted": (6, 0), "void": (0, 0), "refuted": (6, 4)}[verdict]
    threat = ThreatRecord(
        name="inversion",
        attacker="honest-but-curious coordinator",
        protected=True,
        grants=("model weights", "the release of one hospital", "labels"),
    )
    line = Curve(name="release", x=(1.0, 8.0, 64.0), y=(0.0, 0.2, 1.0), figure="Rank")
    found = Finding(
        key="inversion",
        claim="No image drawn from the release names its patient.",
        attack="gradient inversion",
        source="Geiping et al. 2020, arXiv:2003.14053",
        threat=threat,
        score="patients named",
        unit="share",
        chance=1 / 64,
        control=Measured(role="control", value=control / 6, low=0.0, high=1.0, trials=6),
        null=Measured(role="null", value=0.0, low=0.0, high=0.46, trials=6),
        release=Measured(role="release", value=release / 6, low=0.0, high=0.9, trials=6),
        p_value=1e-6 if release else 1.0,
        control_ok=control > 0,
        power="A release that names 42 % of its patients.",
        sentence=f"The attack named {release} of 6 patients among 64.",
        curves=(line,),
        reconstructions=tuple(reconstruction(k, sites[k % len(sites)]) for k in range(6)),
    )
    return AuditReport(
        name="nodules",
        audited=date(2026, 1, 15),
        attacked=Attacked(
            study="9f2c" * 16,
            models={"0": "00" * 32},
            releases={f"{sites[0]}/1": "11" * 32},
            cohorts={},
            public_images="22" * 32,
            seed=7,
            source_known=True,
        ),
        findings=settle([found]),
        untried=(Untried(key="canaries", title="canaries", reason="no cohort was given."),),
        epsilon=7.98,
        delta=1e-4,
        seeded=False,
    )


def study(sites: tuple[str, ...] = SITES, **changes: Any) -> StudyResult:
    rounds = tuple(
        RoundRow(
            round=r,
            asked=sites,
            answered=sites,
            refused={},
            epsilon=7.98 * (r / 12) ** 0.56,
            auc=0.86 - 0.3 * float(np.exp(-r / 3.2)) + 0.008 * (-1) ** r,
            seconds=31.0 + r,
        )
        for r in range(1, 13)
    )
    base: dict[str, Any] = {
        "study_name": "Lung nodules on chest radiographs",
        "study_toml": '[study]\nname = "nodules"\nrounds = 12\n\n[privacy]\nepsilon = 8.0\n',
        "label": "nodule",
        "accountant": "PLD",
        "epsilon": 7.98,
        "delta": 1e-4,
        "noise_multiplier": 0.874,
        "max_grad_norm": 1.0,
        "sampling_rate": 0.1065,
        "steps_per_round": 10,
        "seeded": False,
        "sites": tuple(
            SiteRow(
                name=name,
                patients_train=150 + 17 * k,
                patients_test=49 + (k < 3),
                images=312 + 40 * k,
                quarantined={"DATA_108": 4, "DATA_111": 2} if k % 3 == 1 else {},
                epsilon_spent=7.98 - 0.21 * k,
                epsilon_limit=8.0,
                delta=1e-4,
                noise_multiplier=0.874,
                rounds_released=12,
                rounds_refused={},
                ledger_head=f"{k + 10:02x}" * 32,
                ledger_verified=True,
            )
            for k, name in enumerate(sites)
        ),
        "rounds": rounds,
        "federated": score("federated", 0.86, sites),
        "alone": {
            name: score(f"{name} alone", 0.64 + 0.028 * k, sites) for k, name in enumerate(sites)
        },
        "baselines": (
            score("pooled", 0.93, sites, private=False),
            score("federated, no privacy", 0.915, sites, private=False),
        ),
        "subgroups": tuple(
            Subgroup(group=group, level=level, metrics=metrics(auc, n, half))
            for group, level, auc, n, half in (
                ("sex", "female", 0.87, 151, 0.05),
                ("sex", "male", 0.85, 146, 0.06),
                ("age band", "under 50", 0.84, 71, 0.09),
                ("age band", "50 to 69", 0.88, 140, 0.05),
                ("age band", "70 and over", 0.83, 86, 0.08),
                ("lesion size", "under 10 mm", 0.71, 201, 0.11),
                ("lesion size", "10 to 20 mm", 0.88, 204, 0.07),
                ("lesion size", "over 20 mm", 0.96, 197, 0.05),
            )
        ),
        "audit": audited(sites=sites),
        "provenance": Provenance(
            command="septum simulate --sites 6 --rounds 12 --seed 7 --out septum-run",
            seed=7,
            engine="in-process",
            study_digest="9f2c" * 16,
            model_digest="41ab" * 16,
            started="2026-01-15T09:30:00Z",
            seconds={"phantoms": 21.4, "ingest": 33.9, "train": 402.0, "attack": 171.2},
            peak_memory_mib=2311.0,
            machine="2 cores, 16 GiB, Linux x86_64",
            versions={"septum": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0"},
        ),
    }
    return StudyResult(**(base | changes))


def with_refusals(result: StudyResult) -> StudyResult:
    rounds = list(result.rounds)
    first, second = result.sites[3].name, result.sites[1].name
    for index in (8, 9, 10, 11):
        here = tuple(s for s in rounds[index].answered if s != first)
        rounds[index] = rounds[index].model_copy(
            update={"answered": here, "refused": {first: "SITE_210"}}
        )
    here = tuple(s for s in rounds[4].answered if s != second)
    rounds[4] = rounds[4].model_copy(update={"answered": here})
    sites = list(result.sites)
    sites[3] = sites[3].model_copy(
        update={"rounds_released": 8, "rounds_refused": {"SITE_210": 4}, "ledger_verified": False}
    )
    return result.model_copy(update={"rounds": tuple(rounds), "sites": tuple(sites)})


def single_class(result: StudyResult) -> StudyResult:
    nothing = Interval(value=None, reason="one class only")
    bad = metrics(0.5, 49).model_copy(
        update={"auc": nothing, "sensitivity": nothing, "positives": 0, "reliability": ()}
    )
    per_site = result.federated.per_site | {result.sites[2].name: bad}
    strata = (*result.subgroups, Subgroup(group="scanner", level="portable", metrics=bad))
    return result.model_copy(
        update={
            "federated": result.federated.model_copy(update={"per_site": per_site}),
            "subgroups": strata,
        }
    )


VARIANTS: dict[str, Callable[[], StudyResult]] = {
    "plain": study,
    "leak": lambda: study(seeded=True, audit=audited("refuted")),
    "bare": lambda: study(audit=None, baselines=(), alone={}, subgroups=()),
    "refused": lambda: with_refusals(study()),
    "void": lambda: single_class(study(audit=audited("void"))),
    "one hospital": lambda: study(("Solo",), rounds=()),
}


@functools.cache
def rendered(variant: str) -> str:
    return render_report(VARIANTS[variant]())


def segmented(result: StudyResult) -> StudyResult:
    def without_auc(metrics: Metrics) -> Metrics:
        nothing = Interval(value=None, reason="the task is segmentation")
        figures = (
            Figure(name="Dice of lesion", interval=interval(0.71, 0.03)),
            Figure(name="HD95 of lesion, pixels", interval=Interval(value=8.5, low=7, high=9)),
        )
        fields = {"auc": nothing, "sensitivity": nothing, "brier": nothing}
        empty = {"calibration_error": nothing, "reliability": ()}
        return metrics.model_copy(update=fields | empty | {"figures": figures})

    def scored(row: ModelScore) -> ModelScore:
        sites = {name: without_auc(of_site) for name, of_site in row.per_site.items()}
        return row.model_copy(update={"pooled": without_auc(row.pooled), "per_site": sites})

    rounds = tuple(row.model_copy(update={"auc": None}) for row in result.rounds)
    return result.model_copy(
        update={
            "rounds": rounds,
            "federated": scored(result.federated),
            "alone": {name: scored(row) for name, row in result.alone.items()},
            "baselines": tuple(scored(row) for row in result.baselines),
            "subgroups": (),
        }
    )


def test_a_task_without_an_auc_shows_its_own_figures() -> None:
    page = render_report(segmented(study()))
    shown = text_of(page)
    assert "Dice of lesion 0.71" in shown
    assert "HD95 of lesion, pixels: 8.50" in shown
    models = 1 + len(study().baselines) + len(study().alone)
    assert page.count("Dice of lesion</td>") == models
    said = io.StringIO()
    print_summary(segmented(study()), console=Console(file=said, width=200))
    assert "Dice of lesion 0.710" in said.getvalue()


@pytest.fixture
def page() -> str:
    return rendered("plain")


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    body = re.sub(r'src="data:[^"]*"', "", body)
    alts = " ".join(re.findall(r'alt="([^"]*)"', body))
    said = html.unescape(re.sub(r"<[^>]+>", " ", body) + " " + alts)
    return re.sub(r"\s+", " ", said)


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    assert not re.search(r"<(script|link|iframe|object|embed|form|base)\b", page, re.IGNORECASE)
    assert not re.search(r"https?://|@import|\bon\w+\s*=", re.sub(r'src="data:[^"]*"', "", page))
    assert all(src.startswith("data:image/") for src in re.findall(r'src="([^"]*)"', page))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page


def test_a_six_hospital_page_is_under_two_megabytes(page: str) -> None:
    assert len(page.encode()) < 2 * 2**20


def test_a_script_in_a_name_is_inert() -> None:
    evil = "<script>alert(1)</script>"
    page = render_report(study((evil, "$x_{$", '"><img src=x onerror=y>'), label=evil))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert html.escape(evil) in page


def test_the_verdict_comes_first_with_its_three_figures(page: str) -> None:
    said = text_of(page.partition('id="hospitals"')[0])
    assert "AUC 0.86 [0.82, 0.89]" in said
    assert "On 297 test patients of 6 hospitals; best non-private 0.93 (pooled)" in said
    assert "median hospital alone 0.71" in said
    assert "ε = 7.98 at δ = 1e-4" in said
    assert "(Poisson sampling, PLD accountant, add or remove one patient)" in said
    assert "Not refuted 0 refuted, 1 not refuted, 0 void" in said


@pytest.mark.parametrize(
    ("variant", "state", "word"),
    [("void", "void", "VOID"), ("leak", "leak", "REFUTED"), ("plain", "open", "Not refuted")],
)
def test_each_leakage_verdict_is_said_and_looks_its_part(
    variant: str, state: str, word: str
) -> None:
    found = VARIANTS[variant]().audit
    assert found is not None
    assert f'<article class="card {state}">' in rendered(variant)
    assert word in text_of(rendered(variant))
    assert found.findings[0].sentence in text_of(rendered(variant))
    assert ("smallest this run would have caught" in text_of(rendered(variant))) == (
        word == "Not refuted"
    )


def test_a_skipped_attack_is_not_measured_rather_than_passed() -> None:
    page = rendered("bare")
    assert '<article class="card missing">' in page
    assert "Not measured" in text_of(page)
    assert "Not refuted" not in text_of(page)


def test_every_hospital_is_named_in_the_table(page: str) -> None:
    assert all(f'<th scope="row">{name}</th>' in page for name in SITES)


def test_a_figure_that_cannot_be_resolved_says_why() -> None:
    page = rendered("void")
    assert 'data-label="AUC federated">not resolvable (one class only)<' in page


def test_an_unresolvable_headline_says_why() -> None:
    base = study()
    nothing = Interval(value=None, reason="one class only")
    pooled = base.federated.pooled.model_copy(update={"auc": nothing})
    blind = base.federated.model_copy(update={"pooled": pooled})
    said = text_of(render_report(base.model_copy(update={"federated": blind})))
    assert "AUC not resolvable (one class only)" in said


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_banner_is_there_exactly_when_the_noise_was_seeded(variant: str) -> None:
    assert (BANNER in text_of(rendered(variant))) is VARIANTS[variant]().seeded


def test_partial_participation_is_loud() -> None:
    said = text_of(rendered("refused"))
    verdict = said.partition("The hospitals")[0]
    assert "PARTIAL: 5 of 12 rounds ran without every hospital" in verdict
    assert "St Bride refused with SITE_210 budget exceeded in rounds 9–12." in verdict
    assert "Lakeside did not answer in round 5." in verdict
    assert "Ledger not verified" in verdict


def test_full_participation_raises_no_alarm(page: str) -> None:
    assert "PARTIAL" not in page
    assert 'class="alert' not in page


def test_the_worst_account_is_the_headline() -> None:
    base = study()
    sites = (base.sites[0].model_copy(update={"epsilon_spent": 8.411}), *base.sites[1:])
    said = text_of(render_report(base.model_copy(update={"sites": sites})))
    assert "ε = 8.42 at" in said
    assert "Budget exceeded" in said


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_promises_what_nobody_can(variant: str) -> None:
    said = text_of(rendered(variant)).lower()
    assert not re.search(
        r"\b(safe(ly)?|anonym\w*|complian\w*|compl(y|ies)|guarantee\w*|certif\w*|secured?)\b", said
    )


def test_every_figure_has_words_and_headings_descend_in_order(page: str) -> None:
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) >= 30
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.count("<table") == page.count("<caption>")
    assert '<html lang="en">' in page


def test_equal_results_give_equal_bytes_even_through_the_file(page: str) -> None:
    again = StudyResult.model_validate_json(study().model_dump_json())
    assert render_report(again) == page


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)
    render_report(study(("Solo",)))
    assert dict(mpl.rcParams) == before


def test_each_target_shows_original_control_release_null_and_blind_guess(page: str) -> None:
    titles = ("Original", "Unprotected", "This release", "Null run", "Best blind guess")
    assert all(page.count(f"<b>{title}</b>") == 6 for title in titles)


def test_the_report_is_written_whole(tmp_path: Path, page: str) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(study(), path)
    assert path.read_text(encoding="utf-8") == page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_full_disk_leaves_the_old_report_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("septum_bench.report.page.os.fsync", full)
    with pytest.raises(DataError, match=r"No space left.*Free some disk space"):
        write_report(study(("Solo",), rounds=()), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_cannot_be_written_is_refused_with_a_remedy(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as caught:
        write_report(study(("Solo",), rounds=()), tmp_path / folder / "report.html")
    assert caught.value.remedy


def test_an_image_keeps_its_pixels(page: str) -> None:
    first = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert first is not None
    shown = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(first[1]))))
    np.testing.assert_array_equal(shown, disc(0, 0.03))


def test_numbers_without_an_end_are_drawn_and_written() -> None:
    base = study(("Solo",), audit=None, epsilon=float("inf"))
    free = base.sites[0].model_copy(
        update={"epsilon_limit": float("inf"), "epsilon_spent": float("inf")}
    )
    rounds = tuple(r.model_copy(update={"epsilon": float("inf")}) for r in base.rounds)
    page = render_report(base.model_copy(update={"sites": (free,), "rounds": rounds}))
    assert "ε = ∞" in text_of(page)
