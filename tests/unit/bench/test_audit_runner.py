"""The runner: every attack in the report, each on its own luck, equal inputs giving equal bytes."""

import re
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from septum.errors import ConfigError, DataError
from septum.study import Data, Participant, Privacy, Study
from septum.training import Aggregation
from septum_bench.audit import audit
from septum_bench.audit.finding import Finding, Measured, ThreatRecord, Verdict
from septum_bench.audit.report import AuditReport, read_report
from septum_bench.audit.runner import REGISTRY, Attack, chosen, run
from septum_bench.audit.subject import NotApplicable, Subject
from septum_bench.report.audit_page import render_audit
from septum_bench.threat import RELEASED

TODAY = date(2026, 1, 15)
STUDY = Study(
    name="chest",
    purpose="A test of the runner.",
    rounds=2,
    data=Data(task="multilabel", labels=("nodule",), image_size=16),
    privacy=Privacy(noise_multiplier=1.0, sampling_rate=0.2, steps_per_round=2, delta=1e-4),
    strategy=Aggregation(minimum_sites=1),
    sites=(Participant(name="north", patients=40),),
)


def subject(seed=0, release=0.0):
    return Subject(
        study=STUDY,
        cohorts={},
        models={0: np.zeros(3, np.float32)},
        releases={("north", 1): np.full(3, release, np.float32)},
        public_images=np.zeros((4, 1, 16, 16), np.float32),
        seed=seed,
    )


def found(key, value, *, p_value=0.5, control_ok=True):
    return Finding(
        key=key,
        claim=f"{key} learns nothing.",
        attack=key,
        source="nobody 2026",
        threat=ThreatRecord.of(RELEASED),
        score="score",
        unit="points",
        chance=0.5,
        control=Measured(role="control", value=1.0, trials=9),
        null=Measured(role="null", value=0.5, trials=9),
        release=Measured(role="release", value=value, low=0.0, high=1.0, trials=9),
        p_value=p_value,
        control_ok=control_ok,
        power="A leak of 0.9 points.",
        sentence="It scored.",
    )


def dice(key, **more):
    def probe(subject, /, *, rng, progress):
        if progress:
            progress(1, 1)
        return (found(key, float(rng.random()), **more),)

    return Attack(key=key, title=f"the {key} attack", probe=probe)


def refusing(subject, /, *, rng, progress):
    raise NotApplicable("no cohort was given.", remedy="Give one.")


def broken(subject, /, *, rng, progress):
    raise DataError("the cohort is damaged.")


LEFT = Attack(key="left", title="the left attack", probe=refusing)
RARE = Attack(key="rare", title="the rare attack", probe=refusing, default=False)
BENCH = (dice("one"), dice("two"), LEFT, RARE)


def report(attacks=None, *, registry=BENCH, **more):
    return run(subject(**more), name="chest", today=TODAY, attacks=attacks, registry=registry)


def scores(audited):
    return {finding.key: finding.release.value for finding in audited.findings}


def test_every_attack_of_the_registry_is_in_the_report_with_findings_or_a_reason():
    whole = report()
    assert set(scores(whole)) == {"one", "two"}
    reasons = {each.key: each.reason for each in whole.untried}
    assert reasons == {"left": "no cohort was given.", "rare": "not in the default suite."}


def test_choosing_fewer_attacks_changes_nothing_about_the_others():
    whole, part = report(), report(["two"])
    assert scores(part) == {"two": scores(whole)["two"]}
    assert {each.key for each in part.untried} == {"one", "left", "rare"}


def test_two_attacks_never_share_their_luck():
    whole = scores(report())
    assert whole["one"] != whole["two"]


def test_another_seed_gives_other_luck():
    assert scores(report()) != scores(report(seed=1))


def test_an_unknown_attack_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"guess.*Choose from left, one, rare, two"):
        chosen(["one", "guess"], BENCH)


def test_all_means_all():
    assert chosen(["all"], BENCH) == list(BENCH)
    assert [attack.key for attack in chosen(None, BENCH)] == ["one", "two", "left"]


def test_an_attack_that_breaks_is_an_error_and_no_finding():
    with pytest.raises(DataError, match="damaged"):
        report(registry=(dice("one"), Attack(key="b", title="b", probe=broken)))


