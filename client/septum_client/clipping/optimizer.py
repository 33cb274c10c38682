"""Opacus' optimizer over patients: clip, noise and divisor of one mechanism."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import torch
from opacus.optimizers.optimizer import DPOptimizer
from torch import nn

from septum.privacy import Mechanism
from septum_client.randomness import Randomness, noised, scratch_for

_TINY: Final = 1e-6  # keeps a norm of nothing from dividing by zero
_STABILITY: Final = 0.01  # gamma of AUTO-S
_HANDFUL: Final = 1 << 16  # numbers that are drawn at once
_SEALED: Final = frozenset(
    {
        "noise_multiplier",
        "max_grad_norm",
        "expected_batch_size",
        "loss_reduction",
        "generator",
        "secure_mode",
        "_automatic",
        "_randomness",
        "_sealed",
    }
)


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, over patients, with injected noise, of one mechanism.

    Guarantees:
      - One patient adds at most ``max_grad_norm`` to the sum, in L2 norm, whatever
        its images or loss; a gradient that is not finite adds nothing.
      - Every step adds noise, drawn patients or not.
      - Noise, clip and divisor are the mechanism's for good: setting one raises.

    Rounding: a patient's gradient is computed in a batch of one constant shape,
    because torch picks other kernels for other shapes, and a coordinator who
    chooses the weights can blow a last bit up into another gradient. Then one
    patient's presence would move another's part of the sum.

    Raises:
      AttributeError: On setting what the mechanism says.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, mechanism: Mechanism, randomness: Randomness
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=cast(int, mechanism.expected_patients),
            loss_reduction="mean",
        )
        self._automatic = mechanism.clipping == "automatic"
        self._randomness = randomness
        # Made once, and the sum overwritten: fresh memory costs the system a fault a page.
        self._scratch = scratch_for()
        self._sealed = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SEALED and "_sealed" in self.__dict__:
            raise AttributeError(f"{name} is the mechanism's and cannot be set apart from it")
        super().__setattr__(name, value)

    def coefficients(self, norms: torch.Tensor) -> torch.Tensor:
        """Return what each patient's gradient is multiplied by, from its norm.

        ``flat``: at most 1, so that the product's norm is at most ``max_grad_norm``
        (Abadi et al. 2016, arXiv:1607.00133). ``automatic``: ``max_grad_norm``
        over the norm plus a constant, of the same sensitivity for any norm
        (AUTO-S, Bu et al. 2023, arXiv:2206.07136).
        """
        if self._automatic:
            return cast(torch.Tensor, self.max_grad_norm / (norms + _STABILITY))
        return cast(torch.Tensor, (self.max_grad_norm / (norms + _TINY)).clamp(max=1.0))

    def add(self, sums: Mapping[nn.Parameter, torch.Tensor]) -> None:
        """Add a batch's clipped sums to the step's."""
        for parameter in self.params:
            more, before = sums.get(parameter), parameter.summed_grad
            if more is not None:
                parameter.summed_grad = more if before is None else before + more

    def pre_step(self, closure: Any = None) -> bool:
        """Turn the sums of the step's batches, or none, into a noisy mean."""
        del closure
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True

    def add_noise(self) -> None:
        """Add Gaussian noise of ``noise_multiplier * max_grad_norm`` to each coordinate."""
        std = self.noise_multiplier * self.max_grad_norm
        threads = torch.get_num_threads()
        # Noise is made in pieces that fit the cache: too short for threads to wait for each other.
        torch.set_num_threads(1)
        try:
            for together in _handfuls(self.params):
                self._add_noise(together, std)
        finally:
            torch.set_num_threads(threads)

    def _add_noise(self, together: list[nn.Parameter], std: float) -> None:
        sums = [(p, p.summed_grad) for p in cast("list[Any]", together)]
        totals = [torch.zeros_like(p) if total is None else total for p, total in sums]
        rows = [total.reshape(-1) for total in totals]
        flat = torch.cat(rows) if len(rows) > 1 else rows[0]
        noised(flat, std=std, randomness=self._randomness, scratch=self._scratch, out=flat)
        parts = torch.split(flat, [p.numel() for p in together])
        for p, part in zip(together, parts, strict=True):
            p.grad = part.view_as(p)

    def scale_grad(self) -> None:
        """Divide by the expected number of patients, a constant."""
        torch._foreach_div_([p.grad for p in self.params], self.expected_batch_size)

    @property
    def accumulated_iterations(self) -> int:
        """One: a step's batches are parts of one draw."""
        return 1


def _handfuls(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Return the parameters in order, small ones together: each draw has a cost of its own."""
    together: list[nn.Parameter] = []
    numbers = 0
    for parameter in parameters:
        together.append(parameter)
        numbers += parameter.numel()
        if numbers >= _HANDFUL:
            yield together
            together, numbers = [], 0
    if together:
        yield together
