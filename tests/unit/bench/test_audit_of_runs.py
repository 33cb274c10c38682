"""A run, one release, one model and a hospital's own rehearsal, audited from what lies on disk."""

import hashlib
import json
import shutil
from datetime import UTC, date, datetime
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from septum.cli import build_app
from septum.errors import ConfigError, DataError, SeptumError
from septum.study import load
from septum_bench import observed, simulate
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.inversion import InversionConfig
from septum_bench.audit import (
    audit,
    canary_probe,
    conformance_probe,
    counting,
    fingerprints,
    identification,
    multistep,
    participation,
    reconstruction,
    rehearse,
)
from septum_bench.audit.finding import Verdict
from septum_bench.audit.loading import open_part, open_run
from septum_bench.audit.subject import NotApplicable
from septum_bench.plan import Plan
from septum_bench.report.audit_page import render_audit
from septum_client.cohort import Cohort, Split
from septum_client.site import Site
from septum_server import checkpoint

TODAY = date(2026, 1, 15)
ATTACK = ["identification"]


class Silent:
    def stage(self, name, total):
        pass

    def advance(self, text="", *, done=None, total=None):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited") / "run"
    plan = Plan.check(sites=2, patients=80, rounds=2, image_size=32, seed=3)
    plan = simulate.begin(plan, folder, resume=False)
    simulate.federate(plan, folder, reporter=Silent())
    return folder


@pytest.fixture(scope="module")
def subject(folder):
    return open_run(folder)


CHEAP = {
    canary_probe: {"_CANARIES": 300, "_SIMULATED": 2},
    conformance_probe: {"_STEPS": 4},
    counting: {"_ROUNDS": 1},
    fingerprints: {"_ROUNDS": 1},
    identification: {"_CANDIDATES": 16, "_TRIALS": 300, "_ABSENT": 300},
    multistep: {"_SITES": 1, "CONFIG": MatchingConfig(evaluations=3, stages=1)},
    participation: {"_ROUNDS": 1, "_CANDIDATES": 30},
    reconstruction: {"_TARGETS": 2, "InversionConfig": partial(InversionConfig, iterations=4)},
}


def brief(monkeypatch):
    """Make every default attack as cheap as it can be and still have something to say."""
    for module, constants in CHEAP.items():
        for name, value in constants.items():
            assert hasattr(module, name), name
            monkeypatch.setattr(module, name, value)


