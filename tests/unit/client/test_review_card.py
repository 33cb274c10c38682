import base64
import hashlib
import html
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from septum.accounting import epsilon
from septum.errors import DataError
from septum.models import network_of, to_vector
from septum.participants import Approval
from septum.signing import fingerprint
from septum.wire import METRICS, REFUSAL_FIELDS, RELEASE_FIELDS
from septum_bench.seeded import SeededSource
from septum_client import consent, gate
from septum_client.pseudonyms import pseudonym
from septum_client.review import card
from septum_client.review_leaving import leaving
from septum_client.review_page import page
from septum_client.rules import Intake

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = [pseudonym(b"k" * 32, f"P{patient}") for patient in range(12)]


def lines(site, study):
    return dict(card(site, study, now=NOW).lines)


def test_the_card_says_what_the_study_is_for(tiny, tmp_path):
    study = tiny.study(purpose_of_use="CLINTRCH", commercial=True)
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(commercial=True))
    assert lines(site, study)["use"] == "CLINTRCH, commercial"
    assert lines(site, tiny.study())["use"] == "HRESCH, not commercial"


def test_the_card_says_what_was_spent_and_how_many_rounds_still_fit(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(epsilon_per_study=5.0))
    before = lines(site, study)
    assert before["this study"] == "spent epsilon 0.00 of 5 at delta 0.0001"
    assert before["this year"].startswith("spent 0 % of the Rényi filter for epsilon 50")
    assert before["budget"] == "pays for 1 of 3 rounds"
    assert before["model goes to"] == "participants"
    gate.answer(site, tiny.instruction(study), source=SeededSource(1), clock=lambda: NOW)
    after = lines(site, study)
    assert after["this study"].startswith("spent epsilon 4.06 of 5")
    assert after["budget"] == "pays for 0 of 3 rounds more"


def test_the_card_says_how_many_patients_permit_the_study(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(intake=Intake()), names=NAMES)
    assert lines(site, study)["consent"].startswith("opt-in; 0 of 10 training patients")
    folder = site.folder / consent.FOLDER
    folder.mkdir(exist_ok=True)
    rows = "P0,permit\nP1,permit\nP2,deny\nP11,permit\n"
    (folder / "r.csv").write_text("patient_id,decision\n" + rows)
    assert lines(site, study)["consent"] == (
        "opt-in; 2 of 10 training patients permit this today (1 registers)"
    )


