"""What a layer must say for its per-patient gradients to be known."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from septum_client.clipping.book import Book

Saved = tuple[Any, ...]


class Rule(ABC):
    """How one class of layers computes, and enters its gradients into the book.

    Neither method is recorded by autograd. ``backward`` may not change what it is given.
    """

    def prepare(self, module: Any, source: torch.Tensor) -> torch.Tensor:
        """Return what ``forward`` takes, by operations that autograd records."""
        del module
        return source

    @abstractmethod
    def forward(self, module: Any, source: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """Return the layer's output, and what ``backward`` needs beside the input."""

    @abstractmethod
    def backward(
        self,
        module: Any,
        source: torch.Tensor,
        saved: Saved,
        gradient: torch.Tensor,
        *,
        wanted: bool,
        book: Book,
    ) -> torch.Tensor | None:
        """Enter the parameters' gradients; return the input's if it is wanted."""


def trains(parameter: nn.Parameter | None) -> bool:
    """Return whether the layer has the parameter and it is trained."""
    return parameter is not None and parameter.requires_grad


def enter_bias(book: Book, bias: nn.Parameter | None, rows: torch.Tensor) -> None:
    """Enter a bias's gradient of each row, ``(rows, channels)``."""
    if bias is not None and bias.requires_grad:
        book.keep(bias, book.patients.spread(len(rows)).total(rows))
