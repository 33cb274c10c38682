"""Bad input: one clear sentence, the remedy, a non-zero exit, and nothing half-written."""

import errno
import json
import shutil
import sys
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from septum import cli
from septum.joining import make_invitation, read_card
from septum.signed_study import sign
from septum.signing import SigningKey, fingerprint
from septum.study import Data, Participant, Privacy, Study
from septum.training import Aggregation
from septum_bench import simulate as pipeline
from septum_bench.phantoms import PhantomPlan, write_hospitals
from septum_client import site
from septum_client.policy import Policy
from septum_client.rules import Intake
from septum_client.site import Site
from septum_server.certs import make_ca


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two small hospitals as a PACS would export them."""
    folder = tmp_path_factory.mktemp("export") / "hospitals"
    write_hospitals(folder, PhantomPlan(sites=2, patients=60, seed=3, matrix=32), workers=1)
    return folder


@pytest.fixture
def hospitals(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "hospitals"))


@pytest.fixture
def septum(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["septum", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def simulate(septum, out, *arguments):
    quick = ("--rounds", 1, "--image-size", 32, "--no-baselines", "--no-attack")
    return septum("simulate", "--out", out, *quick, *arguments)


def rows(hospital):
    return (hospital / "labels.csv").read_text().splitlines()


def rewrite(hospital, lines):
    (hospital / "labels.csv").write_text("\n".join(lines) + "\n")


def films(hospital):
    return sorted(p for p in hospital.rglob("*") if p.is_file() and p.suffix != ".csv")


def assert_one_sentence(result, *words):
    code, _, err = result
    assert code not in {0, None}
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def test_a_study_on_own_folders_ends_with_a_report(septum, hospitals, tmp_path):
    code, out, err = simulate(septum, tmp_path / "run", "--data", hospitals)
    assert code == 0, err
    assert "AUC" in out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [site["rounds_released"] for site in result["sites"]] == [1, 1]
    assert all(site["ledger_verified"] for site in result["sites"])


def test_a_missing_folder_is_named(septum, tmp_path):
    result = simulate(septum, tmp_path / "run", "--data", tmp_path / "absent")
    assert_one_sentence(result, "absent", "one sub-folder per hospital")


def test_a_folder_without_hospitals_is_refused(septum, tmp_path):
    (tmp_path / "empty").mkdir()
    result = simulate(septum, tmp_path / "run", "--data", tmp_path / "empty")
    assert_one_sentence(result, "has no sub-folder")


def test_a_hospital_without_labels_is_refused(septum, hospitals, tmp_path):
    (hospitals / "hospital-2" / "labels.csv").unlink()
    assert_one_sentence(
        simulate(septum, tmp_path / "run", "--data", hospitals), "no labels CSV", "labels.csv"
    )


def test_a_label_that_is_not_there_is_named(septum, hospitals, tmp_path):
    result = simulate(septum, tmp_path / "run", "--data", hospitals, "--label", "effusion")
    assert_one_sentence(result, "effusion", "nodule")


def test_one_class_only_is_refused(septum, hospitals, tmp_path):
    header, *body = rows(hospitals / "hospital-1")
    place = header.split(",").index("nodule")
    ones = [",".join("1" if i == place else c for i, c in enumerate(r.split(","))) for r in body]
    rewrite(hospitals / "hospital-1", [header, *ones])
    assert_one_sentence(simulate(septum, tmp_path / "run", "--data", hospitals), "nodule")


def test_a_label_for_an_unknown_image_is_refused(septum, hospitals, tmp_path):
    lines = rows(hospitals / "hospital-1")
    rewrite(hospitals / "hospital-1", [*lines, "2.25.1,0,0"])
    assert_one_sentence(
        simulate(septum, tmp_path / "run", "--data", hospitals), f"row {len(lines) + 1}"
    )


def test_a_patient_in_two_hospitals_is_refused_without_being_named(septum, hospitals, tmp_path):
    film = films(hospitals / "hospital-1")[0]
    patient = str(pydicom.dcmread(film, stop_before_pixels=True).PatientID)
    _, *body = rows(hospitals / "hospital-1")
    uid = str(pydicom.dcmread(film, stop_before_pixels=True).SOPInstanceUID)
    shutil.copy(film, hospitals / "hospital-2" / "visitor")
    mine = next(row for row in body if uid in row)
    rewrite(hospitals / "hospital-2", [*rows(hospitals / "hospital-2"), mine])
    result = simulate(septum, tmp_path / "run", "--data", hospitals)
    assert_one_sentence(result, "1 patients are in both hospital-1 and hospital-2")
    assert patient not in result[2]


def test_truncated_and_painted_files_are_counted_and_left_out(septum, hospitals, tmp_path):
    broken, colour, *_ = films(hospitals / "hospital-1")
    broken.write_bytes(broken.read_bytes()[:-500])
    dataset = pydicom.dcmread(colour)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.PixelData = dataset.PixelData * 3
    dataset.save_as(colour)
    code, _, err = simulate(septum, tmp_path / "run", "--data", hospitals)
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["sites"][0]["quarantined"] == {"DATA_102": 1, "DATA_114": 1}


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_an_epsilon_that_is_not_positive_is_named(septum, tmp_path, epsilon):
    result = simulate(septum, tmp_path / "run", "--epsilon", epsilon)
    assert_one_sentence(result, "epsilon")
    assert not (tmp_path / "run").exists()


def test_too_many_rounds_are_refused_before_training_with_the_number_that_fit(
    septum, hospitals, tmp_path
):
    result = septum(
        *("simulate", "--data", hospitals, "--out", tmp_path / "run", "--image-size", 32),
        *("--rounds", 50, "--noise-multiplier", 1.0, "--epsilon", 6),
    )
    assert_one_sentence(result, "50 rounds cost epsilon", "which pays for 4 rounds", "--rounds 4")
    assert not (tmp_path / "run" / "sites").exists()


def test_a_full_disk_is_said_before_anything_is_made(septum, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: usage(1, 1, 0))
    assert_one_sentence(simulate(septum, tmp_path / "run"), "0 MiB free", "Free disk space")


def test_a_disk_that_fills_up_ends_with_one_sentence(septum, hospitals, tmp_path, monkeypatch):
    replace = site.replace

    def full(path, write):
        if "observed" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, write)

    monkeypatch.setattr(site, "replace", full)
    result = simulate(septum, tmp_path / "run", "--data", hospitals)
    assert_one_sentence(result, "No space left on device", "Free disk space")
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_folder_that_holds_something_is_not_overwritten(septum, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("years of work")
    assert_one_sentence(simulate(septum, tmp_path / "run"), "not an empty folder", "--resume")
    assert (tmp_path / "run" / "thesis.doc").read_text() == "years of work"


def test_there_is_nothing_to_resume_in_a_new_folder(septum, tmp_path):
    assert_one_sentence(simulate(septum, tmp_path / "run", "--resume"), "no run to resume")


def test_an_unknown_model_is_named_with_the_known_ones(septum, tmp_path):
    result = simulate(septum, tmp_path / "run", "--model", "imprint")
    assert_one_sentence(result, "imprint", "small_cnn")


def test_an_unknown_option_is_named(septum):
    assert_one_sentence(septum("simulate", "--epsilom", 3), "--epsilom")


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    septum, hospitals, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    arguments = ("--data", hospitals, "--rounds", 3)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.engine, "run", stop)
        code, _, err = simulate(septum, out, *arguments)
    assert code == 130
    assert f"septum simulate --resume --out {out}" in err
    made = (out / "sites" / "hospital-1" / "cohort" / "cohort.json").stat().st_mtime_ns
    code, _, err = septum("simulate", "--resume", "--out", out)
    assert code == 0, err
    assert (out / "sites" / "hospital-1" / "cohort" / "cohort.json").stat().st_mtime_ns == made
    assert json.loads((out / "result.json").read_text())["rounds"][-1]["round"] == 3


def test_json_prints_one_object_a_line(septum, hospitals, tmp_path):
    code, out, err = simulate(septum, tmp_path / "run", "--data", hospitals, "--json")
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert {"stage", "progress"} <= {event.get("event") for event in events}
    assert events[-1]["study_name"] == "simulation"


def test_a_site_says_what_a_study_costs_and_approves_only_what_its_coordinator_signed(
    septum, tmp_path
):
    site, file = tmp_path / "site", tmp_path / "study.toml"
    assert septum("site", "init", "north", "--site", site)[0] == 0
    card = read_card(site / "site-card.toml")
    keys = {"key": card.key, "node_key": card.node_key}
    study = Study(
        name="trial",
        purpose="test",
        rounds=20,
        data=Data(labels=("nodule",)),
        privacy=Privacy(noise_multiplier=2.0, sampling_rate=0.2, steps_per_round=5, delta=1e-5),
        sites=(Participant(name="north", patients=100, **keys),),
        strategy=Aggregation(minimum_sites=1),
    )
    key = SigningKey.create()
    signed = sign(study, key)
    digest = signed.study.digest
    approve = ("site", "approve", digest, "--by", "officer", "--site", site)
    assert_one_sentence(septum(*approve), "no study was offered", "septum site review")
    file.write_text(signed.to_toml())
    code, out, err = septum("site", "review", file, "--site", site)
    assert code == 0, err
    assert digest in out.replace("\n", "").replace(" ", "")
    assert "of 3 at delta 1e-05" in out
    assert "of 20 rounds" in out
    assert "ledger_head" in out
    ca = make_ca("tests", now=datetime.now(UTC)).certificate.decode()
    invitation = make_invitation(
        key, site="north", address="127.0.0.1:1", ca=ca, study=signed.to_toml()
    )
    (tmp_path / "invite.toml").write_text(invitation.to_toml())
    join = ("site", "join", tmp_path / "invite.toml", "--site", site, "--no-check")
    assert_one_sentence(septum(*join, "--fingerprint", "AAAA"), "do not use it")
    code, _, err = septum(*join, "--fingerprint", fingerprint(key.public))
    assert code == 0, err
    code, out, err = septum(*approve)
    assert code == 0, err
    assert Site.open(site).approved(digest) == signed.study
    file.write_text(signed.to_toml() + '\nhidden = "x"\n')
    assert_one_sentence(septum("site", "review", file, "--site", site), "unknown key")
    code, out, _ = septum("site", "ledger", "--site", site, "--export", tmp_path / "l.jsonl")
    assert code == 0
    assert "chain verified" in out
    assert (tmp_path / "l.jsonl").read_text().count("\n") == 1


def test_site_ingest_counts_what_was_quarantined(septum, hospitals, tmp_path):
    site = tmp_path / "site"
    septum("site", "init", "north", "--site", site)
    intake = {"consent": "waived", "burned_in_text": "header", "synthetic": "include"}
    policy = Policy(intake=Intake.model_validate(intake))
    (site / "policy.toml").write_text(policy.to_toml())
    (hospitals / "hospital-1" / "notes.pdf").write_bytes(b"not an image")
    code, out, err = septum(
        "site", "ingest", hospitals / "hospital-1", "--label", "nodule", "--site", site
    )
    assert code == 0, err
    assert "DATA_101" in out


def test_a_run_cannot_be_resumed_with_other_options(septum, hospitals, tmp_path):
    out = tmp_path / "run"
    assert simulate(septum, out, "--data", hospitals)[0] == 0
    result = septum("simulate", "--resume", "--out", out, "--rounds", 7, "--seed", 9)
    assert_one_sentence(result, "rounds", "seed", "another --out")


def test_an_option_given_at_its_default_is_not_ignored_on_resuming(septum, hospitals, tmp_path):
    out = tmp_path / "run"
    assert simulate(septum, out, "--data", hospitals)[0] == 0
    assert_one_sentence(septum("simulate", "--resume", "--out", out, "--rounds", 12), "rounds")


@pytest.mark.parametrize("text", ["{", "[]", '{"rounds": 0}'])
def test_a_plan_that_cannot_be_read_is_said(septum, tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    assert_one_sentence(septum("simulate", "--resume", "--out", tmp_path), "plan.json")


def test_more_minimum_sites_than_hospitals_are_refused_before_any_work(septum, tmp_path):
    options = ("--sites", 2, "--minimum-sites", 9)
    assert_one_sentence(simulate(septum, tmp_path / "run", *options), "minimum_sites")
    assert not (tmp_path / "run").exists()


def test_a_study_that_diverges_still_ends_with_a_report(septum, hospitals, tmp_path):
    options = ("--data", hospitals, "--learning-rate", 1e30, "--minimum-sites", 1)
    code, _, err = simulate(septum, tmp_path / "run", *options)
    assert code == 0 or ("SITE_220" in err and "Traceback" not in err)


def test_what_a_withdrawn_study_spent_is_still_shown(septum, hospitals, tmp_path):
    assert simulate(septum, tmp_path / "run", "--data", hospitals)[0] == 0
    site = tmp_path / "run" / "sites" / "hospital-1"
    for approval in (site / "approved").iterdir():
        approval.unlink()
    code, out, err = septum("site", "ledger", "--site", site)
    assert code == 0, err
    assert "chain verified" in out


def test_fedprox_runs_through_the_same_door(septum, hospitals, tmp_path):
    options = ("--data", hospitals, "--strategy", "fedprox", "--proximal-mu", 0.5)
    code, _, err = simulate(septum, tmp_path / "run", *options)
    assert code == 0, err
    assert "proximal_mu = 0.5" in (tmp_path / "run" / "study.toml").read_text()
