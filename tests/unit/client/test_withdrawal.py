import shutil
from datetime import UTC, date, datetime

import numpy as np
import pytest

from septum.accounting import epsilon
from septum.errors import DataError, LedgerError, Refusal
from septum_bench.seeded import SeededSource
from septum_client import consent, gate, lineage
from septum_client.cohort import Cohort
from septum_client.pseudonyms import pseudonym
from septum_client.train import Update
from septum_client.withdrawal import withdraw

KEY = b"k" * 32
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NAMES = [pseudonym(KEY, f"P{patient}") for patient in range(12)]


def idle(study, **given):
    return Update(vector=np.zeros_like(given["model"]), drawn=())


def train(tiny, site, study, *rounds):
    for number in rounds:
        instruction = tiny.instruction(study, round=number)
        gate.answer(site, instruction, source=SeededSource(1), train=idle, clock=lambda: NOW)


def test_a_withdrawn_patient_is_gone_from_the_cohort_and_the_others_are_as_they_were(
    tiny, tmp_path
):
    site = tiny.site(tmp_path / "s", names=NAMES, images=(3, 2) * 6)
    before = Cohort.open(site.cohort_path)
    kept = [np.array(before.images[before.images_of(p)]) for p in range(12) if p != 4]
    found = withdraw(site, "P4", at=NOW)
    after = Cohort.open(site.cohort_path)
    after.verify()
    assert found.images == 3
    assert after.pseudonyms == tuple(name for name in NAMES if name != NAMES[4])
    for patient, images in enumerate(kept):
        assert np.array_equal(after.images[after.images_of(patient)], images)


