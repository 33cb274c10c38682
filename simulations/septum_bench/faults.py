"""Nine clients that break their promise, each in one way that real DP-SGD code has.

They are the positive controls of the audit: a check that has never caught a
fault proves nothing. Each is a real client (:mod:`septum_client.dpsgd`) with one
part replaced, and is never reachable from a hospital.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from septum_bench.conformance.check import Aspect
from septum_bench.conformance.recorder import Client, Observe, Trainer
from septum_bench.faulty_clients import (
    ClipPerLayer,
    DivisorWrong,
    NoiseBeforeClip,
    NoiseReused,
    OneLayerUnnoised,
    OverTheClip,
    quieter,
    shuffled,
)
from septum_client.cohort import Cohort


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to break the promise.

    Attributes:
      name: Short, as in the tables.
      seen: Where it was seen, or why it is likely.
      client: What hands its trainer to the recorder.
      aspect: The part of the mechanism that it breaks.
    """

    name: str
    seen: str
    client: Client = field(repr=False)
    aspect: Aspect


def _inside(trainer: Trainer) -> Client:
    """Return the client whose fault is in its trainer: what is observed is the faulty one."""

    def client(observe: Observe, cohort: Cohort) -> Trainer:
        del cohort
        return observe(trainer)

    return client


FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            Fault(
                name="noise halved",
                seen="a noise multiplier taken for a standard deviation, or the other way round",
                client=_inside(quieter(0.5)),
                aspect=Aspect.NOISE,
            ),
            Fault(
                name="noise quartered",
                seen="noise divided once more by the number of machines or of accumulated batches",
                client=_inside(quieter(0.25)),
                aspect=Aspect.NOISE,
            ),
            Fault(
                name="one layer unnoised",
                seen="a layer that was added after the optimizer was wrapped",
                client=_inside(OneLayerUnnoised),
                aspect=Aspect.NOISE,
            ),
            Fault(
                name="records over the clip",
                seen="some records' gradients miss the hook (Tramèr et al. 2022, arXiv:2202.12219)",
                client=_inside(OverTheClip),
                aspect=Aspect.CLIP,
            ),
            Fault(
                name="noise reused",
                seen="a generator seeded anew at each step",
                client=_inside(NoiseReused),
                aspect=Aspect.FRESHNESS,
            ),
            Fault(
                name="shuffled for Poisson",
                seen="the accountant's coins, a data loader's epochs (Chua et al. 2024, "
                "arXiv:2403.17673)",
                client=shuffled,
                aspect=Aspect.SAMPLING,
            ),
            Fault(
                name="divisor wrong",
                seen="a mean over those drawn, whose number is the patients' own",
                client=_inside(DivisorWrong),
                aspect=Aspect.DIVISOR,
            ),
            Fault(
                name="clip per layer",
                seen="the whole clip given to each layer, which many lines of code do",
                client=_inside(ClipPerLayer),
                aspect=Aspect.CLIP,
            ),
            Fault(
                name="noise before clip",
                seen="clip and noise in the wrong order",
                client=_inside(NoiseBeforeClip),
                aspect=Aspect.NOISE,
            ),
        )
    }
)
"""The nine, by name."""
