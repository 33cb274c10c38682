import json
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from septum.errors import DataError
from septum_client.consent import Declared, Register, deny, withdraw, withdrawn
from septum_client.pseudonyms import pseudonym

KEY = b"k" * 32
TODAY = date(2026, 6, 1)
HEADER = "patient_id,decision,purposes,studies,valid_from\n"


def put(folder, text, name="register.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return Register.load(folder, KEY)


def may(register, patient="P1", **changes):
    asked = {
        "basis": "opt-in",
        "study_name": "lung",
        "study_digest": "f00d",
        "purpose": "BIORCH",
        "commercial": False,
        "today": TODAY,
        "declared": Declared.NOTHING,
    }
    return register.permits(pseudonym(KEY, patient), **(asked | changes))


@pytest.mark.parametrize(("basis", "permitted"), [("opt-in", 0), ("opt-out", 0), ("waived", 1)])
def test_without_a_register_only_a_waiver_permits(tmp_path, basis, permitted):
    register = Register.load(tmp_path / "absent", KEY)
    assert may(register, basis=basis) == permitted
    assert may(register, basis=basis, declared=Declared.PERMITTED) == permitted


@pytest.mark.parametrize(("basis", "permitted"), [("opt-in", 0), ("opt-out", 1), ("waived", 1)])
def test_an_empty_register_is_one_in_which_nobody_decided(tmp_path, basis, permitted):
    assert may(put(tmp_path, HEADER), basis=basis) == permitted


def test_all_files_are_weighed_together(tmp_path):
    assert may(put(tmp_path, HEADER + "P1,permit,,,\n"))
    assert not may(put(tmp_path, HEADER + "P1,deny,BIORCH,,\n", name="later.CSV"))
    consent = {
        "resourceType": "Consent",
        "status": "active",
        "decision": "deny",
        "subject": {"identifier": {"value": "P2"}},
    }
    put(tmp_path, HEADER + "P2,permit,,,\n", name="later.CSV")
    assert may(Register.load(tmp_path, KEY), "P2")
    register = put(tmp_path, json.dumps(consent), name="c.json")
    assert not may(register, "P2")
    assert may(register)
    assert register.sources == 3


def test_a_register_keeps_and_shows_no_identifier(tmp_path):
    register = put(tmp_path, HEADER + "MUELLER-1957,permit,,,\n")
    kept = f"{register!r}{dict(register.records)!r}{list(register.records)}{register.digest}"
    assert "MUELLER" not in kept
    assert pseudonym(KEY, "MUELLER-1957") not in repr(register)


def test_the_pseudonym_of_a_patient_stands_for_the_patient(tmp_path):
    assert may(put(tmp_path, HEADER + f"{pseudonym(KEY, 'P1')},permit,,,\n"))


def test_another_site_knows_nobody_of_this_register(tmp_path):
    put(tmp_path, HEADER + "P1,permit,,,\n")
    assert not may(Register.load(tmp_path, b"x" * 32))


@pytest.mark.parametrize("name", ["denied.xlsx", "register.csv.bak", "notes.txt", "denials"])
def test_a_list_in_another_form_is_not_passed_over(tmp_path, name):
    with pytest.raises(DataError, match="no register") as refused:
        put(tmp_path, "x", name=name)
    assert name not in refused.value.message


def test_hidden_files_of_editors_are_passed_over(tmp_path):
    put(tmp_path, "x", name=".~lock.register.csv#")
    assert Register.load(tmp_path, KEY).sources == 0


def test_a_register_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "register.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        Register.load(tmp_path, KEY)


def test_a_register_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("septum_client.consent.register.MAX_BYTES", 3)
    with pytest.raises(DataError, match="MiB"):
        put(tmp_path, HEADER)


rows = st.lists(
    st.tuples(
        st.sampled_from(["P1", "P2", "P3"]),
        st.sampled_from(["permit", "deny", "withdrawn"]),
        st.sampled_from(["", "HRESCH", "BIORCH;CLINTRCH"]),
        st.sampled_from(["", "lung", "f00d;liver"]),
        st.sampled_from(["", "2026-01-01", "2026-05-31"]),
    ).map(lambda cells: ",".join(cells) + "\n"),
    max_size=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.randoms(), st.integers(0, 6))
def test_neither_order_nor_files_nor_repeats_of_rows_matter(tmp_path, said, random, cut):
    for old in tmp_path.iterdir():
        old.unlink()
    one = put(tmp_path, HEADER + "".join(said))
    mixed = random.sample(said, len(said))
    put(tmp_path, HEADER + "".join(mixed[:cut]))
    two = put(tmp_path, HEADER + "".join(mixed[cut:] + mixed[:1]), name="second.csv")
    assert one.digest == two.digest
    for patient in ("P1", "P2", "P3"):
        for basis in ("opt-in", "opt-out", "waived"):
            assert may(one, patient, basis=basis) == may(two, patient, basis=basis)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.sampled_from(["opt-in", "opt-out", "waived"]), st.sampled_from(Declared))
