"""The study that a deployed ServerApp runs: the coordinator's own, signed, named by its digest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from septum.errors import EngineError
from septum.fab import STUDY_KEY
from septum.signed_study import check
from septum.signing import SigningKey
from septum.study import Study
from septum_server.coordinator import VARIABLE, Coordinator


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What :func:`septum_server.app.server_app` needs."""

    study: Study
    folder: Path
    key: SigningKey = field(repr=False)


def deployed(config: Mapping[str, object], *, today: date) -> Deployed:
    """Return the study that the run config names, from the coordinator's own folder.

    Args:
      config: Flower's run config; its one key is a digest, and is believed in nothing else.
      today: In UTC.

    Raises:
      EngineError: The folder is not named in the environment.
      ConfigError: There is no such study.
      Refusal: It is not signed by this coordinator's key, or has expired.
    """
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        raise EngineError(
            f"{VARIABLE} names no coordinator.", remedy="Start it by `septum server up`."
        )
    coordinator = Coordinator.open(Path(folder))
    signed = coordinator.study(str(config.get(STUDY_KEY, "")))
    key = coordinator.signing_key
    check(signed, coordinator=key.public, site=None, today=today)
    home = coordinator.run_folder(signed.study.digest)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Deployed(study=signed.study, folder=home, key=key)
