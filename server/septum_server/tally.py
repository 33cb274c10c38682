"""One round's answers, each verified, admitted and counted once; what is not is said why."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from septum.errors import AdmissionError, Code, SignatureError, WireError
from septum.models import Vector
from septum.signing import Purpose, verify
from septum.study import Study
from septum.wire import Declined, Instruction, Release, unread
from septum_server.admission import admit
from septum_server.arrivals import Arrivals, Arrived
from septum_server.noise_score import Look, look


class Names:
    """Which node speaks for which site, over the rounds of a run.

    Guarantees:
      - A node that spoke for one site speaks for no other, and no second node
        speaks for a site, whatever it signs.

    Args:
      study: The study.
    """

    def __init__(self, study: Study) -> None:
        self._sites = {site.name for site in study.sites}
        self._names: dict[int, str] = {}

    def of(self, node: int) -> str | None:
        """Return the site that ``node`` speaks for, if it is known."""
        return self._names.get(node)

    def learn(self, node: int, site: str) -> None:
        """Note that ``node`` connected by the key of ``site``: it speaks for it, and no other."""
        self._names = {other: name for other, name in self._names.items() if name != site}
        self._names[node] = site

    def bind(self, node: int, site: str) -> None:
        """Let ``node`` speak for ``site`` from now on.

        Raises:
          AdmissionError: The node or the site is taken.
        """
        if self._names.setdefault(node, site) != site:
            raise AdmissionError("OTHER_SITE: the node spoke for another site before.")
        if any(other != node and name == site for other, name in self._names.items()):
            del self._names[node]
            raise AdmissionError("OTHER_NODE: another node speaks for this site.")

    def require(self, site: str) -> None:
        """Refuse a site that the study does not name.

        Raises:
          AdmissionError: It is not in the study.
        """
        if site not in self._sites:
            raise AdmissionError("UNKNOWN_SITE: the answer names a site outside the study.")


class Said(Enum):
    """What one answer says of the node that gave it."""

    RELEASE = auto()
    """It contributed."""

    REFUSAL = auto()
    """It will not, whichever order is answered."""

    NOTHING = auto()
    """It cannot be told: no answer, a bad one, or one that came while it still trains."""


class Tally:
    """The answers to one instruction.

    Guarantees:
      - A site contributes at most once, and only what its key signed for this
        very order; neither Flower's word nor a node's is believed.
      - Nothing that an answer says is kept but a closed code or our own reason.

    Args:
      study: The study.
      instruction: The order that is answered.
      names: Kept over the rounds.
      arrivals: Where admitted updates wait, so that memory holds one of them at most.
    """

    def __init__(
        self, study: Study, instruction: Instruction, *, names: Names, arrivals: Arrivals
    ) -> None:
        self.instruction = instruction
        self.releases: dict[str, Arrived] = {}
        self.looks: dict[str, Look] = {}
        self.arrivals = arrivals
        self.strays: list[str] = []
        self._study = study
        self._names = names
        self._refused: dict[str, str] = {}
        self._asked: set[int] = set()
        self._done: set[int] = set()

    @property
    def refused(self) -> dict[str, str]:
        """Why each site that answered, and did not contribute, did not."""
        return {site: why for site, why in self._refused.items() if site not in self.releases}

    @property
    def absent(self) -> frozenset[str]:
        """The sites whose node is known by its key and was not there to be asked."""
        asked = {self._names.of(node) for node in self._asked}
        everybody = {site.name for site in self._study.sites if site.node_key}
        return frozenset(everybody - asked)

    @property
    def settled(self) -> bool:
        """Whether the quorum is reached, or nobody is left who could help to reach it."""
        sites, least = self._study.sites, self._study.strategy.minimum_sites
        done = {self._names.of(node) for node in self._done}
        left = [site for site in sites if site.name not in done]
        return (
            len(self.releases) >= least
            or len(self.releases) + len(left) < least
            or len(self._done) >= len(sites)
        )

    def ask(self, node: int) -> None:
        """Note that ``node`` was asked."""
        self._asked.add(node)

    def take(self, node: int, read: Callable[[], Release | Declined], *, message: str = "") -> Said:
        """Count one answer, or note why it does not count.

        Args:
          node: The node that was asked.
          read: Gives the answer, or raises AdmissionError or WireError.
          message: Flower's name of the message that it answers, for a refusal by a node
            that could not read the order in it; empty to hear no such refusal.

        Returns:
          What it says; after a release no other answer of the node counts.

        Raises:
          EngineError: An admitted release cannot be kept: the disk is full.
        """
        try:
            answer = read()
            if isinstance(answer, Declined):
                self._decline(node, answer, message)
                still = answer.code is Code.STILL_TRAINING
                return Said.NOTHING if still else Said.REFUSAL
            self._admit(node, answer)
            return Said.RELEASE
        except (AdmissionError, WireError) as error:
            admission = isinstance(error, AdmissionError)
            reason = error.message.split(":")[0] if admission else "FORM"
            name = self._names.of(node)
            if name is None or name in self.releases:
                self.strays.append(reason)
            else:
                self._refused[name] = reason
            return Said.NOTHING

    def finish(self, node: int) -> None:
        """Note that nothing more is to come from ``node``."""
        self._done.add(node)

    def _decline(self, node: int, declined: Declined, message: str) -> None:
        self._verify(declined, Purpose.REFUSAL)
        if declined.instruction != self.instruction.digest and not (
            message and declined.instruction == unread(message)
        ):
            raise AdmissionError("REPLAYED: the refusal answers another order.")
        self._names.bind(node, declined.site)
        self._refused[declined.site] = declined.code.value

    def _admit(self, node: int, release: Release) -> None:
        self._verify(release, Purpose.RELEASE)
        self._names.bind(node, release.site)
        if release.site in self.releases:
            raise AdmissionError("DUPLICATE: the site answered twice.")
        norm = admit(release, study=self._study, instruction=self.instruction)
        # While the others train: when the last answer comes, little is left to do.
        self.looks[release.site] = look(release, self._study, norm=norm)
        self.releases[release.site] = self.arrivals.take(release)

    def _verify(self, said: Release | Declined, purpose: Purpose) -> None:
        self._names.require(said.site)
        if not self._study.coordinator:
            return  # a study that nobody signs: simulations that say so, and tests
        if not said.signature:
            raise AdmissionError("UNSIGNED: the answer carries no signature.")
        key = self._study.participant(said.site).key
        try:
            verify(key, purpose, said.statement, said.signature)
        except SignatureError:
            raise AdmissionError("FORGED: the signature is not of the site's key.") from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A contribution whose update is read from where it waits, part by part.

    ``share`` is how much of the update counts (:func:`septum_server.admission.share`).
    """

    arrived: Arrived
    patients: int
    share: float = 1.0

    @property
    def site(self) -> str:
        """Who released it."""
        return self.arrived.site

    @property
    def shape(self) -> tuple[int, ...]:
        """The update's."""
        return (self.arrived.count,)

    def stretch(self, start: int, stop: int) -> Vector:
        """Return what counts of a part of the update, read anew."""
        part = self.arrived.stretch(start, stop)
        return part if self.share == 1.0 else part * np.float32(self.share)
