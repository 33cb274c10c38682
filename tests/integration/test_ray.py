"""The slowest test here: Ray takes about half a minute to start and stop."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from septum_bench import engine
from septum_bench.seeded import SeededSource
from septum_client.budget import Ledger
from septum_server import checkpoint, rounds
from septum_server.app import server_app


@pytest.mark.timeout(280)
def test_ray_and_local_agree_and_ray_leaves_the_home_alone(tiny, tmp_path):
    names = tiny.names[:2]
    sites = [{"name": name, "patients": 10} for name in names]
    signed = tiny.signed(tiny.study(rounds=2, sites=sites))
    study, key = signed.study, tiny.key("coordinator")
    home = tmp_path / "home"
    home.mkdir()
    folders = {kind: tmp_path / kind for kind in ("local", "ray")}
    for folder in folders.values():
        for seed, name in enumerate(names):
            tiny.site(folder / name, signed, name=name, seed=seed)
    key.save(folders["ray"] / "coordinator.key")
    server = server_app(
        study, folder=folders["local"] / "server", resume=False, watch=lambda *_: None, key=key
    )
    engine.run(
        server,
        [folders["local"] / name for name in names],
        engine="local",
        workers=2,
        source=SeededSource(7),
        home=tmp_path / "unused",
    )
    script = Path(__file__).with_name("on_ray.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folders["ray"]), *names],
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        | {"HOME": str(home)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    models = [
        checkpoint.latest(folder / "server", digest=study.digest) for folder in folders.values()
    ]
    assert models[0].round == models[1].round == 2
    assert np.allclose(models[0].model, models[1].model, rtol=0, atol=1e-5)
    local, ray = (rounds.read(folder / "server") for folder in folders.values())
    assert [r.answered for r in local] == [r.answered for r in ray] == [names] * 2
    for name in names:
        local, ray = (Ledger(folder / name / "ledger.sqlite") for folder in folders.values())
        assert local.charges() == ray.charges()
        ray.verify()
    assert sorted(home.rglob("*")) == []
