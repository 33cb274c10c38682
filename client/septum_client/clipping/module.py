"""A ``grad_sample_mode`` of our own for Opacus: clipped sums over patients, one backward pass."""

from collections.abc import Callable
from typing import Any, Final

import torch
from opacus.grad_sample.gsm_base import AbstractGradSampleModule
from torch import nn

from septum.errors import Code, Refusal
from septum_client.clipping.book import Book, Coefficients
from septum_client.clipping.fallback import OpacusRule
from septum_client.clipping.layers import RULES
from septum_client.clipping.patients import Patients
from septum_client.clipping.recording import Held, Recorded
from septum_client.clipping.rules import Rule

KEPT_SHARE: Final = 0.75  # of the bytes that forward keeps, what per-patient gradients may take


class PatientGradSampleModule(AbstractGradSampleModule):  # type: ignore[misc]
    """Wraps a network so that one backward pass makes clipped sums of patients' gradients.

    Each trained layer of a known class (:data:`~septum_client.clipping.layers.RULES`)
    computes as before, but its backward enters per-patient norms into a
    :class:`~septum_client.clipping.book.Book` and makes no weight gradient. A
    class that is not known is left to Opacus' per-sample gradients of that
    layer, with a warning, and refused where Opacus has none. Opacus' modes put
    per-sample gradients on ``parameter.grad_sample``; here :meth:`sums` hands
    out what its optimizer would make of them.

    Args:
      module: The network. Its layers' ``forward`` is replaced until
        :meth:`remove_hooks`.

    Guarantees:
      - A layer used several times, or a parameter that two layers share, has
        its gradients added before the norm is taken.
      - A parameter that is used where no layer of its own sees it is refused.

    Raises:
      Refusal: With :attr:`Code.UNKNOWN_LAYER`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, batch_first=True, loss_reduction="sum")
        self._book: Book | None = None
        self._patched: list[nn.Module] = []
        self._left: set[nn.Module] = set()
        self._trained = [one for one in module.parameters() if one.requires_grad]
        for name, layer in list(module.named_modules()):
            held = {
                key: one for key, one in layer.named_parameters(recurse=False) if one.requires_grad
            }
            if held and layer not in self._left:
                self._patch(name, layer, held)

    def sums(
        self,
        patients: Patients,
        total: Callable[[], torch.Tensor],
        coefficients: Coefficients,
        *,
        book: Book | None = None,
    ) -> dict[nn.Parameter, torch.Tensor]:
        """Return each parameter's sum over patients of gradient times coefficient.

        Args:
          patients: Whose rows the batch holds.
          total: Runs the network on the batch and returns the scalar whose
            gradient it is: a sum over patients, each part of which depends on
            that patient's rows alone.
          coefficients: From norms to factors, see :class:`Book`.
          book: Where to enter; a new one unless given.

        Guarantees:
          - A parameter that ``total`` does not depend on is left out.
        """
        parameters = self._trained
        book = book or Book(patients, share=KEPT_SHARE, dtype=parameters[0].dtype)
        self._book = book
        try:
            torch.autograd.backward(total())
        finally:
            self._book = None
        astray = next((p for p in parameters if p.grad is not None), None)
        if astray is not None:
            raise _refused(f"a weight of shape {tuple(astray.shape)} is used outside its layer")
        return book.sums(coefficients)

    def remove_hooks(self) -> None:
        """Give every layer its own ``forward`` back."""
        for layer in self._patched:
            del layer.forward
            layer.__dict__.pop("ft_compute_sample_grad", None)
        self._patched.clear()

    def _patch(self, name: str, layer: nn.Module, held: dict[str, nn.Parameter]) -> None:
        rule = RULES.get(type(layer))
        if rule is None and all(p.dim() > 2 and p.shape[0] == 1 for p in held.values()):
            self._lend(layer, held)
            return
        if rule is None:
            self._left.update(layer.modules())
            rule = OpacusRule(layer)
        if next(layer.buffers(), None) is not None:
            raise _refused(f"layer {name} ({type(layer).__name__}) keeps statistics")
        self._stand_in(layer, rule)

    def _stand_in(self, layer: nn.Module, rule: Rule) -> None:
        compute = layer.forward
        parameters = [p for p in layer.parameters() if p.requires_grad]

        def forward(*given: Any, **named: Any) -> Any:
            if self._book is None:
                return compute(*given, **named)
            if len(given) != 1 or named or not isinstance(given[0], torch.Tensor):
                raise _refused(f"a {type(layer).__name__} takes more than one tensor")
            source = rule.prepare(layer, given[0])
            return _apply(Recorded, source, layer, rule, self._book, *parameters)

        self._replace(layer, forward)

    def _lend(self, layer: nn.Module, held: dict[str, nn.Parameter]) -> None:
        compute, own = layer.forward, layer._parameters

        def forward(*given: Any, **named: Any) -> Any:
            if self._book is None:
                return compute(*given, **named)
            try:
                for key, parameter in held.items():
                    own[key] = _apply(Held, parameter, self._book)
                return compute(*given, **named)
            finally:
                own.update(held)

        self._replace(layer, forward)

    def _replace(self, layer: nn.Module, forward: Callable[..., Any]) -> None:
        layer.__dict__["forward"] = forward
        self._patched.append(layer)


def _apply(function: type[torch.autograd.Function], *given: Any) -> Any:
    apply: Callable[..., Any] = function.apply
    return apply(*given)


def _refused(what: str) -> Refusal:
    return Refusal(
        Code.UNKNOWN_LAYER,
        f"patients' gradients cannot be told apart: {what}.",
        remedy="Choose a registered network.",
    )
