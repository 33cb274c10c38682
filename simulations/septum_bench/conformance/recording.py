"""What a recording of a client's steps holds."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from septum.privacy import Mechanism
from septum_client.dpsgd import Indices

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Inner products of a step's residual with what it would hold if the clip were not applied.

    Attributes:
      patients: Whose gradients they are: places among the train patients.
      total: With the clipped sum, and the squared norm of that sum.
      over: With all drawn patients' parts over the clip, added up, likewise.
      excess: With each drawn patient's part over the clip, (patients, 2) likewise.
      layered: With the difference that a clip of each layer would make, likewise.
      span: Squared norm of the residual's projection on all patients' gradients,
        and the rank of these.
    """

    patients: Indices
    total: tuple[float, float]
    over: tuple[float, float]
    excess: Doubles
    layered: tuple[float, float]
    span: tuple[float, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One step.

    Attributes:
      drawn: Who was drawn, as places among the train patients.
      norms: Each drawn patient's gradient norm before the clip.
      residual: What came out of the mechanism, times the divisor it states, less the
        clipped sum, over the noise's standard deviation: float32 (params,),
        independent standard normal numbers if all is as it says.
      products: With clip and sum, in units of the noise's standard deviation.
    """

    drawn: Indices
    norms: Doubles
    residual: Floats = field(repr=False)
    products: Products


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Steps of one client.

    Attributes:
      mechanism: What the client says that it runs.
      patients: Number of train patients.
      layers: Name and number of weights of each trained parameter, in order.
      steps: In the order taken.
    """

    mechanism: Mechanism
    patients: int
    layers: tuple[tuple[str, int], ...]
    steps: tuple[Step, ...] = field(repr=False)


def products_of(
    *,
    patients: Indices,
    residual: Floats,
    scaled: Floats,
    factors: Floats,
    total: Floats,
    layered: Floats,
    std: float,
) -> Products:
    """Return the inner products of one step.

    Args:
      patients: Places of those drawn.
      residual: Float32 (params,), over the noise's standard deviation ``std``.
      scaled: Their unclipped gradients, likewise: float32 (patients, params).
      factors: What the mechanism multiplies each of them by.
      total: The clipped sum, not scaled.
      layered: The sum with each layer clipped by itself, not scaled.
      std: Standard deviation of the noise.
    """
    along = scaled.astype(np.float64) @ residual
    gram = scaled.astype(np.float64) @ scaled.T.astype(np.float64)
    over = 1.0 - factors.astype(np.float64)
    values, vectors = np.linalg.eigh(gram) if len(scaled) else (np.zeros(0), np.zeros((0, 0)))
    solid = values > 1e-6 * values.max(initial=0.0)
    turned = (vectors.T @ along)[solid]
    wanted, apart = total / np.float32(std), (layered - total) / np.float32(std)
    return Products(
        patients=patients,
        total=(float(wanted @ residual), float(wanted @ wanted)),
        over=(float(over @ along), float(over @ gram @ over)),
        excess=np.stack([over * along, over**2 * np.diag(gram)], axis=1),
        layered=(float(apart @ residual), float(apart @ apart)),
        span=(float((turned**2 / values[solid]).sum()), int(solid.sum())),
    )