def test_no_file_of_the_site_holds_the_pixels_any_more(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    cohort = Cohort.open(site.cohort_path)
    rows = cohort.images_of(7)
    secret = cohort.images[rows].tobytes()
    left = site.cohort_path.with_name(".cohort-crashed.old")
    shutil.copytree(site.cohort_path, left)
    partial = site.cohort_path.with_name(".cohort-abc.partial")
    partial.mkdir()
    (partial / "rows.partial").write_bytes(secret)
    assert sum(secret in path.read_bytes() for path in site.folder.rglob("*.npy")) == 2
    withdraw(site, "P7", at=NOW)
    held = [path for path in site.folder.rglob("*") if path.is_file()]
    assert not [path for path in held if secret in path.read_bytes()]
    assert not left.exists()
    assert not partial.exists()


def test_a_withdrawal_says_which_rounds_used_the_patient_and_what_bounds_them(tiny, tmp_path):
    one, two = tiny.study(name="one"), tiny.study(name="two", privacy={"delta": 1e-5})
    site = tiny.site(tmp_path / "s", one, names=NAMES)
    site.approve(two)
    train(tiny, site, one, 1, 3)
    train(tiny, site, two, 2)
    found = withdraw(site, "P0", at=NOW)
    charge = one.mechanism("north").charge()
    assert [(each.study, each.rounds, each.released) for each in found.studies] == [
        (one.digest, (1, 3), 2),
        (two.digest, (2,), 1),
    ]
    assert [each.epsilon for each in found.studies] == [
        epsilon([charge] * 2, delta=1e-4),
        epsilon([charge], delta=1e-5),
    ]
    assert (found.epsilon, found.delta) == (epsilon([charge] * 3, delta=1e-5), 1e-5)
    text = "\n".join(found.lines())
    assert "rounds 1, 3 (2 of 2 released). Unit: one patient" in text
    assert f"Epsilon {found.studies[0].epsilon:.3f} at delta 0.0001." in text
    assert f"All studies together: epsilon {found.epsilon:.3f} at delta 1e-05." in text
    assert "P0" not in text
    assert NAMES[0] not in text


def test_rounds_that_a_patient_was_kept_out_of_are_not_counted(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    folder = site.folder / consent.FOLDER
    folder.mkdir(exist_ok=True)
    train(tiny, site, study, 1)
    (folder / "register.csv").write_text("patient_id,decision\nP2,deny\n")
    train(tiny, site, study, 2)
    (found,) = withdraw(site, "P2", at=NOW).studies
    assert found.rounds == (1,)


def test_a_held_out_patient_was_in_no_round(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    train(tiny, site, study, 1)
    found = withdraw(site, "P11", at=NOW)
    assert (found.images, found.studies, found.epsilon) == (2, (), 0.0)
    assert "No round of any study" in "\n".join(found.lines())


def test_a_round_that_was_charged_and_lost_still_counts_but_not_as_released(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)

    def broken(study, **given):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        gate.answer(site, tiny.instruction(study), source=SeededSource(1), train=broken)
    (found,) = withdraw(site, "P1", at=NOW).studies
    assert (found.rounds, found.released) == ((1,), 0)


def test_a_refused_round_leaves_no_trace_in_the_rounds_of_a_patient(tiny, tmp_path):
    study = tiny.study()
    limit = epsilon([study.mechanism("north").charge()], delta=1e-4)
    policy = tiny.policy(epsilon_per_study=limit)
    site = tiny.site(tmp_path / "s", study, policy=policy, names=NAMES)
    train(tiny, site, study, 1)
    with pytest.raises(Refusal):
        train(tiny, site, study, 2)
    assert [each.number for each in lineage.rounds_of(site, NAMES[1])] == [1]


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_text("")])
def test_where_the_record_of_a_round_is_lost_it_counts_and_is_said(tiny, tmp_path, spoil):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    train(tiny, site, study, 1)
    for path in (site.folder / lineage.FOLDER).iterdir():
        spoil(path)
    found = withdraw(site, "P11", at=NOW)
    assert found.studies[0].uncertain == (1,)
    assert "list of patients is gone: rounds 1" in "\n".join(found.lines())


def test_equal_rounds_share_one_list_and_a_spoiled_one_is_written_again(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    train(tiny, site, study, 1)
    (path,) = (site.folder / lineage.FOLDER).iterdir()
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("")
    train(tiny, site, study, 2)
    assert list((site.folder / lineage.FOLDER).iterdir()) == [path]
    assert all(each.certain for each in lineage.rounds_of(site, NAMES[0]))


def test_withdrawing_again_finishes_and_says_the_same_of_the_rounds(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)
    train(tiny, site, study, 1)
    first, again = (withdraw(site, "P3", at=NOW) for _ in range(2))
    assert again.studies == first.studies
    assert (first.images, again.images) == (2, 0)


def test_a_crash_after_the_withdrawal_is_recorded_keeps_the_patient_out(
    tiny, tmp_path, monkeypatch
):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, names=NAMES)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("septum_client.withdrawal.without", crash)
        with pytest.raises(KeyboardInterrupt):
            withdraw(site, "P3", at=NOW)
    train(tiny, site, study, 1)
    assert lineage.rounds_of(site, NAMES[3]) == []
    assert withdraw(site, "P3", at=NOW).images == 2


def test_an_unknown_patient_is_an_error_that_is_recorded_all_the_same(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", names=NAMES)
    with pytest.raises(DataError, match="no patient of this ID") as unknown:
        withdraw(site, "MUELLER-1957", at=NOW)
    assert "MUELLER" not in str(unknown.value)
    assert unknown.value.remedy
    held = consent.withdrawn(site.folder / consent.FOLDER, site.key)
    assert held == {pseudonym(KEY, "MUELLER-1957")}
    assert withdraw(site, "MUELLER-1957", at=NOW).images == 0


def test_the_only_patient_takes_the_cohort_along(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", names=NAMES[:1], images=(2,), held_out=0)
    assert withdraw(site, " P0 ", at=NOW).images == 2
    assert not site.cohort_path.exists()


def test_without_its_ledger_a_site_cannot_say_what_a_patient_was_used_for(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", names=NAMES)
    site.ledger_path.unlink()
    with pytest.raises(LedgerError):
        withdraw(site, "P0", at=NOW)
    assert NAMES[0] not in Cohort.open(site.cohort_path).pseudonyms


def test_no_word_of_a_withdrawal_names_the_patient(tiny, tmp_path):
    site = tiny.site(tmp_path / "s", names=NAMES)
    found = withdraw(site, "P5", at=NOW)
    assert found.at.startswith(date(2026, 6, 1).isoformat())
    assert NAMES[5] not in f"{found!r}{found.lines()}"