def test_whoever_may_train_some_study_is_admitted_at_ingest(tmp_path, said, basis, declared):
    register = put(tmp_path, HEADER + "".join(said))
    for patient in ("P1", "P4"):
        admitted = register.admits(
            pseudonym(KEY, patient), basis=basis, today=TODAY, declared=declared
        )
        some = any(
            may(register, patient, basis=basis, declared=declared, study_name=name, purpose=code)
            for name in ("lung", "liver", "other")
            for code in ("HRESCH", "BIORCH", "CLINTRCH", "DSRCH")
        )
        assert some <= admitted


def test_whoever_denied_everything_is_not_admitted(tmp_path):
    register = put(tmp_path, HEADER + "P1,deny,,,\nP2,permit,,other,\n")
    admitted = [
        register.admits(pseudonym(KEY, p), basis="opt-in", today=TODAY, declared=Declared.NOTHING)
        for p in ("P1", "P2", "P3")
    ]
    assert admitted == [False, True, False]


def test_the_digest_changes_with_what_is_said(tmp_path):
    texts = [
        "",
        "P1,permit,,,\n",
        "P1,deny,,,\n",
        "P1,permit,BIORCH,,\n",
        "P1,permit,,,2026-01-01\n",
    ]
    digests = {put(tmp_path, HEADER + text).digest for text in texts}
    withdraw(tmp_path, pseudonym(KEY, "P9"), key=KEY, on=TODAY)
    digests.add(Register.load(tmp_path, KEY).digest)
    assert len(digests) == len(texts) + 1


@pytest.mark.parametrize("basis", ["opt-in", "opt-out", "waived"])
def test_a_withdrawn_patient_is_never_permitted_again(tmp_path, basis):
    who = pseudonym(KEY, "P1")
    withdraw(tmp_path, who, key=KEY, on=date(2020, 1, 1))
    register = put(tmp_path, HEADER + "P1,permit,,,2026-05-31\nP2,permit,,,\n")
    assert withdrawn(tmp_path, KEY) == {who}
    assert not may(register, basis=basis)
    assert not register.admits(who, basis=basis, today=TODAY, declared=Declared.PERMITTED)
    assert may(register, "P2", basis=basis)


def test_withdrawing_again_keeps_the_first_day_and_loses_nobody(tmp_path):
    for patient, day in (("P1", 1), ("P2", 2), ("P1", 3)):
        withdraw(tmp_path, pseudonym(KEY, patient), key=KEY, on=date(2026, 1, day))
    assert len(withdrawn(tmp_path, KEY)) == 2
    assert (tmp_path / "withdrawn" / pseudonym(KEY, "P1")).read_text() == "2026-01-01\n"


def test_a_list_of_withdrawn_that_was_tampered_with_stops_everything(tmp_path):
    withdraw(tmp_path, pseudonym(KEY, "P1"), key=KEY, on=TODAY)
    (tmp_path / "withdrawn" / "P2").touch()
    with pytest.raises(DataError, match="withdrawn"):
        Register.load(tmp_path, KEY)


def test_a_list_of_withdrawn_that_is_no_folder_stops_everything(tmp_path):
    (tmp_path / "withdrawn").write_text("")
    with pytest.raises(DataError, match="withdrawn"):
        withdrawn(tmp_path, KEY)


def test_a_list_of_withdrawn_under_another_key_stops_everything(tmp_path):
    withdraw(tmp_path, pseudonym(KEY, "P1"), key=KEY, on=TODAY)
    with pytest.raises(DataError, match="site's key"):
        Register.load(tmp_path, b"x" * 32)
    with pytest.raises(DataError, match="site's key"):
        withdrawn(tmp_path, b"x" * 32)


def test_a_denial_of_an_image_that_was_not_kept_holds_for_the_patient_alone(tmp_path):
    deny(tmp_path, pseudonym(KEY, "P1"), key=KEY, on=TODAY)
    register = put(tmp_path, HEADER + "P1,permit,,,2026-05-31\nP2,permit,,,\n")
    for basis in ("opt-in", "opt-out", "waived"):
        assert not may(register, basis=basis)
        assert may(register, "P2", basis=basis)


@pytest.mark.parametrize("who", ["../key", "", "P1", "a" * 32, "A" * 32, f"{'a' * 32}\n"])
@pytest.mark.parametrize("add", [deny, withdraw])
def test_nobody_is_added_who_is_no_pseudonym_of_this_key(tmp_path, add, who):
    folder = tmp_path / "consent"
    with pytest.raises(DataError, match="no pseudonym"):
        add(folder, who, key=KEY, on=TODAY)
    assert list(tmp_path.iterdir()) == []


def test_a_denial_reaches_an_id_however_it_was_typed(tmp_path):
    register = put(tmp_path, HEADER + "TAB\t,deny,,,\nNB\u00a0,deny,,,\nMu\u0308ller7,deny,,,\n")
    for patient in ("TAB", "NB\t", "M\u00fcller7"):
        assert not may(register, patient, basis="opt-out")
    assert may(register, "TABS", basis="opt-out")


def test_a_row_whose_id_nobody_sees_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2, column patient_id"):
        put(tmp_path, HEADER + "\u200b,deny,,,\n")


def test_a_consent_whose_id_nobody_sees_does_not_say_whose_it_is(tmp_path):
    consent = {"resourceType": "Consent", "status": "active", "decision": "deny"}
    consent["subject"] = {"identifier": {"value": "\u200b"}}
    with pytest.raises(DataError, match="whose it is"):
        put(tmp_path, json.dumps(consent), name="c.json")
