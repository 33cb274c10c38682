"""Run the study that the first site of FOLDER approved on Ray: ``python on_ray.py FOLDER SITE...``.

A process of its own, so that Ray's and Flower's settings stay in it.
"""

import sys
from pathlib import Path

from septum.signing import SigningKey
from septum.study import load
from septum_bench import engine
from septum_bench.seeded import SeededSource
from septum_server.app import server_app

if __name__ == "__main__":
    folder, sites = Path(sys.argv[1]), [Path(sys.argv[1]) / name for name in sys.argv[2:]]
    (approved,) = (sites[0] / "approved").glob("*.toml")
    server = server_app(
        load(approved),
        folder=folder / "server",
        resume=False,
        watch=lambda *_: None,
        key=SigningKey.load(folder / "coordinator.key"),
    )
    engine.run(
        server, sites, engine="ray", workers=2, source=SeededSource(7), home=folder / "flower"
    )
