"""Masks before images: each file that is a mask is read first, and kept until its image comes.

What is kept lies in the private folder of the ingest, which is deleted with
it: classes of pixels under pseudonyms, and no byte of a header.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from septum_client.label_table import LabelTable, file_key
from septum_client.masks.segments import Segments, name
from septum_client.sandbox.pool import Answer, Task
from septum_client.sources import Item
from septum_client.tasks import Ask, keyed


@dataclass(kw_only=True, eq=False)
class Index:
    """Which masks there are, by what they are masks of.

    Args:
      segments: Which segment is which class.
      folder: Private and empty; receives the masks.
      keys: Keys of the files that are masks, refused ones included.
    """

    segments: Segments = field(repr=False)
    folder: Path = field(repr=False)
    keys: set[str] = field(default_factory=set, repr=False)
    _images: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(list), repr=False
    )
    _references: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list), repr=False)
    _files: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def told(self) -> dict[str, Any]:
        """Return what :class:`septum_client.masks.finding.Masks` reads, as JSON can carry it."""
        return {
            "segments": self.segments.told(),
            "images": {
                image: [_joined(digest for digest, _ in found), [path for _, path in found]]
                for image, found in self._images.items()
            },
            "references": dict(self._references),
        }

    def of_file(self, key: str) -> dict[str, str]:
        """Return where the mask file called ``key`` is kept, for a task; nothing without one."""
        found = self._files.get(key)
        return {} if found is None else {"mask": found[1], "mask_digest": found[0]}

    def digest(self, patient: str, instance: str) -> str:
        """Return the digest of a DICOM image's masks; empty where it has none."""
        found = self._images.get(name(patient, instance), ())
        return _joined(digest for digest, _ in found) if found else ""

    def keep(self, key: str, answer: Answer) -> None:
        """Keep what a child read of the file called ``key``."""
        path = self.folder / f"{len(self.keys)}.mask"
        path.write_bytes(answer.body)
        said, at = answer.fields["mask"], os.fspath(path)
        patient = answer.fields["owner"]["patient"]
        if "images" not in said:
            self._files[file_key(key)] = said["digest"], at
        for image, digest in said.get("images", {}).items():
            self._images[name(patient, image)].append((digest, at))
        if said.get("reference") and not said.get("images"):
            self._references[name(patient, said["reference"])].append(at)


def gather(
    items: Iterable[Item], table: LabelTable, *, ask: Ask, index: Index
) -> Iterator[tuple[str, Answer]]:
    """Yield what became of each mask, and fill ``index``.

    Args:
      items: Files in their order; those that are no masks are passed over.
      table: Names the masks of NIfTI files and pictures.
      ask: Has tasks done, in their order.
      index: Of this ingest.
    """
    named = {mask for mask in table.masks if mask}

    def candidates() -> Iterator[Item]:
        for item in items:
            is_named = file_key(item.key) in named
            if is_named or (item.kind == "dicom" and item.code is None):
                yield item

    for key, answer in keyed(candidates(), _task, ask):
        if answer.fields.get("mask", "") is None:
            continue  # an image
        if (
            "code" in answer.fields
            and file_key(key) not in named
            and not answer.fields.get("object")
        ):
            continue  # whatever it is, it is asked about again as an image
        index.keys.add(key)
        if "code" not in answer.fields:
            index.keep(key, answer)
            answer = Answer(fields=answer.fields)  # noqa: PLW2901 - the pixels are on the disk
        yield key, answer


def _task(item: Item) -> Task | Answer:
    if item.code is not None:
        return Answer(fields={"code": item.code.value})
    fields: dict[str, Any] = {"kind": item.kind}
    if item.path is not None:
        fields["path"] = os.fspath(item.path)
    return Task(verb="mask", fields=fields, body=item.content or b"")


def _joined(digests: Iterable[str]) -> str:
    """Return one digest of several, whatever their order."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:32]
