"""Weights whose gradient is a sum of outer products over positions: convolutions and linear layers.

A row's weight gradient is ``right @ left``, with ``left`` (positions, inputs)
what the weight multiplied and ``right`` (outputs, positions) the gradient at
the output. The cheapest of three ways to each patient's norm is taken:

- *keep*: make every patient's gradient, and keep it for the clipped sum;
- *gram*: the norm from the positions' inner products (Goodfellow 2015,
  arXiv:1510.01799, summed over positions as in Li et al. 2022,
  arXiv:2110.05679), then one ordinary weight gradient of the scaled batch;
- *drop*: make every patient's gradient, forget it, then as with *gram*.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import nn

from septum_client.clipping.book import Book, Norm, squares
from septum_client.clipping.patients import Patients

Way = Literal["keep", "gram", "drop"]

_PASS = 60.0  # multiply-adds that cost what writing and twice reading one number costs
_GRAM = 1.5  # small inner products run at two thirds of the speed of large ones
_SCRATCH_BYTES = 16 << 20
_buffers = threading.local()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one layer's outer products: all public constants of the study.

    Args:
      groups: Independent blocks of channels.
      positions: Positions of one row.
      inputs: Length of ``left`` in a group.
      outputs: Length of ``right`` in a group.
    """

    groups: int
    positions: int
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.groups * self.inputs * self.outputs


