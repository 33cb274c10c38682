"""From what lies on disk to a subject: a run's folder, one release, or one model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from septum.errors import ConfigError, DataError
from septum.models import Vector, Weights, network_of, parameter_count
from septum.study import Study, load
from septum_bench import observed
from septum_bench.audit.subject import Stored, Subject
from septum_bench.phantoms import public_images
from septum_bench.plan import Plan
from septum_bench.seeded import SeededSource
from septum_bench.threat import Floats
from septum_client.cohort import Cohort, Split
from septum_client.site import Site
from septum_server import checkpoint

_PUBLIC: Final = 200
_MOST_HELD_OUT: Final = 512


def open_run(folder: Path) -> Subject:
    """Return the study that ``septum simulate`` ran in ``folder`` as a subject.

    Raises:
      DataError: The folder holds no finished run, or something in it is damaged.
    """
    plan_file, study_file = folder / "plan.json", folder / "study.toml"
    if not plan_file.is_file() or not study_file.is_file():
        raise DataError(
            f"{folder} holds no run.",
            remedy="Give the --out folder of `septum simulate`, a release, or a model.",
        )
    try:
        plan = Plan.model_validate_json(plan_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{plan_file} cannot be read as the plan of a run.", remedy="Restore it."
        ) from None
    study = load(study_file)
    cohorts = {
        participant.name: Cohort.open(Site.open(folder / "sites" / participant.name).cohort_path)
        for participant in study.sites
    }
    return subject_of(
        study,
        cohorts,
        folder=folder,
        seed=plan.seed,
        phantoms=plan.data is None,
        source=SeededSource(plan.seed),
    )


def subject_of(
    study: Study,
    cohorts: Mapping[str, Cohort],
    *,
    folder: Path,
    seed: int,
    phantoms: bool,
    source: SeededSource | None,
) -> Subject:
    """Return the run of ``study`` in ``folder`` as a subject; its vectors are read when asked for.

    Args:
      study: What was run.
      cohorts: Of every hospital, by name.
      folder: Of the run: ``server/`` holds the models, ``observed/`` the releases.
      seed: Of the audit, and of the attacker's phantoms.
      phantoms: Whether the hospitals' patients are phantoms; the attacker's
        public images then are phantoms of nobody, else the held-out patients.
      source: The randomness that drew the patients.
    """
    checkpoints = {
        int(path.stem.removeprefix("round-")): path
        for path in sorted((folder / "server").glob("round-*.npz"))
    }
    last = checkpoint.load(checkpoints[max(checkpoints)]) if checkpoints else None
    return Subject(
        study=study,
        cohorts=cohorts,
        models=Stored(checkpoints, lambda path: checkpoint.load(path).model),
        releases=Stored(observed.files(folder), observed.read),
        source=source,
        public_images=public_of(study, cohorts, seed=seed, phantoms=phantoms),
        handed_out=last.published if last is not None and last.state else None,
        seed=seed,
    )


def open_part(
    target: Path,
    *,
    study: Study,
    cohorts: Mapping[str, Cohort],
    before: Path | None,
    site: str | None,
    round: int,
    seed: int,
    weights: Weights | None = None,
) -> Subject:
    """Return one release (``.npy``) or one model (``.npz``) as a subject.

    Args:
      target: The file.
      study: The study it belongs to.
      cohorts: What the auditor holds, by hospital.
      before: For a release: the model (``.npz``) that the round started from.
      site: For a release: the hospital that made it.
      round: For a release: its round.
      seed: Of the audit.
      weights: The public weights that the study names, if it names any.

    Raises:
      ConfigError: An option that the file needs is missing.
      DataError: A file cannot be read, or is of another network.
    """
    releases: dict[tuple[str, int], Vector] = {}
    if target.suffix == ".npy":
        if before is None or site is None:
            raise ConfigError(
                "a release is attacked with the model it started from and the hospital's name.",
                remedy="Add --before round-….npz and --of NAME.",
            )
        if site not in {participant.name for participant in study.sites}:
            raise ConfigError(
                f"{site!r} is no hospital of the study.",
                remedy=f"Choose from {', '.join(each.name for each in study.sites)}.",
            )
        releases[site, round] = observed.read(target)
        models = {round - 1: checkpoint.load(before).model}
    else:
        stored = checkpoint.load(target)
        models = {stored.round: stored.published}
    expected = parameter_count(network_of(study, weights=weights))
    for vector in (*models.values(), *releases.values()):
        if vector.shape != (expected,):
            raise DataError(
                f"{target.name} holds {vector.size:,} parameters; the study's network has "
                f"{expected:,}.",
                remedy="Give the study that it belongs to.",
            )
    return Subject(
        study=study,
        cohorts=cohorts,
        models=models,
        releases=releases,
        public_images=public_of(study, cohorts, seed=seed, phantoms=False),
        seed=seed,
        weights=weights,
    )


def public_of(study: Study, cohorts: Mapping[str, Cohort], *, seed: int, phantoms: bool) -> Floats:
    """Return the attackers' public images, float32 ``(n, *shape)`` in [0, 1].

    The hospitals' held-out test patients, who trained nothing: more than an
    outsider holds. Phantoms of nobody where the hospitals' patients are
    phantoms too, or where nobody was held out.
    """
    held_out = [cohort.images[_held_out(cohort)] for cohort in cohorts.values()]
    plenty = sum(len(images) for images in held_out) > 0
    flat = study.data.depth == 1
    if flat and (phantoms or not plenty):
        # Another seed: the attacker's phantoms are not the hospitals' generator run again.
        return public_images(_PUBLIC, study.data.image_size, seed=seed + 1)
    if not plenty:
        return np.empty((0, 1, *(study.data.image_size,) * 2), np.float32)
    pool = np.concatenate(held_out)
    order = np.random.default_rng(seed).permutation(len(pool))[:_MOST_HELD_OUT]
    return pool[order].astype(np.float32)


def _held_out(cohort: Cohort) -> npt.NDArray[np.int64]:
    return np.flatnonzero(cohort.split[cohort.patient_of_image] == Split.TEST)
