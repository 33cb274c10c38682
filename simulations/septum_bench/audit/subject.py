"""What is audited, from the auditor's side: it knows the truth and is handed to no attack."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from septum.errors import SeptumError
from septum.models import Vector, Weights, load_vector, network_of
from septum.study import Study
from septum_bench.audit.finding import Finding
from septum_bench.seeded import SeededSource
from septum_bench.threat import Floats
from septum_client.cohort import Cohort, Split
from septum_client.train import draw

Indices = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
Key = TypeVar("Key")


class NotApplicable(SeptumError):
    """This subject cannot be attacked this way; the report lists it under what was not tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A study as the auditor knows it.

    Attributes:
      study: The contract under which everything was released.
      cohorts: Each hospital's data, by name; empty where the auditor has none.
      models: The global model after a round as the hospitals receive it, float32
        ``(params,)``; 0 is the initial one.
      releases: What a hospital released in a round, float32 ``(params,)``, by
        (site, round).
      source: The randomness that drew the patients, if it is known (a simulation).
      handed_out: The model that the study's recipients get, if it is another one
        than the newest of ``models``: a moving average is never sent to hospitals.
      public_images: Images of people whose data trained nothing in the study,
        float32 ``(n, 1, size, size)`` in [0, 1].
      seed: Of everything the audit draws.
      device: Where to compute.
      weights: The public weights that the study names; None if it names none.
    """

    study: Study
    cohorts: Mapping[str, Cohort]
    models: Mapping[int, Vector] = field(repr=False)
    releases: Mapping[tuple[str, int], Vector] = field(repr=False)
    source: SeededSource | None = None
    public_images: Floats = field(repr=False)
    handed_out: Vector | None = field(default=None, repr=False)
    seed: int = 0
    device: str = "cpu"
    weights: Weights | None = field(default=None, repr=False)

    @property
    def released(self) -> tuple[str, ...]:
        """The hospitals whose data and at least one release the auditor holds, in study order."""
        names = {site for site, _ in self.releases}
        return tuple(s.name for s in self.study.sites if s.name in names & set(self.cohorts))

    @property
    def last_round(self) -> int:
        """The round of the newest model.

        Raises:
          NotApplicable: There is no model.
        """
        if not self.models:
            raise NotApplicable("no model was given.", remedy="Audit a run or a model file.")
        return max(self.models)

    @property
    def final(self) -> Vector:
        """The model that the study's recipients get, float32 ``(params,)``.

        Raises:
          NotApplicable: There is no model.
        """
        newest = self.last_round
        return self.models[newest] if self.handed_out is None else self.handed_out

    def rounds_of(self, site: str) -> tuple[int, ...]:
        """Return the rounds in which ``site`` released, ascending."""
        return tuple(sorted(each for name, each in self.releases if name == site))

    def network(self, round: int) -> nn.Module:
        """Return a fresh network with the weights published after ``round``.

        Raises:
          NotApplicable: That round's model is not at hand.
        """
        if round not in self.models:
            raise NotApplicable(
                f"the model published after round {round} was not given.",
                remedy="Audit the folder of a whole run.",
            )
        network = network_of(self.study, weights=self.weights)
        load_vector(network, self.models[round])
        return network

    def took_part(self, site: str, round: int) -> list[list[Indices]]:
        """Return, for each step of a round, the image rows of each patient who was drawn.

        Rows index the cohort's images; a patient is
        ``cohort.patient_of_image[rows[0]]``. Knowing who took part is the truth:
        it is for scoring alone.

        Raises:
          NotApplicable: The randomness or the cohort is not known.
        """
        if self.source is None or site not in self.cohorts:
            raise NotApplicable(
                f"who took part at {site} in round {round} is not known.",
                remedy="Audit a simulation, whose randomness is seeded.",
            )
        return draw(
            self.study,
            mechanism=self.study.mechanism(site),
            cohort=self.cohorts[site],
            randomness=self.source(site, self.study.digest, round),
        )

    def steps_drawn(self, site: str, round: int) -> dict[int, int]:
        """Return in how many steps of a round each train patient was drawn, zeros included."""
        cohort = self.cohorts[site]
        counts = dict.fromkeys((int(p) for p in cohort.patients(Split.TRAIN)), 0)
        for step in self.took_part(site, round):
            for rows in step:
                counts[int(cohort.patient_of_image[rows[0]])] += 1
        return counts


class Stored(Mapping[Key, Vector]):
    """Models or releases on disk, each read when it is asked for.

    Args:
      files: The file of each key.
      read: How to read one.
    """

    def __init__(self, files: Mapping[Key, Path], read: Callable[[Path], Vector]) -> None:
        self._files = dict(files)
        self._read = read

    def __getitem__(self, key: Key) -> Vector:
        return self._read(self._files[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Probe(Protocol):
    """One attack, put to a subject: it builds the views, attacks, and scores with the truth."""

    def __call__(
        self,
        subject: Subject,
        /,
        *,
        rng: np.random.Generator,
        progress: Progress | None,
    ) -> tuple[Finding, ...]:
        """Return the findings, unsettled.

        Raises:
          NotApplicable: The subject lacks what this attack needs.
        """
