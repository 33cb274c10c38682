"""The coordinator's Flower edge: start or resume a study on whatever grid Flower gives."""

from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from septum.bundle import weights_of
from septum.errors import EngineError
from septum.models import network_of, to_vector
from septum.signed_study import in_force
from septum.signing import SigningKey
from septum.study import Study
from septum.wire import payload_digest
from septum_server import checkpoint
from septum_server.bridge import RoundLoop, Watcher
from septum_server.clock import SYSTEM, Clock
from septum_server.deployed import deployed


def server_app(
    study: Study,
    *,
    folder: Path,
    resume: bool,
    watch: Watcher,
    key: SigningKey | None,
    clock: Clock = SYSTEM,
) -> ServerApp:
    """Return the ServerApp of ``study``.

    Args:
      study: The study to run.
      folder: Where round records and checkpoints are kept; its folder ``weights``
        holds the public weights that the study names, if it names any.
      resume: Go on after the last checkpoint, if there is one.
      watch: Told of each finished round.
      key: The coordinator's, which the study names. None only for a study that
        nobody signs, in a simulation that says so and in tests: no hospital's own
        process obeys one.
      clock: Time; tests pass another.

    Raises:
      EngineError: ``folder`` holds checkpoints and ``resume`` is false, or they
        belong to another study; or the key is not the one that the study names.
      Refusal: With :attr:`Code.STUDY_EXPIRED`.
    """
    if study.coordinator != (key.public if key else ""):
        raise EngineError(
            f"the study names the coordinator {study.coordinator[:12] or 'nobody'}…, and the key "
            f"here is {key.public[:12] if key else 'none'}….",
            remedy="Run it with the key that signed it.",
        )
    in_force(study, today=datetime.fromtimestamp(clock.now(), tz=UTC).date())
    last = checkpoint.latest(folder, digest=study.digest) if folder.exists() else None
    if last is not None and not resume:
        raise EngineError(
            f"{folder} already holds {last.round} rounds of this study.",
            remedy="Resume it, or choose another folder.",
        )
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context  # nothing of a run config reaches a hospital
        with checkpoint.held(folder):
            # Read again: another process may have gone on since.
            start = checkpoint.latest(folder, digest=study.digest) or _begin(study, folder)
            RoundLoop(
                study, folder=folder, key=key, watch=watch, state=start.state, clock=clock
            ).run(grid, model=start.model, done=start.round)

    return app


def _begin(study: Study, folder: Path) -> checkpoint.Checkpoint:
    network = network_of(study, weights=weights_of(study, folder / "weights"))
    model = to_vector(network)
    if study.model.initial not in {"", payload_digest(model)}:
        raise EngineError(
            f"the initial weights are {payload_digest(model)[:12]}…; the study's are "
            f"{study.model.initial[:12]}….",
            remedy="Run the version of Septum and torch that the study was signed with.",
        )
    start = checkpoint.Checkpoint(digest=study.digest, round=0, model=model)
    checkpoint.save(folder, start)
    return start


app = ServerApp()
"""What a coordinator's SuperExec runs: ``septum_server.app:app``."""


@app.main()
def _deployed(grid: Grid, context: Context) -> None:
    found = deployed(context.run_config, today=datetime.now(UTC).date())
    server_app(found.study, folder=found.folder, resume=True, watch=lambda *_: None, key=found.key)(
        grid, context
    )
