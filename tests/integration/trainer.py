"""Answer one order for round 1 at a site, stopping in mid-training until a line comes on stdin.

Run as ``python trainer.py FOLDER``: the site in FOLDER has approved exactly one study. Says
``training`` once the round is charged and training has begun, and ``done`` once it is released.
"""

import sys
from pathlib import Path

import torch

from septum.models import network_of, to_vector
from septum.wire import Instruction
from septum_bench.seeded import SeededSource
from septum_client import gate
from septum_client.site import Site
from septum_client.train import train as real_train


def train_when_told(study, **given):
    print("training", flush=True)
    sys.stdin.readline()
    return real_train(study, **given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    site = Site.open(Path(sys.argv[1]))
    (approved,) = (site.folder / "approved").glob("*.toml")
    study = site.approved(approved.stem)
    order = Instruction(study=study.digest, round=1, model=to_vector(network_of(study)))
    gate.answer(site, order, source=SeededSource(2), train=train_when_told)
    print("done", flush=True)
