"""The hospital's verbs for its images, from the command line to the cohort and its end."""

import json
import sys

import pydicom
import pytest
from typer.testing import CliRunner

from septum import cli
from septum.errors import ConfigError, DataError, Quarantine, SeptumError
from septum_client import data_cli
from septum_client.cohort import Cohort, CohortSpec
from septum_client.policy import Policy
from septum_client.pseudonyms import pseudonym
from septum_client.review_pixels import queue_of
from septum_client.rules import Intake
from septum_client.screening import deface, ocr
from septum_client.site import Site

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def run(*arguments, fails=None, **kwargs):
    """Return what ``septum site …`` prints, or the error that it ends with."""
    done = CliRunner().invoke(cli.build_app(), ["site", *map(str, arguments)], env=WIDE, **kwargs)
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        assert done.exception.remedy
        return done
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


def make(folder, **intake):
    rules = Intake(**{"burned_in_text": "header"} | intake)
    return Site.create(folder, name="north", policy=Policy(intake=rules))


@pytest.fixture
def site(tmp_path):
    """Return a site whose register permits all patients but the first two."""
    site = make(tmp_path / "site")
    (site.folder / "consent").mkdir(exist_ok=True)
    lines = ["patient_id,decision,valid_from"]
    lines += ["P0,deny,2025-01-01"]
    lines += [f"P{p},permit,2025-01-01" for p in range(2, 12)]
    (site.folder / "consent" / "register.csv").write_text("\n".join(lines) + "\n")
    return site


@pytest.fixture
def source(tmp_path, dcm):
    return dcm.hospital(tmp_path / "export", images=1)


def test_an_export_becomes_a_cohort_and_a_second_run_reads_nothing(site, source):
    said = run("ingest", source, "--label", "sick", "--site", site.folder, "--image-size", 16)
    assert "10 images of 10 patients" in said
    assert "0 of 12 files were known already" in said
    assert "quarantined      2  DATA_117  no consent" in said
    cohort = Cohort.open(site.cohort_path)
    assert f"It may train until {cohort.expires}" in said
    assert {pseudonym(site.key, f"P{p}") for p in range(2, 12)} == set(cohort.pseudonyms)
    again = run("ingest", source, "--label", "sick", "--site", site.folder, "--image-size", 16)
    assert "10 of 12 files were known already" in again


def test_a_study_says_what_its_cohort_must_be(site, source, tmp_path, tiny):
    # The key decides who is held out.
    (site.folder / "key").write_bytes(bytes(range(32)))
    data = {"image_size": 16, "labels": ["sick"], "test_fraction": 0.5}
    (tmp_path / "study.toml").write_text(tiny.study(data=data).to_toml())
    run("ingest", source, "--study", tmp_path / "study.toml", "--site", site.folder)
    assert Cohort.open(site.cohort_path).spec == CohortSpec(
        image_size=16, labels=("sick",), test_fraction=0.5
    )
    both = ("--study", tmp_path / "study.toml", "--label", "sick")
    for arguments in ((), both):
        run("ingest", source, *arguments, "--site", site.folder, fails=ConfigError)


def test_no_register_lets_nobody_in_and_says_why(tmp_path, source):
    site = make(tmp_path / "site")
    done = run("ingest", source, "--label", "sick", "--site", site.folder, fails=ConfigError)
    assert "holds no register" in str(done.exception)
    assert not site.cohort_path.exists()


def test_a_check_says_what_can_take_part_and_stops_what_cannot(site, source):
    said = run("check", source, "--label", "sick", "--site", site.folder)
    assert "100 % of 12 files looked at can be used" in said
    assert "P1" not in said
    for path in source.glob("study*/*"):
        ds = pydicom.dcmread(path)
        ds.BurnedInAnnotation = "YES"
        ds.save_as(path)
    done = run("check", source, "--label", "sick", "--site", site.folder, fails=DataError)
    assert "DATA_114" in done.output
    assert not site.cohort_path.exists()


def test_a_check_compares_with_the_ranges_of_a_study(site, source, tmp_path, tiny):
    reference = {"modalities": ["CT"], "prevalence": [0.9, 1.0]}
    data = {"image_size": 16, "labels": ["sick"], "test_fraction": 0.25, "reference": reference}
    (tmp_path / "study.toml").write_text(tiny.study(data=data).to_toml())
    arguments = ["--label", "sick", "--study", tmp_path / "study.toml", "--site", site.folder]
    done = run("check", source, *arguments, fails=DataError)
    assert "the study takes CT" in done.output
    assert "the study expects 0.9 to 1" in done.output


