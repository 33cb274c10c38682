"""kill -9 between debit and release, with real processes and real SQLite files."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from septum.accounting import epsilon
from septum.errors import Code, Refusal
from septum.wire import payload_digest
from septum_bench.seeded import SeededSource
from septum_client import gate
from septum_client.budget import Ledger
from septum_client.train import Update

VICTIM = Path(__file__).with_name("victim.py")
_spec = importlib.util.spec_from_file_location("victim", VICTIM)
victim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(victim)

NOT_CHARGED, LOST, ANSWERED = "not charged", "lost", "answered"
OUTCOMES = dict.fromkeys(victim.POINTS, LOST) | {
    "before-the-debit-is-committed": NOT_CHARGED,
    "after-the-release": ANSWERED,
}


def test_a_site_killed_at_any_point_never_under_counts_nor_trains_a_round_twice(tiny, tmp_path):
    study = tiny.study()
    for point in victim.POINTS:
        tiny.site(tmp_path / point, study)
    done = subprocess.run(
        [sys.executable, str(VICTIM), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert ends == dict.fromkeys(victim.POINTS, str(-signal.SIGKILL)), done.stderr
    for point, outcome in OUTCOMES.items():
        check(gate.Site.open(tmp_path / point), study, tiny, outcome)


def check(site, study, tiny, outcome):
    """Check what a killed site's ledger says, then let it answer again and go on."""
    ledger = Ledger(site.ledger_path)
    ledger.verify()
    charge = study.mechanism("north").charge()
    trained = (site.folder / "trained.txt").exists()
    assert ledger.charges() == ([] if outcome == NOT_CHARGED else [charge]), site.folder.name
    assert trained == (outcome != NOT_CHARGED), site.folder.name

    calls = []

    def train(study, **given):
        calls.append(given)
        return Update(vector=np.zeros_like(given["model"]), drawn=())

    def ask(instruction):
        return gate.answer(site, instruction, source=SeededSource(9), train=train)

    def refused(instruction):
        with pytest.raises(Refusal) as error:
            ask(instruction)
        return error.value.code

    instruction = tiny.instruction(study)
    if outcome == LOST:
        assert refused(instruction) is Code.ROUND_ALREADY_CHARGED
    else:
        first, again = ask(instruction), ask(instruction)
        assert first.update.tobytes() == again.update.tobytes()
        assert first.ledger_head == again.ledger_head == ledger.entries()[-1].digest
        assert payload_digest(first.update) == ledger.entries()[-1].fields["payload"]
        # What the killed process trained is what is sent; the stand-in here makes only zeros.
        assert first.update.any() == (outcome == ANSWERED)
    assert len(calls) == (outcome == NOT_CHARGED)
    other = tiny.instruction(study, model=instruction.model + np.float32(1))
    assert refused(other) is Code.ROUND_ALREADY_CHARGED
    assert ledger.charges() == [charge]

    ask(tiny.instruction(study, round=2))
    ledger.verify()
    assert ledger.charges() == [charge] * 2
    assert epsilon(ledger.charges(), delta=1e-4) > epsilon([charge], delta=1e-4)
