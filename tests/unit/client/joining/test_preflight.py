"""Each answer of a pre-flight is green or names its remedy; what is green, the gate lets pass."""

import json
import re
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import pytest

from septum import fab
from septum.errors import Code, Refusal
from septum.signed_study import sign
from septum_client import (
    coordinator,
    gate,
    preflight,
    preflight_data,
    preflight_machine,
    preflight_pace,
)
from septum_client.card import make_keys
from septum_client.join import join
from septum_client.preflight_findings import NAMES, Finding, look, ok, passed, stop
from septum_client.pseudonyms import key_check


@pytest.fixture
def ready(invited, tiny, monkeypatch):
    """Return a joined site with a cohort, whose coordinator is reachable."""
    invited.offered = join(
        invited.site, invited.invitation(), heard=invited.spoken, now=invited.now
    )
    invited.make = lambda **kwargs: tiny.cohort(
        invited.site.cohort_path, invited.offered.study, lineage=lineage(invited.site), **kwargs
    )
    invited.make()
    reached = [ok("reach", "x"), ok("certificate", "x"), ok("clock", "x")]
    monkeypatch.setattr(preflight, "check_network", lambda *_, **__: reached)
    return invited


def lineage(site):
    return {
        "rules": "",
        "key": key_check(site.key),
        "version": "0",
        "made": "2026-01-01",
        "expires": "2126-01-01",
    }


def run(ready, signed=None, **changes):
    found = preflight.preflight(
        ready.site, signed or ready.offered, now=changes.get("now", ready.now), environment={}
    )
    return {finding.name: finding for finding in found}


def not_ok(found):
    return {name: finding.state for name, finding in found.items() if finding.state != "ok"}


def test_a_site_that_is_ready_is_green_in_every_line_and_the_gate_agrees(ready, tiny):
    found = run(ready)
    assert not_ok(found) == {}
    assert set(found) == set(NAMES)
    ready.site.approve(ready.offered)
    order = tiny.instruction(ready.offered.study)
    assert gate.answer(ready.site, order, clock=lambda: ready.now)


def test_a_preflight_charges_nothing_and_leaves_no_file(ready):
    before = {path: path.read_bytes() for path in ready.site.folder.rglob("*") if path.is_file()}
    run(ready)
    after = {path: path.read_bytes() for path in ready.site.folder.rglob("*") if path.is_file()}
    assert after == before


def test_the_join_guide_has_a_row_for_every_line_in_their_order():
    guide = Path(__file__).resolve().parents[4] / "docs" / "join.md"
    section = guide.read_text(encoding="utf-8").split("## The pre-flight\n")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE)) == NAMES


def test_no_finding_but_a_green_one_comes_without_a_remedy():
    for wrong in (("reach", "ok", "x", "do"), ("reach", "stop", "x", ""), ("other", "ok", "x", "")):
        with pytest.raises(ValueError, match=r"remedy|no question"):
            Finding(name=wrong[0], state=wrong[1], text=wrong[2], remedy=wrong[3])
    assert passed([ok("reach", "x"), look("clock", "x", "do")])
    assert not passed([ok("reach", "x"), stop("clock", "x", "do")])


def test_the_json_says_what_the_screen_says(ready):
    found = list(run(ready).values())
    said = json.loads(preflight.as_json(found, study="d" * 64))
    assert said["passed"] is True
    assert said["study"] == "d" * 64
    assert [each["name"] for each in said["findings"]] == [each.name for each in found]
    assert set(said["findings"][0]) == {"name", "state", "text", "remedy"}


def test_before_joining_the_first_line_says_so(invited):
    found = {
        f.name: f for f in preflight.preflight(invited.site, invited.signed(), now=invited.now)
    }
    assert found["coordinator"].state == "stop"
    assert "septum site join" in found["coordinator"].remedy
    assert "reach" not in found


def test_a_study_that_ended_or_is_another_coordinators_stops(ready, tiny):
    assert not_ok(run(ready, now=ready.now + timedelta(days=1))) == {}
    assert not_ok(run(ready, ready.signed(expires="2026-05-31")))["signature"] == "stop"
    foreign = sign(ready.study(), tiny.key("stranger"))
    assert not_ok(run(ready, foreign))["signature"] == "stop"


def test_a_node_key_that_the_study_does_not_name_stops(ready):
    (ready.site.folder / "node.key").unlink()
    assert run(ready)["keys"].state == "stop"
    make_keys(ready.site.folder)
    found = run(ready)["keys"]
    assert found.state == "stop"
    assert "cannot connect" in found.text


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, "ok"), ({"septum": "9.9.0"}, "look"), ({"bundle": "0" * 64}, "stop")],
)
def test_versions_are_compared_with_the_coordinators(ready, changes, state):
    kept = coordinator.joined(ready.site.folder)
    coordinator.keep(ready.site.folder, kept.model_copy(update=changes))
    assert run(ready)["versions"].state == state
    assert kept.bundle == fab.fab_digest()


