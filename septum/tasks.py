"""What the network learns: normalisation, losses, predictions.

Every loss here is per image and has no reduction over the batch, no class
weight taken from a batch and no other tie between images, so that one
patient's gradient does not depend on another's (a class-weighted mean does).
Class weights, target ranges and prevalences are public constants of the study,
never statistics of a hospital.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from septum.study import Study

_CENTRE: Final = 0.5
_SPREAD: Final = 0.25
_TENTH: Final = 0.1
_RAREST: Final = 1e-3


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Map grey values from [0, 1] to [-2, 2] by public constants; any float dtype to float32."""
    return (images.to(torch.float32) - _CENTRE) / _SPREAD


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the multi-label cross-entropy of each image, shape ``(images,)``.

    Args:
      logits: Shape ``(images, labels)``, float32.
      labels: Same shape; 1 where the finding is present, else 0.
    """
    _same(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)


class Task(ABC):
    """Loss, prediction and number of outputs of one task; made by :func:`task_of`.

    Attributes:
      outputs: Channels of the network's head.
      targets: Shape of the targets without images: ``"labels"`` for float32
        ``(images, labels)``, ``"mask"`` for uint8 ``(images, [depth,] h, w)``.
    """

    outputs: int
    targets: str = "labels"

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each image, shape ``(images,)``; no image's moves another's."""

    @abstractmethod
    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return what the network says, in the targets' own terms."""

    def bias(self) -> torch.Tensor | None:
        """Return the head's initial bias, shape ``(outputs,)``, from public numbers; or none."""
        return None

    def __repr__(self) -> str:
        """Return class and constants: equal tasks print alike, others do not."""
        return f"{type(self).__name__}({vars(self)})"


class Multilabel(Task):
    """Each label present or absent: binary cross-entropy.

    Args:
      labels: Number of labels.
      positive_weight: Public weight of each label where it is present; empty for 1.
      prevalence: Public share of positives, above 0 and below 1: the head starts
        there (Lin et al. 2017, arXiv:1708.02002), so that no noisy step is spent
        on learning what the study already knows. None to start at one half.
    """

    def __init__(
        self,
        labels: int,
        *,
        positive_weight: tuple[float, ...] = (),
        prevalence: float | None = None,
    ) -> None:
        self.outputs = labels
        self._weight = torch.tensor(positive_weight) if positive_weight else None
        self._prevalence = prevalence

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over labels; ``targets`` are 0 or 1, ``(images, labels)``."""
        _same(outputs, targets)
        weight = None if self._weight is None else self._weight.to(outputs)
        each = functional.binary_cross_entropy_with_logits(
            outputs, targets.to(outputs), reduction="none", pos_weight=weight
        )
        return each.mean(dim=1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the probability of each label, ``(images, labels)``."""
        return outputs.sigmoid()

    def bias(self) -> torch.Tensor | None:
        """Return the log odds of the prevalence, the same for every label."""
        if self._prevalence is None:
            return None
        share = min(max(self._prevalence, _RAREST), 1 - _RAREST)
        return torch.full((self.outputs,), math.log(share / (1 - share)))


class Classification(Task):
    """Each image of one class: cross-entropy, weighted by constants and divided by none.

    Args:
      classes: Number of classes, at least two.
      class_weight: Public weight of each class; empty for 1.
    """

    def __init__(self, classes: int, *, class_weight: tuple[float, ...] = ()) -> None:
        self.outputs = classes
        self._weight = torch.tensor(class_weight) if class_weight else None

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return it for ``targets`` with 1 at the class and 0 elsewhere, ``(images, classes)``."""
        _same(outputs, targets)
        weight = 1.0 if self._weight is None else self._weight.to(outputs)
        return -(targets.to(outputs) * weight * outputs.log_softmax(dim=1)).sum(dim=1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the probability of each class, ``(images, classes)``; they add up to 1."""
        return outputs.softmax(dim=1)


class Regression(Task):
    """Numbers: smooth L1 on the study's public range.

    Targets and outputs are compared as shares of the range. A target outside
    it counts as its nearer end; an error is squared up to a tenth of the range.

    Args:
      ranges: Least and greatest value of each label.
    """

    def __init__(self, ranges: tuple[tuple[float, float], ...]) -> None:
        self.outputs = len(ranges)
        self._low = torch.tensor([low for low, _ in ranges])
        self._width = torch.tensor([high - low for low, high in ranges])

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over labels; ``targets`` in their own unit, ``(images, labels)``."""
        _same(outputs, targets)
        share = (targets.to(outputs) - self._low.to(outputs)) / self._width.to(outputs)
        each = functional.smooth_l1_loss(outputs, share.clamp(0, 1), reduction="none", beta=_TENTH)
        return each.mean(dim=1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return values in the labels' own unit and within their ranges, ``(images, labels)``."""
        return self._low.to(outputs) + outputs.clamp(0, 1) * self._width.to(outputs)

    def bias(self) -> torch.Tensor | None:
        """Return the middle of the range."""
        return torch.full((self.outputs,), 0.5)


class Segmentation(Task):
    """A mask: soft Dice of each foreground class plus cross-entropy of each pixel.

    MONAI's Dice loss per image, never over the batch. It is smoothed by one
    pixel, so that its gradient is bounded where a class is absent.

    Args:
      classes: Number of foreground classes; background is 0 and not counted.
      class_weight: Public weight of each foreground class; empty for 1.
    """

    targets = "mask"

    def __init__(self, classes: int, *, class_weight: tuple[float, ...] = ()) -> None:
        self.outputs = classes + 1
        self._weight = torch.tensor((1.0, *class_weight)) if class_weight else None
        from monai.losses.dice import DiceLoss  # noqa: PLC0415 - imports all of MONAI, for masks alone

        self._dice = DiceLoss(
            include_background=False,
            softmax=True,
            batch=False,
            reduction="none",
            smooth_nr=1.0,
            smooth_dr=1.0,
        )

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return it for logits ``(images, classes + 1, [depth,] h, w)``.

        ``targets`` are whole numbers from 0 to the number of classes,
        ``(images, [depth,] h, w)``; 0 is background.
        """
        if outputs.shape[:1] + outputs.shape[2:] != targets.shape:
            raise ValueError(
                f"outputs {tuple(outputs.shape)} and masks {tuple(targets.shape)} differ"
            )
        index = targets.long()
        truth = functional.one_hot(index, self.outputs).movedim(-1, 1).to(outputs)
        dice: torch.Tensor = self._dice(outputs, truth).flatten(1)
        pixels = functional.cross_entropy(outputs, index, reduction="none")
        if self._weight is not None:
            weight = self._weight.to(outputs)
            dice, pixels = dice * weight[1:], pixels * weight[index]
        return dice.mean(dim=1) + pixels.flatten(1).mean(dim=1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the most probable class of each pixel, uint8 ``(images, [depth,] h, w)``."""
        return outputs.argmax(dim=1).to(torch.uint8)


def task_of(study: "Study") -> Task:
    """Return the task of ``study``, made of its public constants alone."""
    data = study.data
    labels, weight = len(data.labels), data.positive_weight
    if data.task == "classification":
        return Classification(labels, class_weight=weight)
    if data.task == "regression":
        return Regression(data.ranges)
    if data.task == "segmentation":
        return Segmentation(labels, class_weight=weight)
    prevalence = data.reference.prevalence
    return Multilabel(
        labels,
        positive_weight=weight,
        prevalence=sum(prevalence) / 2 if prevalence else None,
    )


def _same(outputs: torch.Tensor, targets: torch.Tensor) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} differ"
        )