def contents(folder):
    """Every file but the ledger's own journals, by digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".sqlite-wal", ".sqlite-shm"}
    }


def command(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


def test_a_run_keeps_every_release_of_every_round(folder, subject):
    assert set(subject.models) == {0, 1, 2}
    sites = [site.name for site in subject.study.sites]
    assert set(subject.releases) == {(site, n) for site in sites for n in (1, 2)}
    assert subject.released == tuple(sites)
    assert subject.rounds_of(sites[0]) == (1, 2)


def test_the_stored_releases_and_models_tell_the_same_story(subject):
    patients = [site.patients for site in subject.study.sites]
    for number in (1, 2):
        releases = [subject.releases[site.name, number] for site in subject.study.sites]
        mean = np.average(releases, axis=0, weights=patients)
        step = subject.models[number] - subject.models[number - 1]
        assert np.allclose(step, mean, atol=1e-5)


def test_who_took_part_is_known_and_counted_for_each_train_patient(subject):
    site = subject.released[0]
    cohort, steps = subject.cohorts[site], subject.took_part(site, 1)
    counts = subject.steps_drawn(site, 1)
    assert len(steps) == subject.study.privacy.steps_per_round
    assert set(counts) == {int(p) for p in cohort.patients(Split.TRAIN)}
    assert sum(counts.values()) == sum(len(step) for step in steps) > 0
    assert subject.took_part(site, 1)[0][0].tolist() == steps[0][0].tolist()


def test_public_images_are_of_nobody_in_the_study(subject):
    held = np.concatenate([cohort.images for cohort in subject.cohorts.values()])
    closest = [
        np.abs(held - image).mean(axis=(1, 2, 3)).min() for image in subject.public_images[:20]
    ]
    assert min(closest) > 0.01


def test_each_hospitals_release_is_attacked_by_itself_and_never_their_mean(subject, monkeypatch):
    # Averaging is no protection: what the coordinator sees is single releases.
    seen = []

    def invert(view, **_):
        seen.append(view)
        return np.zeros((len(view.observed), *view.public_images.shape[2:]), np.float32)

    monkeypatch.setattr(reconstruction, "invert", invert)
    reconstruction.reconstruct(subject, rng=np.random.default_rng(0), progress=None)
    assert len(seen) == 3
    releases = np.stack([subject.releases[site, 1] for site in subject.released])
    for row in seen[-1].observed:
        match = releases @ row / np.linalg.norm(releases, axis=1) / np.linalg.norm(row)
        assert np.abs(match).max() > 1 - 1e-5


def test_where_too_few_were_left_out_to_fill_a_line_up_nothing_is_claimed_of_one(
    subject, monkeypatch
):
    monkeypatch.setattr(participation, "_CANDIDATES", 12)
    keys = {found.key for found in participation.took_part(subject, rng=np.random.default_rng(0))}
    assert "participation" in keys
    assert "line-up" not in keys


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no run"):
        open_run(tmp_path)


def test_the_audit_of_a_run_is_equal_to_the_byte_the_second_time(folder):
    first = audit(folder, attacks=ATTACK, today=TODAY)
    assert first.to_json() == audit(str(folder), attacks=ATTACK, today=TODAY).to_json()
    assert first.name == "run"
    assert first.findings


def test_page_and_record_of_all_kinds_of_attack_are_equal_to_the_byte_for_equal_seeds(
    folder, monkeypatch
):
    # Every default attack, the costly ones at their cheapest; the slow twin has them as they are.
    brief(monkeypatch)
    reports = [audit(folder, today=TODAY) for _ in range(2)]
    keys = {finding.key for finding in reports[0].findings}
    assert keys >= {"identification", "participation", "inversion", "empirical epsilon"}
    assert not [each for each in reports[0].untried if each.reason != "not in the default suite."]
    assert not reports[0].of(Verdict.REFUTED)
    assert reports[0].to_json() == reports[1].to_json()
    assert render_audit(reports[0]) == render_audit(reports[1])


@pytest.mark.slow
def test_the_default_audit_is_equal_to_the_byte_for_equal_seeds(folder):
    reports = [audit(folder, today=TODAY) for _ in range(2)]
    assert reports[0].to_json() == reports[1].to_json()
    assert render_audit(reports[0]) == render_audit(reports[1])


def test_the_command_writes_page_and_record_and_says_the_verdict(folder, tmp_path):
    out = tmp_path / "audit"
    done = command(
        "audit", folder, "--out", out, "--attack", ATTACK[0], "--date", "2026-01-15", "--strict"
    )
    assert done.exit_code == 0, done.output
    assert "not refuted" in done.output
    record = json.loads((out / "audit.json").read_bytes())
    assert record["audited"] == "2026-01-15"
    assert record["findings"][0]["claim"] in (out / "audit.html").read_text(encoding="utf-8")


def test_a_study_that_starts_from_public_weights_is_not_attacked_without_them(folder, tmp_path):
    contract = (folder / "study.toml").read_text(encoding="utf-8")
    assert contract.count('weights = ""') == 1
    named = contract.replace('weights = ""', f'weights = "{"a" * 64}"')
    (tmp_path / "study.toml").write_text(named, encoding="utf-8")
    words = ("audit", folder / "server" / "round-00002.npz", "--study", tmp_path / "study.toml")
    for more, remedy in (((), "--weights"), (("--weights", tmp_path), "septum model import")):
        done = command(*words, *more, "--out", tmp_path / "audit")
        assert done.exit_code != 0
        assert isinstance(done.exception, SeptumError)
        assert remedy in str(done.exception)


def test_strict_fails_where_nothing_could_be_attacked(folder, tmp_path):
    model = folder / "server" / "round-00002.npz"
    words = ("audit", model, "--study", folder / "study.toml", "--out", tmp_path / "a")
    assert command(*words, "--attack", ATTACK[0]).exit_code == 0
    assert command(*words, "--attack", ATTACK[0], "--strict").exit_code == 1


def test_one_release_is_attacked_with_what_its_auditor_holds(folder, subject):
    site = subject.released[0]
    part = open_part(
        observed.file_of(folder, site, 2),
        study=subject.study,
        cohorts={site: subject.cohorts[site]},
        before=folder / "server" / "round-00001.npz",
        site=site,
        round=2,
        seed=0,
    )
    assert part.released == (site,)
    assert np.array_equal(part.releases[site, 2], subject.releases[site, 2])
    assert np.array_equal(part.models[1], subject.models[1])
    with pytest.raises(NotApplicable, match="not known"):
        part.took_part(site, 2)


@pytest.mark.parametrize("missing", ["before", "site"])
def test_a_release_without_its_model_or_hospital_is_refused(folder, subject, missing):
    options = {"before": folder / "server" / "round-00000.npz", "site": subject.released[0]}
    options[missing] = None
    with pytest.raises(ConfigError, match="--before"):
        open_part(
            observed.file_of(folder, subject.released[0], 1),
            study=subject.study,
            cohorts={},
            round=1,
            seed=0,
            **options,
        )


def test_a_model_of_another_network_is_refused(folder, subject, tmp_path):
    path = checkpoint.save(
        tmp_path,
        checkpoint.Checkpoint(digest="a" * 64, round=1, model=np.zeros(7, np.float32)),
    )
    with pytest.raises(DataError, match="7 parameters"):
        open_part(path, study=subject.study, cohorts={}, before=None, site=None, round=1, seed=0)


def test_what_is_no_release_is_refused_unread(tmp_path):
    path = tmp_path / "x.npy"
    for array in (np.zeros((2, 2), np.float32), np.zeros(3)):
        np.save(path, array, allow_pickle=False)
        with pytest.raises(DataError, match="cannot be read as a release"):
            observed.read(path)
    path.write_bytes(b"not numpy")
    with pytest.raises(DataError):
        observed.read(path)


@pytest.fixture
def site(folder, tmp_path):
    """A site that has not approved the study: its own copy, so that nothing is shared."""
    first = next(iter(load(folder / "study.toml").sites)).name
    shutil.copytree(folder / "sites" / first, tmp_path / "site")
    for approved in (tmp_path / "site" / "approved").iterdir():
        approved.unlink()
    return Site.open(tmp_path / "site")


def test_a_rehearsal_changes_nothing_of_the_site_but_its_own_folder(folder, site):
    before = contents(site.folder)
    study = load(folder / "study.toml")
    done = rehearse.rehearse(
        site, study, rounds=1, seed=0, now=datetime(2026, 1, 15, tzinfo=UTC), attacks=ATTACK
    )
    assert contents(site.folder) == before
    kept = rehearse.keep(done, "<html></html>", site=site)
    after = contents(site.folder)
    assert {name for name in after if name not in before} == {
        f"{kept.relative_to(site.folder).as_posix()}/{name}"
        for name in ("audit.html", "audit.json", "forecast.json")
    }
    assert {name: after[name] for name in before} == before
    assert kept.stat().st_mode & 0o077 == 0


def test_the_forecast_is_what_the_accountant_and_the_policy_say(folder, site):
    study = load(folder / "study.toml")
    forecast = rehearse.rehearse(
        site, study, rounds=5, seed=0, now=datetime(2026, 1, 15, tzinfo=UTC), attacks=ATTACK
    ).forecast
    assert forecast.rehearsed == study.rounds == 2
    assert forecast.epsilon_round < forecast.epsilon_study
    assert forecast.epsilon_study == pytest.approx(site.policy.epsilon_per_study, rel=0.02)
    cohort = Cohort.open(site.cohort_path)
    assert forecast.patients == len(cohort.patients(Split.TRAIN))
    assert (
        forecast.bytes_round == checkpoint.load(folder / "server" / "round-00000.npz").model.nbytes
    )


def test_a_stricter_policy_is_rehearsed_as_the_hospital_would_hold_it(folder, site):
    study = load(folder / "study.toml")
    stricter = site.policy.model_copy(update={"noise_floor": 3.0, "clip_ceiling": 0.5})
    (site.folder / "policy.toml").write_text(stricter.to_toml())
    done = rehearse.rehearse(
        site, study, rounds=1, seed=0, now=datetime(2026, 1, 15, tzinfo=UTC), attacks=ATTACK
    )
    assert (done.forecast.noise_multiplier, done.forecast.max_grad_norm) == (3.0, 0.5)
    assert done.forecast.epsilon_study < 3
    assert done.audit.attacked.study != study.digest


def test_a_study_that_the_policy_refuses_is_not_rehearsed(folder, site):
    study = load(folder / "study.toml").model_copy(update={"commercial": True})
    with pytest.raises(SeptumError, match="commercial"):
        rehearse.rehearse(site, study, rounds=1, seed=0, now=datetime(2026, 1, 15, tzinfo=UTC))


def test_the_hospitals_command_shows_epsilon_cost_and_findings(folder, site):
    done = command(
        "site", "rehearse", folder / "study.toml", "--site", site.folder, "--rounds", 1,
        "--attack", ATTACK[0],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for part in ("epsilon", "budget", "CPU seconds a round", "claims put to"):
        assert part in done.output
    assert list((site.folder / "rehearsals").glob("*/audit.html"))