def test_equal_subjects_and_days_give_equal_records_and_pages():
    first, second = report(), report()
    assert first.to_json() == second.to_json()
    assert render_audit(first) == render_audit(second)
    assert AuditReport.model_validate_json(first.to_json()).to_json() == first.to_json()


def test_how_long_it_took_changes_no_byte():
    ticks = iter(range(1000))
    slow = run(
        subject(), name="chest", today=TODAY, registry=BENCH, clock=lambda: 100.0 * next(ticks)
    )
    assert slow.findings[0].seconds > 0
    assert slow.to_json() == report().to_json()


def test_attacks_compute_on_one_thread_whatever_the_machine_has():
    seen = []

    def probe(subject, /, *, rng, progress):
        seen.append(torch.get_num_threads())
        raise NotApplicable("nothing to see.")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report(registry=(Attack(key="look", title="look", probe=probe),))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_the_digest_tells_any_change_of_what_was_attacked():
    digests = {report().digest, report(seed=1).digest, report(release=1.0).digest}
    assert len(digests) == 3
    assert report().digest == report(["one"]).digest


def test_the_worst_verdict_is_the_reports_and_void_only_where_nothing_had_power():
    one, leak = dice("one"), dice("leak", p_value=1e-9)
    weak = dice("weak", p_value=0.0, control_ok=False)
    assert report(registry=(one, leak, weak)).verdict is Verdict.REFUTED
    assert report(registry=(one, weak)).verdict is Verdict.NOT_REFUTED
    assert report(registry=(weak,)).verdict is Verdict.VOID
    assert report(registry=(LEFT,)).verdict is Verdict.VOID


@pytest.mark.parametrize(
    "registry",
    [BENCH, (dice("leak", p_value=1e-9),), (dice("weak", control_ok=False),), (LEFT,)],
    ids=["open", "refuted", "void", "nothing"],
)
def test_no_sentence_or_page_earns_more_than_was_measured(registry):
    audited = report(registry=registry)
    page = re.sub(r"<style>.*?</style>|data:[^\"]*", "", render_audit(audited), flags=re.DOTALL)
    assert not re.search(
        r"\b(safe(ly)?|anonym\w*|complian\w*|verified|guarantee\w*|certif\w*|secured?)\b",
        page + audited.sentence,
        re.IGNORECASE,
    )


def test_the_page_names_attacker_grants_reasons_date_and_digest():
    audited = report()
    page = render_audit(audited)
    for part in (
        RELEASED.attacker,
        *RELEASED.grants,
        "no cohort was given.",
        "2026-01-15",
        audited.digest,
        "A leak of 0.9 points.",
        "null run",
    ):
        assert part in page.replace("&#39;", "'"), part
    assert "http://" not in re.sub(r"data:[^\"]*", "", page)
    assert "<script" not in page


def test_a_record_that_is_none_is_refused_by_name(tmp_path):
    path = tmp_path / "audit.json"
    path.write_bytes(report().to_json())
    assert read_report(path).digest == report().digest
    path.write_text("{}")
    with pytest.raises(DataError, match="cannot be read as an audit"):
        read_report(path)
    with pytest.raises(DataError, match=r"audit\.json"):
        read_report(tmp_path / "no" / "audit.json")


def test_the_python_api_takes_a_subject_and_names_it_after_its_study():
    audited = audit(subject(), attacks=[REGISTRY[0].key], today=TODAY)
    assert audited.name == "chest"
    assert audited.audited == TODAY
    assert len(audited.untried) >= len(REGISTRY) - 1


def test_keys_of_the_registry_are_unique():
    keys = [attack.key for attack in REGISTRY]
    assert len(keys) == len(set(keys))


def test_progress_names_the_attack_under_way():
    said = []
    run(
        subject(),
        name="chest",
        today=TODAY,
        registry=(dice("one"), dice("two")),
        watch=lambda *at: said.append(at),
    )
    assert said == [("the one attack", 1, 1), ("the two attack", 1, 1)]


def test_a_subject_without_a_model_or_a_source_says_so():
    bare = subject()
    with pytest.raises(NotApplicable, match="north in round 1"):
        bare.took_part("north", 1)
    with pytest.raises(NotApplicable, match="round 7"):
        bare.network(7)
    empty = SimpleNamespace(models={})
    with pytest.raises(NotApplicable, match="no model"):
        Subject.last_round.fget(empty)