def test_the_card_is_shown_before_there_is_a_cohort(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    (site.cohort_path / "cohort.json").unlink()
    assert lines(site, study)["consent"] == "waived; no cohort yet"


def test_a_register_that_cannot_be_read_is_said_before_anybody_approves(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    (site.folder / consent.FOLDER).mkdir(exist_ok=True)
    (site.folder / consent.FOLDER / "r.csv").write_text("x")
    with pytest.raises(DataError, match="columns of a register"):
        lines(site, tiny.study())


def test_the_card_names_every_field_that_leaves_with_its_size(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(metrics=("update_norm",)))
    found = {section.title: dict(section.lines) for section in card(site, study).sections}
    leaves = found["What leaves?"]
    assert "when and after how long" in leaves.pop("around it")
    assert set(leaves) == {"update", *RELEASE_FIELDS, *REFUSAL_FIELDS, "update_norm"}
    parameters = len(to_vector(network_of(study)))
    assert leaves["update"].startswith(f"{4 * parameters / 1024:.1f} KiB: {parameters:,} numbers")
    assert all(re.match(r"[\d.]+ (bytes|KiB)", text) for text in leaves.values())


def test_the_stated_sizes_are_those_of_a_real_release(tiny, tmp_path):
    signed = tiny.signed(tiny.study())
    site = tiny.site(tmp_path / "s", signed, policy=tiny.policy(metrics=tuple(METRICS)))
    order = tiny.instruction(signed.study)
    release = gate.answer(site, order, source=SeededSource(1), clock=lambda: NOW)
    said = release.signed(site.signing)
    leaves = leaving(METRICS, parameters=len(said.update))
    stated = {each.name: each.most_bytes for each in leaves}
    assert stated["update"] == said.update.nbytes
    for name, kind in RELEASE_FIELDS.items():
        value = getattr(said, name)
        # A name may be as long as the wire takes it; everything else is of one length.
        length = 63 if name == "site" else len(value) if kind is str else 8
        assert stated[name] == length, name


def test_the_card_says_the_worst_case_of_this_study_and_of_all(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study, policy=tiny.policy(epsilon_total=7.0))
    found = lines(site, study)
    cost = epsilon([study.mechanism("north").charge()] * 3, delta=1e-4)
    assert found["worst case"].startswith(f"epsilon {cost:.2f} at delta 0.0001")
    assert "ever: at most epsilon 7 at delta 0.0001" in found["with this one"]


def test_the_card_says_who_signed_who_approved_and_what_a_missing_hospital_does(tiny, tmp_path):
    signed = tiny.signed(
        tiny.study(
            expires="2027-01-31",
            approvals=[{"number": "17", "body": "Board", "expires": "2026-12-31"}],
            participation={"deadline_s": 5400, "dropout": "retry", "retries": 2},
        )
    )
    site = tiny.site(tmp_path / "s", signed)
    found = lines(site, signed.study)
    assert found["signed by"].endswith(fingerprint(tiny.key("coordinator").public))
    assert found["approvals"] == "17 of Board until 2026-12-31"
    assert found["ends"] == "2027-01-31"
    assert found["quorum"].startswith("2 of 3 hospitals within 1.5 h")
    assert found["quorum"].endswith("asks again, 2 times at most")
    draft = lines(site, tiny.study())
    assert "not approved" in draft["signed by"]
    assert (draft["approvals"], draft["ends"]) == ("none stated", "no last day stated")


def test_a_cohort_of_another_kind_is_said_on_the_card(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    assert "made for another study" not in lines(site, tiny.study())["cohort"]
    other = tiny.study(data={"labels": ["sick", "well"]})
    assert "made for another study's data" in lines(site, other)["cohort"]


def test_the_page_is_the_screens_text_and_nothing_else(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    made = card(site, tiny.study(), now=NOW)
    text = page(made, site="north", at=NOW)
    shown = Text()
    shown.feed(text)
    body = shown.pairs
    assert body == [
        pair
        for section in made.sections
        for pair in [("h2", section.title), *((name, said) for name, said in section.lines)]
    ]


def test_what_a_study_says_of_itself_is_text_on_the_page(tiny, tmp_path):
    purpose = "<script>alert(1)</script> & $study ${digest}"
    study = tiny.study(purpose=purpose)
    site = tiny.site(tmp_path / "s", study)
    text = page(card(site, study, now=NOW), site="north", at=NOW)
    assert "<script" not in text
    assert html.escape(purpose) in text


def test_no_character_of_a_study_can_rub_out_or_reorder_a_line_of_its_card(tiny, tmp_path):
    hostile = "x\x1b[2K\x1b[1A\r\n\u202etxet\u200b\x9b2J"
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    # No file says so any more (test_study); the card does not rely on it.
    approval = Approval.model_construct(number=hostile, body=hostile)
    study = study.model_copy(update={"purpose": hostile, "approvals": (approval,)})
    made = card(site, study, now=NOW)
    assert all(text.isprintable() for _, text in made.lines)
    assert dict(made.lines)["purpose"].startswith("x\\u001b[2K")
    assert page(made, site="north", at=NOW).count("\x1b") == 0


def test_a_measured_pace_is_on_the_card(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    assert dict(card(site, tiny.study(), pace="3 s a round").lines)["time"] == "3 s a round"


def test_the_page_asks_for_nothing_and_runs_nothing(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    text = page(card(site, tiny.study(), now=NOW), site="north", at=NOW)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"style-src 'sha256-{digest}'" in policy
    assert not re.search(r"(?:src|href)=|url\(|@import|https?:", text)


class Text(HTMLParser):
    """Collects headings, and names with their texts."""

    def __init__(self):
        super().__init__()
        self.pairs, self._tag, self._name = [], "", ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag == "h2":
            self.pairs.append(("h2", data))
        elif self._tag == "dt":
            self._name = data
        elif self._tag == "dd":
            self.pairs.append((self._name, data))
