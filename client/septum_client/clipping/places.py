"""Does it show in a patient's gradient where in the batch the patient was? Asked beforehand.

Kernels may compute the rows of a batch by other instructions: those in its
tail, or those that begin elsewhere in a cache line. A last bit then tells who
came before, and weights that were made to cancel turn a last bit into another
gradient, one clip long. That would tie each patient to those who were drawn.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from septum_client.clipping.book import Book
from septum_client.clipping.exactness import made_up
from septum_client.clipping.module import KEPT_SHARE, PatientGradSampleModule
from septum_client.clipping.patients import Patients

# What was found in this process; each round has a trainer of its own.
_FOUND: Final[dict[tuple[object, ...], bool]] = {}

_VECTOR: Final = 16  # float32 numbers of the widest vector
_SHARED_OUT: Final = 32768  # numbers from which torch gives each thread a part


def places_alike(
    model: nn.Module,
    loss_of: Callable[[nn.Module], Callable[[], torch.Tensor]],
    *,
    batch: int,
    most: int,
    device: torch.device,
    key: tuple[object, ...],
) -> bool:
    """Return whether every row of a batch of one repeated image is computed to the same bits.

    Compared are every layer's input and output, the gradients at both, and
    every patient's gradient that is kept. Kernels are chosen by shapes and not
    by values, so what holds for made-up images and weights holds for others.
    An array that the threads cannot share out in whole vectors is refused by
    its size: its few odd numbers might be equal by chance.

    Args:
      model: Left as it is: a copy is tried.
      loss_of: From a network to what runs it on the batch, its rows and targets
        all equal, and returns the scalar whose gradient is asked for.
      batch: Rows of the batch.
      most: Most rows of one patient.
      device: Where to compute.
      key: What the answer can depend on, beside the network and the other arguments.
    """
    names = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
    key = (repr(model), names, batch, most, str(device), torch.get_num_threads(), *key)
    if key not in _FOUND:
        tried = made_up(copy.deepcopy(model).to(device, torch.float32).train())
        wrapped = PatientGradSampleModule(tried)
        patients = Patients.of([1] * batch, batch=batch, most=most, device=device)
        witness = _Witness(patients, share=KEPT_SHARE, dtype=torch.float32)
        with witness.watching(tried):
            wrapped.sums(patients, loss_of(tried), torch.ones_like, book=witness)
        wrapped.remove_hooks()
        _FOUND[key] = witness.alike
    return _FOUND[key]


class _Witness(Book):
    alike = True

    def keep(
        self,
        parameter: nn.Parameter,
        gradients: torch.Tensor,
        shaped: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.see(gradients)
        super().keep(parameter, gradients, shaped)

    def see(self, rows: torch.Tensor) -> None:
        """Compare the rows of a batch, or of what a layer makes of each image."""
        if rows.dim() and len(rows) and len(rows) % self.patients.batch == 0:
            each = rows.detach().reshape(self.patients.batch, -1)
            threads = torch.get_num_threads() if rows.numel() >= _SHARED_OUT else 1
            whole = rows.device.type != "cpu" or rows.numel() % (_VECTOR * threads) == 0
            self.alike = self.alike and whole and bool((each == each[:1]).all())

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        def look(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            for tensor in (*given, made):
                if isinstance(tensor, torch.Tensor):
                    self.see(tensor)
                    if tensor.requires_grad:
                        register: Callable[..., Any] = tensor.register_hook
                        register(self.see)

        hooks = [layer.register_forward_hook(look) for layer in network.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
