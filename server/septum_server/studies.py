"""What happens to a study at the coordinator: signed, sent out, begun, looked at, stopped."""

import shutil
from datetime import date
from pathlib import Path
from typing import Final

from septum.errors import ConfigError, EngineError, SeptumError
from septum.joining import Invitation, make_invitation
from septum.signed_study import SignedStudy, check, in_force, sign
from septum.study import Study
from septum.wire import payload_digest
from septum_server import checkpoint, rounds
from septum_server.control import Control
from septum_server.coordinator import Coordinator
from septum_server.launch import desk
from septum_server.status import Standing, standing

KILLED: Final = "If its process was killed, Flower notices within a minute: wait, then resume."


def sign_study(
    coordinator: Coordinator, study: Study, *, weights: Path | None, today: date
) -> SignedStudy:
    """Sign ``study`` with the coordinator's key, with its first model's digest, and keep it.

    Args:
      coordinator: Who signs.
      study: What is signed.
      weights: The public weights that the study names, if it names any.
      today: In UTC.

    Raises:
      ConfigError: A site has no key or no node key, or the weights are missing.
      Refusal: The study has expired.
    """
    # They import torch, for which who begins or looks at a study would wait.
    from septum.bundle import SUFFIX, weights_of  # noqa: PLC0415 - see above
    from septum.models import network_of, to_vector  # noqa: PLC0415 - likewise

    unconnected = [site.name for site in study.sites if not site.node_key]
    if unconnected:
        raise ConfigError(
            f"sites.node_key is missing for {', '.join(unconnected)}.",
            remedy="Take it from the site's card: without it the site cannot connect.",
        )
    in_force(study, today=today)
    source = weights.parent if weights is not None else coordinator.folder
    if weights is not None and weights.name != f"{study.model.weights}{SUFFIX}":
        raise ConfigError(
            f"the weights are named {weights.name}, and the study's are "
            f"{study.model.weights[:12] or 'none'}….",
            remedy="Name the file that `septum model import` wrote.",
        )
    vector = to_vector(network_of(study, weights=weights_of(study, source)))
    model = study.model.model_copy(update={"initial": payload_digest(vector)})
    signed = sign(study.model_copy(update={"model": model}), coordinator.signing_key)
    runs = coordinator.run_folder(signed.study.digest)
    if weights is not None:
        (runs / "weights").mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(weights, runs / "weights" / weights.name)
    coordinator.keep(signed)
    return signed


def only_study(coordinator: Coordinator) -> str:
    """Return the digest of the one signed study.

    Raises:
      ConfigError: There is none, or there are several.
    """
    found = coordinator.digests()
    if len(found) != 1:
        raise ConfigError(
            f"there are {len(found)} signed studies.",
            remedy="Name one with --study; `septum study list` shows them.",
        )
    return found[0]


def invitation_of(coordinator: Coordinator, digest: str, site: str) -> Invitation:
    """Return the invitation of ``site`` to the study.

    Raises:
      ConfigError: The study does not name the site.
    """
    signed = coordinator.study(digest)
    names = [each.name for each in signed.study.sites]
    if site not in names:
        raise ConfigError(
            f"the study does not name {site!r}; its sites are {', '.join(names)}.",
            remedy="Name one of them.",
        )
    return make_invitation(
        coordinator.signing_key,
        site=site,
        address=coordinator.settings.address,
        ca=coordinator.ca_path.read_text(encoding="ascii"),
        study=signed.to_toml(),
    )


def begin(
    coordinator: Coordinator, control: Control, digest: str, *, resume: bool, today: date
) -> int:
    """Start or resume the study, and return the run's number.

    Args:
      coordinator: Whose study.
      control: The operators' port.
      digest: Of the signed study.
      resume: Whether rounds are there to go on from; says what the person believes.
      today: In UTC.

    Raises:
      EngineError: It runs already, has finished, or ``resume`` is wrong about it.
      Refusal: The study is not this coordinator's, or has expired.
    """
    signed = coordinator.study(digest)
    check(signed, coordinator=coordinator.public, site=None, today=today)
    last = checkpoint.latest(coordinator.run_folder(digest), digest=digest)
    short = digest[:12]
    if last is not None and last.round >= signed.study.rounds:
        raise EngineError("the study has finished all its rounds.", remedy="Nothing is left to do.")
    if last is not None and last.round and not resume:
        raise EngineError(
            f"the study has {last.round} finished rounds.", remedy=f"septum study resume {short}"
        )
    if last is None and resume:
        raise EngineError("the study has not begun.", remedy=f"septum study start {short}")
    going = [run for run in control.runs(digest) if not run.ended]
    if going:
        # Not cut short by looking for its process: a hospital that still trains for a run that
        # died, and is asked for the same round by the next, has lost that round.
        killed = f" {KILLED}" if resume else ""
        raise EngineError(
            f"the study runs already, as run {going[0].number}.",
            remedy=f"Watch it with `septum study status {short}`, or stop it first.{killed}",
        )
    return control.start(digest)


def halt(control: Control, digest: str) -> int:
    """Stop the study's runs, and return how many were running."""
    going = [run for run in control.runs(digest) if not run.ended]
    for run in going:
        control.stop(run.number)
    return len(going)


def look(coordinator: Coordinator, digest: str, *, token: str | None) -> Standing:
    """Return how the study stands; what only the server knows is left out if it does not answer."""
    study = coordinator.study(digest).study
    folder = coordinator.run_folder(digest)
    last = checkpoint.latest(folder, digest=digest) if folder.exists() else None
    run: str | None = None
    online: dict[str, bool] | None = None
    try:
        with desk(coordinator, token=token) as control:
            latest = control.runs(digest)[:1]
            run = latest[0].status if latest else None
            keys = {node.key: node.online for node in control.nodes()}
            online = {s.name: keys[s.node_key] for s in study.sites if s.node_key in keys}
    except SeptumError:
        pass
    return standing(
        study,
        rounds.read(folder),
        done=None if last is None else last.round,
        run=run,
        online=online,
    )
