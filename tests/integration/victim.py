"""Answer one instruction per site in a child of its own, killed -9 at the point named for it.

Run as ``python victim.py FOLDER``: each sub-folder of FOLDER is a site, named
after a key of POINTS, that has approved exactly one study.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from septum.models import network_of, to_vector
from septum.study import load
from septum.wire import Instruction
from septum_bench.seeded import SeededRandomness
from septum_client import budget, gate
from septum_client.site import Site
from septum_client.train import train as real_train


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_after_insert(kind):
    real = budget._append

    def append(database, head, fields):
        entry = real(database, head, fields)
        if fields["kind"] == kind:
            die()
        return entry

    budget._append = append


class DiesInSecondStep(SeededRandomness):
    asked = 0

    def normal(self, count, out=None):
        DiesInSecondStep.asked += count
        if DiesInSecondStep.asked > PARAMETERS:
            die()
        return super().normal(count, out)


def replace(owner, name):
    setattr(owner, name, die)


POINTS = {
    "before-the-debit-is-committed": lambda: dies_after_insert("debit"),
    "after-the-debit": lambda: replace(sys.modules[__name__], "real_train"),
    "in-the-middle-of-training": lambda: None,
    "before-the-outbox": lambda: replace(gate, "write_durably"),
    "after-the-outbox": lambda: replace(budget.Ledger, "record_release"),
    "before-the-release-is-committed": lambda: dies_after_insert("release"),
    "after-the-release": lambda: replace(gate, "_stated"),
}
PARAMETERS = 0


def order(site):
    (path,) = (site.folder / "approved").glob("*.toml")
    study = load(path)
    network = network_of(study)
    return Instruction(study=study.digest, round=1, model=to_vector(network))


def train_and_note(study, **given):
    (FOLDER / "trained.txt").open("a").write("trained\n")
    return real_train(study, **given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for point, prepare in POINTS.items():
        child = os.fork()
        if child == 0:
            FOLDER = Path(sys.argv[1]) / point
            site = Site.open(FOLDER)
            instruction = order(site)
            kind = SeededRandomness
            if point == "in-the-middle-of-training":
                PARAMETERS, kind = len(instruction.model), DiesInSecondStep
            prepare()
            gate.answer(site, instruction, source=lambda *_, k=kind: k(1), train=train_and_note)
            os._exit(3)  # it should be dead
        _, status = os.waitpid(child, 0)
        print(point, -status if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
