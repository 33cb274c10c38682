"""Does a client do what its mechanism says? Recorded steps, against exact laws.

Bounds on epsilon miss faults that statistics of the noise show at once, and the
other way round (``docs/threat-model.md``): both are run.
"""

from collections.abc import Sequence

from septum_bench.conformance.check import LEVEL, Aspect, Check, Conformance
from septum_bench.conformance.clip_checks import clip_checks
from septum_bench.conformance.noise_checks import noise_checks
from septum_bench.conformance.recorder import Client, Recorder, Trainer, honest, record_round
from septum_bench.conformance.recording import Recording, Step
from septum_bench.conformance.sampling_checks import sampling_checks

__all__ = [
    "LEVEL",
    "Aspect",
    "Check",
    "Client",
    "Conformance",
    "Recorder",
    "Recording",
    "Step",
    "Trainer",
    "conformance",
    "honest",
    "record_round",
]


def conformance(recordings: Sequence[Recording], *, level: float = LEVEL) -> Conformance:
    """Return every check of these recordings, and which of them are flagged together.

    Args:
      recordings: Of one network, at hospitals independent of each other.
      level: Chance that a client that does what it says is flagged at all.
    """
    return Conformance(
        checks=(
            *noise_checks(recordings),
            *clip_checks(recordings),
            *sampling_checks(recordings),
        ),
        level=level,
    )