class Outer(ABC):
    """One use of one weight.

    Attributes:
      shape: Its sizes.
      rows: Rows of the batch.
      like: A tensor of the gradient's dtype and device.
      gram: Whether inner products of positions give the norm: not where the
        parameter is more than what multiplies.
    """

    shape: Shape
    rows: int
    like: torch.Tensor
    gram: bool = True

    @abstractmethod
    def left(self, rows: slice) -> torch.Tensor:
        """Return ``(rows * groups, positions, inputs)``; valid until the next call."""

    @abstractmethod
    def right(self, rows: slice) -> torch.Tensor:
        """Return ``(rows * groups, outputs, positions)``."""

    @abstractmethod
    def total(self, factors: torch.Tensor, alive: torch.Tensor | None) -> torch.Tensor:
        """Return the sum over rows, each times its factor, in the weight's shape.

        Args:
          factors: One for each row.
          alive: For each row whether it counts; ``None`` where all do. What is
            not alive may hold anything, and adds exactly nothing.
        """

    @abstractmethod
    def shaped(self, total: torch.Tensor) -> torch.Tensor:
        """Return ``(groups * outputs * inputs,)`` in the weight's shape."""

    def direct(self) -> torch.Tensor | None:
        """Return ``(rows, weights)`` in the weight's order if one kernel makes it faster."""
        return None

    def pulled(self, gradients: torch.Tensor, *, direct: bool = False) -> torch.Tensor:
        """Return gradients of the parameter for those of what multiplied, changed in place.

        Args:
          gradients: ``(n, weights)``, as ``right @ left`` has them.
          direct: They are in the weight's order instead, as of :meth:`direct`.

        Guarantees:
          - Linear, of operator norm at most 1, and the same to the bit for each row.
        """
        del direct
        return gradients

    def chunks(self, *, outputs: bool = False) -> list[slice]:
        """Return the rows that are worked on at once: a constant of the shape."""
        each = 8 * self.shape.groups * self.shape.positions * self.shape.inputs
        each = max(each, 8 * self.shape.weights) if outputs else each
        size = max(1, _SCRATCH_BYTES // each)
        return [slice(at, min(at + size, self.rows)) for at in range(0, self.rows, size)]


def way(shape: Shape, *, most: int, bytes_kept: float, room: float, gram: bool = True) -> Way:
    """Return the cheapest way by multiply-adds of one row, given the room that is left.

    Args:
      shape: Of the layer.
      most: Most rows of one patient.
      bytes_kept: Bytes that keeping would take.
      room: Bytes that are free for it.
      gram: Whether that way is open.
    """
    plain = shape.groups * shape.positions * shape.inputs * shape.outputs
    inner = shape.groups * most * shape.positions**2 * (shape.inputs + shape.outputs)
    grams = _GRAM * inner + plain if gram else math.inf
    keep = plain + _PASS * shape.weights
    drop = 2 * plain + _PASS * shape.weights
    if bytes_kept <= room and keep <= grams:
        return "keep"
    return "gram" if grams <= drop else "drop"


def enter(book: Book, weight: nn.Parameter, outer: Outer) -> None:
    """Enter one use of ``weight`` into the book, in the cheapest way."""
    patients = book.patients.spread(outer.rows)
    size = outer.rows * outer.shape.weights * outer.like.element_size()
    chosen = way(outer.shape, most=patients.most, bytes_kept=size, room=book.room, gram=outer.gram)
    if chosen == "keep" or not book.may_postpone(weight):
        book.keep(weight, *_gradients(outer, patients))
        return
    norms = _by_gram if chosen == "gram" and outer.gram else _by_drop
    parts = [
        norms(outer, rows, single=patients.single)
        for rows in _batches(outer, patients, outputs=chosen == "drop")
    ]
    squared, left, right = parts[0]
    if len(parts) > 1:
        squared, left, right = (torch.cat(part) for part in zip(*parts, strict=True))
    terms = outer.rows * outer.shape.groups * outer.shape.positions
    norm = Norm(
        squared=squared,
        left=left,
        right=right,
        terms=(terms * outer.shape.inputs, terms * outer.shape.outputs),
    )
    book.postpone(weight, norm, rows=outer.rows, later=outer.total)


def scratch(name: str, size: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Return memory of ``size`` that holds anything, the same at each call of this thread.

    Fresh memory costs the system a fault for each page: as much as the work done in it.
    """
    buffers: dict[str, torch.Tensor] = _buffers.__dict__
    key = f"{name} {like.dtype} {like.device}"
    count = prod(size)
    if key not in buffers or buffers[key].numel() < count:
        buffers[key] = like.new_empty(count)
    return buffers[key][:count].view(size)


def _gradients(
    outer: Outer, patients: Patients
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor] | None]:
    shape = outer.shape
    direct = outer.direct()
    if direct is not None:
        return patients.total(outer.pulled(direct, direct=True)), None
    if patients.single:
        size = (outer.rows * shape.groups, shape.outputs, shape.inputs)
        made = outer.like.new_empty(size)
        for rows in outer.chunks():
            place = made[rows.start * shape.groups : rows.stop * shape.groups]
            torch.bmm(outer.right(rows), outer.left(rows), out=place)
            outer.pulled(place.view(rows.stop - rows.start, -1))
        return made.view(outer.rows, -1)[: patients.count], outer.shaped
    made = outer.like.new_zeros((patients.count + 1, shape.weights))
    for rows in outer.chunks():
        part = torch.bmm(outer.right(rows), outer.left(rows))
        part = outer.pulled(part.view(rows.stop - rows.start, -1))
        made.index_add_(0, patients.of_row[rows], part)
    return made[: patients.count], outer.shaped


def _batches(outer: Outer, patients: Patients, *, outputs: bool) -> list[slice]:
    """Return the rows that are worked on at once; a patient's are together, fillers come last."""
    if patients.single:
        return outer.chunks(outputs=outputs)
    real, most = sum(patients.counts), patients.most
    fillers = [slice(at, min(at + most, outer.rows)) for at in range(real, outer.rows, most)]
    return patients.segments() + fillers


def _by_gram(outer: Outer, rows: slice, *, single: bool) -> tuple[torch.Tensor, ...]:
    """Return squared norms, and the energies of left and right: of each row, or of all as one."""
    count = rows.stop - rows.start
    left, right = outer.left(rows), outer.right(rows).mT
    if not single:  # a patient's rows are so many more positions
        left, right = _merged(left, count), _merged(right, count)
    inner, other = torch.bmm(left, left.mT), torch.bmm(right, right.mT)
    made = (
        torch.linalg.vecdot(inner.flatten(1), other.flatten(1)),
        inner.diagonal(dim1=1, dim2=2).sum(1),
        other.diagonal(dim1=1, dim2=2).sum(1),
    )
    here = count if single else 1
    if len(made[0]) == here:
        return made
    return tuple(part.view(here, -1).sum(1) for part in made)  # over groups


def _by_drop(outer: Outer, rows: slice, *, single: bool) -> tuple[torch.Tensor, ...]:
    """Return the same, by making the gradients and forgetting them."""
    left, right = outer.left(rows), outer.right(rows)
    here = rows.stop - rows.start if single else 1
    made = torch.bmm(right, left).view(here, -1, outer.shape.weights).sum(1)
    made = outer.pulled(made)
    return squares(made), squares(left.reshape(here, -1)), squares(right.reshape(here, -1))


def _merged(matrices: torch.Tensor, rows: int) -> torch.Tensor:
    """Return ``(rows * groups, positions, n)`` as ``(groups, rows * positions, n)``."""
    groups = matrices.shape[0] // rows
    apart = matrices.reshape(rows, groups, *matrices.shape[1:])
    return apart.transpose(0, 1).reshape(groups, -1, matrices.shape[-1])
