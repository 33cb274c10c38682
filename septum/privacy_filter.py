"""A stop rule for mechanisms that are chosen one after another: the privacy filter of a site.

Which study a hospital joins next may depend on what its earlier studies
released. Composition theorems that add up mechanisms fixed in advance, the
privacy-loss distributions of :mod:`septum.accounting` among them, do not cover
that (Rogers et al. 2016, arXiv:1605.08294), and no filter is known that adds
up such distributions. Rényi divergence of one order that is fixed in advance
does add up: as long as the sum over all mechanisms run so far stays within a
bound set before the first of them, everything released together has at most
that divergence (Feldman and Zrnic 2021, arXiv:2008.11193; Lécuyer 2021,
arXiv:2103.01379), also where the rounds of several studies interleave (Haney
et al. 2023, arXiv:2309.05901). The price, against privacy-loss distributions,
is that an epsilon of 3 by those needs a filter of about 3.4.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from septum.accounting import Charge, renyi

ORDERS: Final = range(2, 257)
"""Orders to choose from: whole ones, for which the divergence is a finite sum."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Says of each next mechanism whether it may still run.

    Guarantees:
      - Whoever chooses each mechanism after seeing all releases so far: if every
        one that runs was :meth:`admits`-ed, all of them together are
        (``epsilon``, ``delta``)-differentially private; unit: one patient with all
        images at the hospital; adjacency: add or remove; mechanism: the charges'.
      - :attr:`order` and :attr:`limit` depend on ``epsilon`` and ``delta`` alone,
        never on what was spent. Taking the best order for the spending at hand,
        or the smaller of two accountants' figures, would not be a filter.

    >>> cap = Filter(epsilon=4.0, delta=1e-4)
    >>> one = Charge(noise_multiplier=1.5, sampling_rate=0.1, steps=20)
    >>> cap.admits([one] * 4), cap.admits([one] * 40)
    (True, False)
    """

    epsilon: float
    delta: float

    @property
    def order(self) -> int:
        """The Rényi order: the one that lets most steps of an unsampled Gaussian through."""
        return max(ORDERS, key=lambda order: self._bound(order) / order)

    @property
    def limit(self) -> float:
        """The most Rényi divergence of :attr:`order` that all mechanisms may cost together.

        What is within it is (epsilon, delta)-differentially private (Canonne, Kamath
        and Steinke 2020, arXiv:2004.00010, proposition 12). Below 0 nothing runs.
        """
        return self._bound(self.order)

    def spent(self, charges: Iterable[Charge]) -> float:
        """Return what ``charges`` cost, in divergence of this filter's order."""
        return renyi(charges, order=self.order)

    def admits(self, charges: Iterable[Charge]) -> bool:
        """Return whether all of ``charges``, the next one among them, are within the limit."""
        return self.spent(charges) <= self.limit

    def share(self, charges: Iterable[Charge]) -> float:
        """Return how much of the limit ``charges`` used: 1.0 is all of it."""
        spent = self.spent(charges)
        return spent / self.limit if self.limit > 0 else math.inf if spent else 0.0

    def rounds_within(self, charge: Charge, *, spent: Sequence[Charge] = (), most: int) -> int:
        """Return how many rounds of ``charge`` are admitted after ``spent``, up to ``most``."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.admits([*spent, *[charge] * middle]):
                low = middle
            else:
                high = middle - 1
        return low

    def _bound(self, order: int) -> float:
        return self.epsilon - math.log1p(-1 / order) + math.log(self.delta * order) / (order - 1)


def cap_for(charges: Sequence[Charge], *, delta: float) -> float:
    """Return a cap, in hundredths of epsilon, whose filter admits all of ``charges``.

    The smallest there is, where the limit grows with the cap as it does in practice;
    one that admits them in any case. Infinite where a cap of 10 000 does not.

    >>> cap_for([Charge(noise_multiplier=1.5, sampling_rate=0.1, steps=20)], delta=1e-4)
    1.78
    """
    low, high = 0, 1_000_000
    while low < high:
        middle = (low + high) // 2
        if Filter(epsilon=max(middle, 1) / 100, delta=delta).admits(charges):
            high = middle
        else:
            low = middle + 1
    found = Filter(epsilon=max(high, 1) / 100, delta=delta)
    return found.epsilon if found.admits(charges) else math.inf
