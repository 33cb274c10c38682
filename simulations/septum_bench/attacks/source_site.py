"""From which hospital a patient comes, guessed by how a model reacts to the patient's image.

A model that learnt hospitals apart reacts to their patients in different ways.
The image alone already shows its scanner, so the same guess by the public
initial model is what anybody can do blindly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from septum.errors import ConfigError
from septum_bench.attacks.likelihood import Doubles
from septum_bench.threat import Grant, View, granted

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceView(View):
    """A model's gradients on the attacker's own patients and on those it wants to place.

    Attributes:
      pool: Of patients whose hospital is known, ``(patients, k)``.
      pool_site: Their hospitals, from 0.
      candidates: Of the patients to place, ``(candidates, k)``, in the same basis.

    Raises:
      ConfigError: A field is not granted, or the pool knows fewer than two hospitals.
    """

    pool: Doubles = granted(Grant.SHADOW_POOL, repr=False)
    pool_site: Indices = granted(Grant.SHADOW_POOL, repr=False)
    candidates: Doubles = granted(Grant.CANDIDATES, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(np.unique(self.pool_site)) < 2 or len(self.pool) != len(self.pool_site):
            raise ConfigError(
                f"{len(np.unique(self.pool_site))} hospitals for {len(self.pool)} patients.",
                remedy="Give one hospital per patient, of at least two.",
            )


def guess_site(view: SourceView) -> Indices:
    """Return the guessed hospital of each candidate, int64 ``(candidates,)``.

    Ridge regression on the direction of the gradients, all hospitals weighed
    alike; the ridge is a tenth of the mean squared length.
    """
    pool, made = _directions(view.pool), _directions(view.candidates)
    centre = pool.mean(axis=0)
    pool, made = pool - centre, made - centre
    wanted = np.eye(int(view.pool_site.max()) + 1)[view.pool_site]
    wanted /= np.maximum(wanted.sum(axis=0), 1)
    wanted -= wanted.mean(axis=0)
    gram = pool @ pool.T
    ridge = 0.1 * float(np.trace(gram)) / len(gram)
    answer = made @ pool.T @ np.linalg.solve(gram + ridge * np.eye(len(gram)), wanted)
    return np.asarray(answer.argmax(axis=1), np.int64)


def _directions(gradients: Doubles) -> Doubles:
    length = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray(gradients / np.maximum(length, np.finfo(np.float64).tiny))
