"""What a cohort is made to be: the task, its labels, and the shape of an image and a target."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from septum.errors import ConfigError

if TYPE_CHECKING:
    from septum.study import Data, Task

_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_SIDES: Final = (16, 1024)
_DEPTHS: Final = (1, 256)
_TASKS: Final = ("multilabel", "classification", "regression", "segmentation")
# A mask's class is one byte, and 0 is background.
_MOST_CLASSES: Final = 255


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """What a cohort is made to be.

    Args:
      image_size: Side of the square images, 16 to 1024 pixels.
      labels: Label columns, in the order of the model's outputs; the classes of
        ``classification``; the foreground classes of ``segmentation``, 1 and up.
      test_fraction: Expected share of patients held out, above 0 and below 1.
      depth: Slices of a volume, 2 to 256; 1 makes every frame an image of its own.
      task: What the labels mean (:attr:`septum.study.Data.task`).
      ranges: For regression, the study's least and greatest value of each label.

    Raises:
      ConfigError: Names the key, its value and the limit.
    """

    image_size: int
    labels: tuple[str, ...]
    test_fraction: float = 0.25
    depth: int = 1
    task: "Task" = "multilabel"
    ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for key, (low, high) in (("image_size", _SIDES), ("depth", _DEPTHS)):
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{key} is {value!r} and must be {low} to {high}.")
        self._require_labels()
        if not isinstance(self.test_fraction, float) or not 0 < self.test_fraction < 1:
            raise ConfigError(
                f"test_fraction is {self.test_fraction!r} and must be above 0 and below 1."
            )
        if self.task not in _TASKS:
            raise ConfigError(f"task is {self.task!r} and must be one of {', '.join(_TASKS)}.")
        wanted = len(self.labels) if self.task == "regression" else 0
        sound = all(
            len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1]
            for pair in self.ranges
        )
        if not isinstance(self.ranges, tuple) or len(self.ranges) != wanted or not sound:
            raise ConfigError(
                f"ranges has {len(self.ranges)} pairs; task {self.task!r} needs {wanted}, "
                "the least value first."
            )

    def _require_labels(self) -> None:
        if not isinstance(self.labels, tuple) or not self.labels:
            raise ConfigError("labels is empty and must name at least one column.")
        for name in self.labels:
            if not isinstance(name, str) or not _LABEL.fullmatch(name) or name.startswith("meta_"):
                raise ConfigError(
                    f"labels holds {name!r}, which is not a label column.",
                    remedy="Use a letter, then at most 63 letters, digits, _ or -; not meta_.",
                )
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError("labels names a column twice.")
        if len(self.labels) > _MOST_CLASSES:
            raise ConfigError(f"labels has {len(self.labels)} names; at most {_MOST_CLASSES} fit.")

    @classmethod
    def of(cls, data: "Data") -> Self:
        """Return what a cohort must be for a study with this ``data``."""
        return cls(
            image_size=data.image_size,
            labels=data.labels,
            test_fraction=data.test_fraction,
            depth=data.depth,
            task=data.task,
            ranges=data.ranges,
        )

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Return what :meth:`written` wrote; any exception means that nothing here did."""
        ranges = tuple(tuple(pair) for pair in said.get("ranges", ()))
        return cls(**{**said, "labels": tuple(said["labels"]), "ranges": ranges})

    def written(self) -> dict[str, Any]:
        """Return the manifest's form: without the fields that only some tasks have."""
        fields = asdict(self)
        if self.task == "multilabel":
            # A cohort's digest covers these words: what was made before tasks were keeps its own.
            del fields["task"]
        if not self.ranges:
            del fields["ranges"]
        return fields

    @property
    def masked(self) -> bool:
        """Whether each image has a mask."""
        return self.task == "segmentation"

    @property
    def columns(self) -> int:
        """Columns of the label array; none where the mask is the target."""
        return 0 if self.masked else len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: ``(1, size, size)``, or ``(1, depth, size, size)`` of a volume."""
        depth = () if self.depth == 1 else (self.depth,)
        return (1, *depth, self.image_size, self.image_size)

    @property
    def row(self) -> np.dtype[Any]:
        """One row of the file between reading and writing: an image, and its mask if any."""
        mask = [("mask", "u1", self.shape[1:])] if self.masked else []
        return np.dtype([("image", "<f2", self.shape), *mask])

    def promised(self, images: int, patients: int) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Return the arrays of an index, strata apart: dtype and shape of each.

        Those called ``origin_*`` say which file an image came from, by keyed hash,
        so that a second ingest need not read it again.
        """
        of_patient, of_image = (patients,), (images,)
        return {
            "labels": ("<f4", (images, self.columns)),
            "patient_of_image": ("<i4", of_image),
            "split": ("|u1", of_patient),
            "sex": ("|u1", of_patient),
            "age_band": ("|u1", of_patient),
            "declared": ("|u1", of_patient),
            "pseudonyms": ("|S32", of_patient),
            "origin_source": ("|S32", of_image),
            "origin_instance": ("|S44", of_image),
            "origin_frame": ("<i4", of_image),
            "origin_sex": ("|u1", of_image),
            "origin_age_band": ("|u1", of_image),
            "origin_declared": ("|u1", of_image),
            **({"origin_mask": ("|S32", of_image)} if self.masked else {}),
        }
