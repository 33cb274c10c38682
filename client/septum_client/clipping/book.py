"""The book of one batch: each patient's squared gradient norm, and what the clipped sum needs."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import nn

from septum_client.clipping.patients import Patients

Sum = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""From a coefficient per row, and which rows are finite if not all are, to the clipped sum."""

Coefficients = Callable[[torch.Tensor], torch.Tensor]
"""From each patient's gradient norm to the factor that its gradient is summed with."""


_ROUNDING: Final = 32  # machine epsilons by which two kernels' sums of one thing may differ

_RUN: Final = 4096  # numbers whose squares may be summed in their own dtype

_SMALL: Final = 4096  # weights up to which patients' gradients wait for each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """A squared norm that was made without the gradient: of each patient, then of what fills.

    Args:
      squared: What the kernel says, ``(patients + fillers,)``.
      left: Sums of squares of one side of the products it sums.
      right: Of the other side.
      terms: Numbers on each side, an upper bound: what underflow can have hidden.
    """

    squared: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    terms: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Later:
    parameter: nn.Parameter
    norm: Norm
    rows: int
    make: Sum


@dataclasses.dataclass
class _Kept:
    """Per-patient gradients ``(patients, ...)`` and the shape that the parameter has."""

    gradients: torch.Tensor
    shaped: Callable[[torch.Tensor], torch.Tensor]


class Book:
    """Collects, layer by layer while backward runs, and sums when every layer has been.

    Args:
      patients: Whose rows the batch holds.
      share: Of the bytes that forward keeps, what per-patient gradients may take.
      dtype: Of the gradients.

    Guarantees:
      - :meth:`sums` adds, for each patient, its gradient times its coefficient;
        what is not finite, or whose squared norm is not, adds exactly nothing.
      - Where a norm and a sum are computed by different kernels, the norm is
        rounded up by more than their difference, so cancellation cannot hide a
        gradient from the clip.
    """

    def __init__(self, patients: Patients, *, share: float, dtype: torch.dtype) -> None:
        self.patients = patients
        self.room = 0.0
        self._precision, self._share = torch.finfo(dtype), share
        self._dtype = dtype
        self.uses: Counter[nn.Parameter] = Counter()
        self._squares = torch.zeros(patients.count, dtype=torch.float64, device=patients.device)
        self._kept: dict[nn.Parameter, _Kept] = {}
        self._later: list[_Later] = []

    def use(self, parameters: Iterable[nn.Parameter], kept_bytes: int) -> None:
        """Note a use of a layer in the forward pass, and the bytes it keeps for backward."""
        self.uses.update(parameters)
        self.room += self._share * kept_bytes

    def may_postpone(self, parameter: nn.Parameter) -> bool:
        """Return whether the norm can do without the gradient: the parameter is used once."""
        return self.uses[parameter] == 1

    def keep(
        self,
        parameter: nn.Parameter,
        gradients: torch.Tensor,
        shaped: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Enter per-patient gradients ``(patients, ...)``; those of a second use are added.

        Args:
          parameter: Whose they are.
          gradients: Handed over: they are changed in place.
          shaped: From one gradient to the parameter's shape; a view unless given.
        """
        # As if every row were a patient: the kernels may not depend on how many were drawn.
        self.room -= parameter.numel() * gradients.element_size() * self.patients.batch
        if parameter in self._kept:
            kept = self._kept[parameter]
            kept.gradients = kept.gradients + gradients.view_as(kept.gradients)
            return
        shaped = shaped or (lambda total: total.view(parameter.shape))
        self._kept[parameter] = _Kept(gradients, shaped)
        if self.uses[parameter] == 1 and parameter.numel() > _SMALL:
            self._squares += squares(gradients)  # now, while they are in the cache

    def postpone(self, parameter: nn.Parameter, norm: Norm, *, rows: int, later: Sum) -> None:
        """Enter squared norms, and how to make the clipped sum of ``rows`` rows once asked."""
        self._later.append(_Later(parameter, norm, rows, later))

    @torch.no_grad()
    def sums(self, coefficients: Coefficients) -> dict[nn.Parameter, torch.Tensor]:
        """Return each parameter's sum over patients, and forget everything.

        Args:
          coefficients: See :data:`Coefficients`; norms are float64 ``(patients,)``.
        """
        small = {p: self._kept.pop(p) for p in list(self._kept) if p.numel() <= _SMALL}
        joined = None
        if small:
            joined = torch.cat([kept.gradients.flatten(1) for kept in small.values()], dim=1)
            self._squares += squares(joined)
        for parameter, kept in self._kept.items():
            if self.uses[parameter] != 1:
                self._squares += squares(kept.gradients)
        filled = self._add_postponed()
        finite = self._squares.isfinite()
        factors = torch.where(finite, coefficients(self._squares.sqrt()), 0.0)
        # Below this the dtype rounds up by as much as the number itself.
        factors = torch.where(factors < self._precision.tiny, 0.0, factors)
        alive = None if bool(finite.all()) else finite

        def weighted(rows: torch.Tensor) -> torch.Tensor:
            if alive is not None:
                rows[~alive] = 0
            return factors.to(rows.dtype) @ rows

        made: dict[nn.Parameter, torch.Tensor] = {}
        if joined is not None:
            parts = torch.split(weighted(joined), [parameter.numel() for parameter in small])
            for (parameter, kept), part in zip(small.items(), parts, strict=True):
                made[parameter] = kept.shaped(part)
        while self._kept:
            parameter, kept = self._kept.popitem()
            made[parameter] = kept.shaped(weighted(kept.gradients.flatten(1)))
        of_rows: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}
        while self._later:
            one = self._later.pop()
            if one.rows not in of_rows:
                grouping = self.patients.spread(one.rows)
                living = None if filled and alive is None else grouping.spread_out(finite)
                of_rows[one.rows] = grouping.spread_out(factors).to(self._dtype), living
            made[one.parameter] = one.make(*of_rows[one.rows])
        return made

    def _add_postponed(self) -> bool:
        """Add the postponed norms, rounded up; return whether all that fills is finite."""
        by_length: dict[int, list[Norm]] = {}
        for one in self._later:
            by_length.setdefault(len(one.norm.squared), []).append(one.norm)
        filled = True
        for norms in by_length.values():
            squared, left, right = (
                torch.stack([getattr(norm, side) for norm in norms]).double()
                for side in ("squared", "left", "right")
            )
            hidden = torch.tensor([norm.terms for norm in norms], device=squared.device)
            hidden = hidden.double().mul_(self._precision.tiny)
            energy = left.add_(hidden[:, :1]).mul_(right.add_(hidden[:, 1:]))
            raised = squared.clamp_(min=0).add_(energy, alpha=_ROUNDING * self._precision.eps)
            self._squares += raised[:, : self.patients.count].sum(0)
            filled = filled and bool(energy[:, self.patients.count :].isfinite().all())
        return filled


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared L2 norm of each row, float64; infinite where it overflows the dtype."""
    rows = rows.flatten(1)
    whole = rows.shape[1] // _RUN * _RUN
    parts = (rows[:, :whole].reshape(len(rows), whole // _RUN, _RUN), rows[:, None, whole:])
    # A sum of millions in the dtype falls short of itself: 0.2 % at 2.4 million weights.
    norms = torch.cat([torch.linalg.vector_norm(part, dim=2) for part in parts], dim=1)
    return norms.to(torch.float64).square().sum(1)
