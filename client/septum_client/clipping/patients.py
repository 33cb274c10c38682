"""Which row of a batch belongs to which patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Patients:
    """The patients of one batch, in order, and the rows that only fill it.

    Args:
      counts: Rows of each patient; a patient's rows are adjacent.
      batch: Rows of the batch, at least the sum of ``counts``; what is left fills.
      most: Most rows that any patient can have, a public constant: kernels are
        chosen by it, never by the patients who were drawn.
      device: Where the batch is.
    """

    counts: tuple[int, ...]
    batch: int
    most: int
    device: torch.device
    of_row: torch.Tensor

    @classmethod
    def of(
        cls, counts: Sequence[int], *, batch: int, most: int, device: torch.device | None = None
    ) -> Self:
        """Return the grouping of a batch.

        Raises:
          ValueError: More rows than the batch has, or a patient with more than ``most``.
        """
        rows = sum(counts)
        if rows > batch or max(counts, default=1) > most:
            raise ValueError(f"{rows} rows, at most {most} a patient, in a batch of {batch}")
        device = device or torch.device("cpu")
        sizes = torch.tensor([*counts, batch - rows])
        of_row = torch.repeat_interleave(torch.arange(len(counts) + 1), sizes).to(device)
        return cls(counts=tuple(counts), batch=batch, most=most, device=device, of_row=of_row)

    @property
    def count(self) -> int:
        """Number of patients."""
        return len(self.counts)

    @property
    def single(self) -> bool:
        """Whether no patient can have more than one row, so that rows are patients."""
        return self.most == 1

    def spread(self, rows: int) -> "Patients":
        """Return the grouping of a layer that sees each image as several adjacent rows.

        Raises:
          ValueError: ``rows`` is no multiple of the batch.
        """
        if rows == self.batch:
            return self
        if rows % self.batch or not rows:
            raise ValueError(f"{rows} rows are no multiple of the batch of {self.batch}")
        each = rows // self.batch
        return Patients.of(
            [count * each for count in self.counts],
            batch=rows,
            most=self.most * each,
            device=self.device,
        )

    def segments(self) -> list[slice]:
        """Return the rows of each patient."""
        made, start = [], 0
        for count in self.counts:
            made.append(slice(start, start + count))
            start += count
        return made

    def total(self, rows: torch.Tensor) -> torch.Tensor:
        """Return each patient's sum of ``rows``, shape ``(patients, ...)``; fillers are dropped."""
        if self.single:
            return rows[: self.count]
        made = rows.new_zeros((self.count + 1, *rows.shape[1:]))
        return made.index_add_(0, self.of_row, rows)[: self.count]

    def spread_out(self, values: torch.Tensor) -> torch.Tensor:
        """Return each patient's value at each of its rows, 0 at fillers; shape ``(batch,)``."""
        return torch.cat([values, values.new_zeros(1)])[self.of_row]
