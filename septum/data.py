"""What a study's cohorts hold, and what the study's designers expect of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from septum.training import Part

Label = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


Range = tuple[()] | tuple[FiniteFloat, FiniteFloat]
"""Least and greatest; empty for none, because TOML knows no null."""


class Reference(Part):
    """What the study's designers expect of the data, so that a hospital can compare.

    Public numbers, never fitted to a hospital's data. Empty means no expectation.

    Args:
      modalities: Values of Modality (0008,0060).
      spacing_mm: Least and greatest median distance of pixels.
      prevalence: Least and greatest share of positive rows of a label.
      mean_intensity: Least and greatest mean of the normalised images, of 1.
    """

    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")], ...] = ()
    spacing_mm: Range = ()
    prevalence: Range = ()
    mean_intensity: Range = ()


Task = Literal["multilabel", "classification", "regression", "segmentation"]
"""What is learnt: any number of findings, one of several classes, numbers, or a mask."""


class Data(Part):
    """What a cohort of this study holds, and what its labels mean.

    Args:
      image_size: Pixels a side, of a picture or of each slice.
      depth: Slices of a volume; 1 for pictures.
      task: ``multilabel``: each label is present or absent. ``classification``:
        the labels are the classes, and each image is of one. ``regression``:
        each label is a number. ``segmentation``: the labels are the mask's
        classes; background is 0 and not named.
      labels: Their names, in the order of the network's outputs.
      ranges: For regression, the public least and greatest value of each label:
        targets are scaled by these constants, never by a hospital's statistics.
      positive_weight: Public weight of each label (multilabel: where present)
        or class in the loss, against class imbalance; empty for 1 each. It is
        the study's constant: reading it off the data would spend privacy.
      test_fraction: Share of patients who are never trained on.
    """

    image_size: int = Field(64, ge=16, le=1024)
    depth: int = Field(1, ge=1, le=256)
    task: Task = "multilabel"
    labels: tuple[Label, ...] = Field(min_length=1, max_length=64)
    ranges: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    positive_weight: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = ()
    test_fraction: float = Field(0.25, gt=0, lt=1)
    reference: Reference = Reference()

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        labels = len(self.labels)
        if self.task == "classification" and labels < 2:
            raise ValueError("task 'classification' needs at least two labels: its classes")
        if len(self.ranges) != (labels if self.task == "regression" else 0):
            raise ValueError(
                f"ranges has {len(self.ranges)} pairs; task 'regression' needs one for each "
                "label, any other task none"
            )
        if any(high <= low for low, high in self.ranges):
            raise ValueError("ranges needs the least value before the greatest")
        if self.positive_weight and self.task == "regression":
            raise ValueError("task 'regression' takes no positive_weight")
        if len(self.positive_weight) not in {0, labels}:
            raise ValueError(
                f"positive_weight has {len(self.positive_weight)} values for {labels} labels"
            )
        return self
