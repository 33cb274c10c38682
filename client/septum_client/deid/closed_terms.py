"""Every text that a de-identified file may carry: the terms, codes and constants, as sets."""

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, Final

from septum_client.deid import method, rebuild

_HERE: Final = "septum_client.deid"
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@cache
def terms() -> frozenset[str]:
    """Return every closed term, case-folded: values as a whole."""
    return frozenset(text.casefold() for text in _texts())


@cache
def words() -> frozenset[str]:
    """Return every word of a closed term, and every such term, case-folded."""
    return terms() | {word for term in terms() for word in _WORD.findall(term)}


@cache
def threes() -> frozenset[str]:
    """Return every three words that follow each other in a closed term, case-folded."""
    return frozenset(
        " ".join(found[start : start + 3])
        for term in terms()
        for found in (_WORD.findall(term),)
        for start in range(len(found) - 2)
    )


def _texts() -> Iterator[str]:
    folder = resources.files(_HERE)
    for name in ("terms.toml", "profile.toml"):
        yield from _leaves(tomllib.loads((folder / name).read_text(encoding="utf-8")))
    yield from _leaves(json.loads((folder / "codes.json").read_text(encoding="utf-8")))
    yield from (*method.METHOD, *method.MEANINGS, *method.MEANINGS.values())
    yield from (rebuild.IMPLEMENTATION_CLASS_UID, rebuild.IMPLEMENTATION_VERSION_NAME)
    yield from ("UNKNOWN", "DCM")


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from _leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)
    elif isinstance(tree, str):
        yield tree
