"""The allow-list: which attributes an image may carry, where, and in what form.

The list itself is ``profile.toml``; this module turns it into tables that are
looked up by tag. What is not in a table does not exist for the rebuilder.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

from septum.errors import Quarantine
from septum_client.deid import grammar
from septum_client.deid.annex_e import Option

_UNBOUNDED: Final = 65536

_RULES: Final[Mapping[str, Callable[..., grammar.Rule]]] = {
    "term": grammar.term,
    "image_type": lambda: grammar.image_type,
    "int": lambda low, high, digits="10": grammar.whole_number(int(low), int(high), int(digits)),
    "number": lambda low, high, digits: grammar.number(float(low), float(high), int(digits)),
    "coarse": lambda low, high, step: grammar.coarse(float(low), float(high), float(step)),
    "tag": lambda: grammar.pointer,
    "class": lambda: grammar.standard_uid,
    "sex": lambda: grammar.term("sex"),
}
_WITH_OPTION: Final[Mapping[str, Option]] = {
    "date": Option.RETAIN_MODIFIED_DATES,
    "time": Option.RETAIN_MODIFIED_DATES,
    "datetime": Option.RETAIN_MODIFIED_DATES,
    "sex": Option.RETAIN_PATIENT_CHARACTERISTICS,
    "age": Option.RETAIN_PATIENT_CHARACTERISTICS,
    "coarse": Option.RETAIN_PATIENT_CHARACTERISTICS,
}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Carried:
    """One attribute that may be carried.

    Args:
      keyword: Its name in PS3.6.
      tag: Group and element as one integer.
      base_tag: The same as pydicom's own type, which it looks up faster.
      vrs: The value representations it may have, the first where none is said.
      most_values: Most values it may have.
      rule: What is done, by name: a word of ``profile.toml``.
      arguments: Of the rule.
      check: The rule as a function, for rules that look at values alone.
      option: Without this option the input's value is never carried.
      digits: Significant digits of a real number.
      needed: With what code the file is rejected where no value passes, if it is.
      empty: Written empty where no value passes (type 2).
      empty_if_present: Likewise, where the input has the attribute.
      whole: With what code the file is rejected where the input has the attribute
        and its value does not pass: without it the image would have other values.
      dummy: Written where the input has the attribute and the object is of a
        kind that requires a value (type 1); None where there is none.
    """

    keyword: str
    tag: int
    base_tag: BaseTag
    vrs: tuple[str, ...]
    most_values: int
    rule: str
    arguments: tuple[str, ...]
    check: grammar.Rule | None
    option: Option | None
    digits: int
    needed: Quarantine | None
    empty: bool
    empty_if_present: bool
    whole: Quarantine | None
    dummy: str | None


Section = Mapping[int, Carried]


def _carried(keyword: str, text: str) -> Carried:
    first, *flags = (part.strip() for part in text.split("|"))
    rule, *arguments = first.split(" ")
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    most = dictionary_VM(tag).rpartition("-")[2]
    codes = {
        word: Quarantine[code]
        for word, _, code in (flag.partition(" ") for flag in flags)
        if word in {"needed", "whole"}
    }
    dummies = [flag.partition(" ")[2] for flag in flags if flag.startswith("dummy ")]
    return Carried(
        keyword=keyword,
        tag=tag,
        base_tag=BaseTag(tag),
        vrs=tuple(dictionary_VR(tag).split(" or ")),
        most_values=int(most) if most.isdigit() else _UNBOUNDED,
        rule=rule,
        arguments=tuple(arguments),
        check=_RULES[rule](*arguments) if rule in _RULES else None,
        option=_WITH_OPTION.get(rule),
        digits=int(arguments[2]) if rule == "number" else 6,
        needed=codes.get("needed"),
        empty="empty" in flags,
        empty_if_present="empty_if_present" in flags,
        whole=codes.get("whole"),
        dummy=dummies[0] if dummies else None,
    )


def _sections() -> dict[str, Section]:
    text = files(__package__).joinpath("profile.toml").read_text(encoding="utf-8")
    sections = {
        name: {row.tag: row for row in (_carried(*pair) for pair in table.items())}
        for name, table in tomllib.loads(text).items()
    }
    # Tags in order, as they must be written (PS3.5 7.1).
    return {name: dict(sorted(table.items())) for name, table in sections.items()}


SECTIONS: Final = _sections()
"""The tables: ``image`` for the top level, and one for each kind of sequence item."""

IMAGE: Final = SECTIONS["image"]

# A file of any other class is no image that can be trained on (PS3.4 B.5). Whole-slide
# images, video and parametric maps hold labels, streams or floats that no rule here covers.
_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
IMAGE_CLASSES: Final = frozenset(
    _ROOT + leaf
    for leaf in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),  # CR, DX, MG, intra-oral
        *("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4"),  # CT, MR
        *("3", "3.1", "6", "6.1", "6.2"),  # ultrasound
        *("5", "20", "128", "128.1", "130"),  # NM, PET
        *("7", "7.1", "7.2", "7.3", "7.4"),  # secondary capture: judged by screening
        *("12.1", "12.1.1", "12.2", "12.2.1", "12.3"),  # XA, RF
        *("13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),  # X-ray 3D, tomosynthesis
        *("14.1", "14.2"),  # intravascular OCT
        *("77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.4"),  # visible light
        "77.1.7",
    )
)
"""The SOP classes that are images; everything else is refused."""

# Classic PET is the one single-frame object whose series date is of type 1 (C.8.9.1).
PET_CLASS: Final = _ROOT + "128"
