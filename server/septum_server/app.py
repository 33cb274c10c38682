"""The coordinator's Flower edge: start or resume a study on whatever grid Flower gives."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from septum.bundle import weights_of
from septum.errors import EngineError
from septum.models import network_of, to_vector
from septum.study import Study
from septum_server import checkpoint
from septum_server.bridge import SeptumStrategy, Watcher, pack


def server_app(
    study: Study, *, folder: Path, resume: bool, watch: Watcher, deadline_s: float = 3600.0
) -> ServerApp:
    """Return the ServerApp of ``study``.

    Args:
      study: The study to run.
      folder: Where round records and checkpoints are kept; its folder ``weights``
        holds the public weights that the study names, if it names any.
      resume: Go on after the last checkpoint, if there is one.
      watch: Told of each finished round.
      deadline_s: Seconds that sites have to answer a round.

    Raises:
      EngineError: ``folder`` holds checkpoints and ``resume`` is false, or they
        belong to another study.
    """
    last = checkpoint.latest(folder, digest=study.digest) if folder.exists() else None
    if last is not None and not resume:
        raise EngineError(
            f"{folder} already holds {last.round} rounds of this study.",
            remedy="Resume it, or choose another folder.",
        )
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        start = last
        if start is None:
            network = network_of(study, weights=weights_of(study, folder / "weights"))
            start = checkpoint.Checkpoint(digest=study.digest, round=0, model=to_vector(network))
            checkpoint.save(folder, start)
        if start.round < study.rounds:
            SeptumStrategy(
                study, folder=folder, done=start.round, watch=watch, state=start.state
            ).start(
                grid=grid,
                initial_arrays=pack(start.model),
                num_rounds=study.rounds - start.round,
                timeout=deadline_s,
            )

    return app