def test_a_cohort_that_is_absent_altered_or_of_another_kind_stops(ready):
    other = ready.signed(data={"image_size": 32})
    assert run(ready, other)["cohort"].state == "stop"
    images = next(ready.site.cohort_path.glob("images*"))
    content = images.read_bytes()
    images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "cohort" in not_ok(run(ready))
    (ready.site.cohort_path / "cohort.json").unlink()
    found = run(ready)["cohort"]
    assert found.state == "stop"
    assert "septum site ingest" in found.remedy


def test_too_few_patients_stop_and_a_number_far_from_the_declared_is_looked_at(ready, tiny):
    policy = ready.site.folder / "policy.toml"
    policy.write_text(tiny.policy(minimum_patients=11).to_toml())
    found = run(ready)
    assert (found["cohort"].state, found["consent"].state) == ("ok", "stop")
    assert "10 of 10" in found["consent"].text
    policy.write_text(tiny.policy().to_toml())
    ready.make(images=(2,) * 20)
    assert run(ready)["consent"].state == "look"


def test_a_budget_that_pays_for_no_round_stops_and_one_for_some_is_looked_at(ready, tiny):
    policy = ready.site.folder / "policy.toml"
    policy.write_text(tiny.policy(epsilon_per_study=5.0).to_toml())
    found = run(ready)["budget"]
    assert found.state == "look"
    assert "1 of 3 rounds" in found.text
    policy.write_text(tiny.policy(epsilon_per_study=0.1).to_toml())
    assert run(ready)["budget"].state == "stop"


def test_what_the_policy_forbids_stops_and_nothing_else_of_the_data_is_asked(ready, tiny):
    (ready.site.folder / "policy.toml").write_text(tiny.policy(models=("resnet18",)).to_toml())
    found = run(ready)
    assert found["policy"].state == "stop"
    assert "budget" not in found
    (ready.site.folder / "policy.toml").unlink()
    assert run(ready)["policy"].state == "stop"


def test_public_weights_that_are_not_here_stop(ready):
    signed = ready.signed(model={"weights": "0" * 64})
    found = run(ready, signed)
    assert found["weights"].state == "stop"
    assert "septum model import" in found["weights"].remedy
    assert found["pace"].state == "stop"


def test_a_full_disk_stops(ready, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = usage(1 << 40, 0, 1 << 20)
    monkeypatch.setattr(preflight_machine.shutil, "disk_usage", lambda _: free)
    assert run(ready)["disk"].state == "stop"


@pytest.mark.parametrize(("free", "state"), [(1, "stop"), (0, "look"), (1 << 50, "ok")])
def test_memory_is_compared_with_what_a_made_up_batch_took(ready, monkeypatch, free, state):
    monkeypatch.setattr(preflight_machine, "free_memory_bytes", lambda: free)
    assert run(ready)["memory"].state == state


def test_the_free_memory_of_this_machine_is_a_sensible_number():
    assert (1 << 20) < preflight_machine.free_memory_bytes() < (1 << 50)


@pytest.mark.parametrize(("share", "state"), [(0.2, "ok"), (0.7, "look"), (1.5, "stop")])
def test_a_round_is_compared_with_its_deadline(ready, share, state):
    study = ready.offered.study
    pace = preflight_pace.Pace(
        round_s=share * study.participation.deadline_s, peak_bytes=1, parameters=1
    )
    assert preflight_pace.check_pace(pace, study).state == state


def test_a_round_of_more_steps_is_said_to_take_longer(ready, monkeypatch):
    ticks = iter(range(100_000))
    monkeypatch.setattr(preflight_pace.time, "perf_counter", lambda: float(next(ticks)))
    few, many = (
        preflight_pace.measure(ready.site, ready.study(privacy={"steps_per_round": steps}))
        for steps in (2, 20)
    )
    # Every reading of this clock is a second after the last: a step takes one.
    assert (few.round_s, many.round_s) == (2.0, 20.0)


def test_more_patients_than_are_measured_are_said_to_take_longer(ready, monkeypatch):
    ticks = iter(range(100_000))
    monkeypatch.setattr(preflight_pace.time, "perf_counter", lambda: float(next(ticks)))
    study = ready.study()
    sites = tuple(site.model_copy(update={"patients": 160}) for site in study.sites)
    pace = preflight_pace.measure(ready.site, study.model_copy(update={"sites": sites}))
    drawn = 0.5 * 160
    assert pace.round_s == 2 * drawn / preflight_pace.MOST_PATIENTS


@pytest.mark.parametrize(
    "data",
    [
        {"task": "classification", "labels": ["a", "b"]},
        {"task": "regression", "labels": ["a"], "ranges": [[0.0, 9.0]]},
        {"task": "multilabel", "labels": ["a", "b", "c"]},
    ],
)
def test_every_task_can_be_measured(ready, data):
    assert preflight_pace.measure(ready.site, ready.study(data=data)).round_s > 0


def test_a_segmentation_can_be_measured(ready):
    study = ready.study(data={"task": "segmentation", "image_size": 32}, model={"name": "unet"})
    assert preflight_pace.measure(ready.site, study).round_s > 0


def test_a_remedy_is_named_even_where_the_gate_names_none(ready, monkeypatch):
    def refuses(*_, **__):
        raise Refusal(Code.COHORT_MISMATCH, "no.")

    monkeypatch.setattr(preflight_data.gate, "eligible", refuses)
    assert run(ready)["cohort"].remedy