def test_deidentified_files_are_written_and_the_withdrawn_are_not(site, source, tmp_path):
    run("withdraw", "--site", site.folder, input="P3\n", fails=DataError)
    said = run("deidentify", source, tmp_path / "out", "--site", site.folder)
    assert "11 of 13 files written, de-identified and proved" in said
    assert "DATA_117  no consent" in said
    assert not (tmp_path / "out" / pseudonym(site.key, "P3")).exists()
    report = json.loads((tmp_path / "out" / "septum-report.json").read_text())
    assert report["written"] == 11


def test_a_patient_withdraws_by_a_question_and_never_by_an_argument(site, source):
    run("ingest", source, "--label", "sick", "--site", site.folder, "--image-size", 16)
    said = run("withdraw", "--site", site.folder, input=" P4 \n")
    assert "Deleted 1 images of this patient" in said
    assert "P4" not in said
    assert pseudonym(site.key, "P4") not in Cohort.open(site.cohort_path).pseudonyms
    again = run("ingest", source, "--label", "sick", "--site", site.folder, "--image-size", 16)
    assert "9 images of 9 patients" in again
    done = CliRunner().invoke(cli.build_app(), ["site", "withdraw", "P4"], env=WIDE)
    assert done.exit_code != 0
    kept = [path.name for path in (site.folder / "consent" / "withdrawn").iterdir()]
    assert kept == [pseudonym(site.key, "P4")]


def test_a_purge_asks_first_and_leaves_no_image(site, source, dcm):
    dcm.write(source / "written on", patient="P5", instance="9.1", BurnedInAnnotation="YES")
    said = run("ingest", source, "--label", "sick", "--site", site.folder, "--image-size", 16)
    assert f"septum site review-pixels --site {site.folder}" in said.replace("\n", "")
    assert len(queue_of(site.folder).pending()) == 1
    refused = CliRunner().invoke(
        cli.build_app(), ["site", "purge", "--site", str(site.folder)], input="n\n", env=WIDE
    )
    assert refused.exit_code == 1
    assert site.cohort_path.exists()
    assert "Nothing is due." in run("purge", "--due", "--site", site.folder)
    assert "found their paths gone" in run("purge", "--yes", "--site", site.folder)
    assert not site.cohort_path.exists()
    assert queue_of(site.folder).pending() == ()
    assert (site.folder / "ledger.sqlite").exists()


def test_nothing_waits_for_review_where_nothing_was_held_back(site):
    assert "No image waits" in run("review-pixels", "--no-browser", "--site", site.folder)


@pytest.mark.parametrize(
    ("intake", "module", "told"),
    [
        ({"burned_in_text": "ocr"}, (ocr, "available", lambda: False), "tesseract"),
        ({"faces": "deface"}, (deface, "installed", lambda: None), "mideface"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "ingest", "deidentify"])
def test_what_a_policy_needs_and_is_not_installed_is_named_before_a_file_is_read(
    tmp_path, source, monkeypatch, intake, module, told, verb
):
    site = make(tmp_path / "site", **intake)
    monkeypatch.setattr(*module)
    more = [tmp_path / "out"] if verb == "deidentify" else ["--label", "sick"]
    done = run(verb, source, *more, "--site", site.folder, fails=ConfigError)
    assert told in f"{done.exception} {done.exception.remedy}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--label", "ill"], "no column ill"),
        (["--label", "sick", "--image-size", "8"], "image_size is 8"),
        (["--label", "sick", "--depth", "999"], "depth is 999"),
        (["--label", "meta_x"], "not a label column"),
    ],
)
def test_a_wrong_argument_is_one_sentence_with_a_code(
    site, source, monkeypatch, capsys, arguments, told
):
    monkeypatch.setattr(
        sys,
        "argv",
        ["septum", "site", "ingest", str(source), "--site", str(site.folder), *arguments],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = "".join(capsys.readouterr())
    assert ended.value.code == (DataError if "no column" in told else ConfigError).exit_code
    assert told in " ".join(said.split())
    assert "Traceback" not in said


def test_a_site_that_is_none_says_what_to_run_first(source, tmp_path):
    for arguments in (["ingest", source, "--label", "sick"], ["purge", "--yes"], ["withdraw"]):
        done = run(*arguments, "--site", tmp_path / "none", fails=SeptumError)
        assert "septum site init" in done.exception.remedy


def test_every_code_that_a_person_can_decide_on_leads_to_the_page(capsys):
    for code in (Quarantine.BURNED_IN_TEXT, Quarantine.SECONDARY_CAPTURE):
        data_cli._say_refused({code: 1}, site_folder="here")
        assert "review-pixels --site here" in capsys.readouterr().out
    data_cli._say_refused({Quarantine.FACE: 1}, site_folder="here")
    assert "review-pixels" not in capsys.readouterr().out
