"""Another party's words: of letters alone, and shown so that nothing acts on a screen."""

import unicodedata
from typing import Final

from pydantic import AfterValidator

_ACTING: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Controls, direction marks and other signs without a form, and breaks of lines."""


def _plain(text: str) -> str:
    for letter in text:
        if unicodedata.category(letter) in _ACTING:
            raise ValueError(f"holds U+{ord(letter):04X}, a character that acts and is not read")
    return text


PLAIN: Final = AfterValidator(_plain)
"""What a person's free text must pass: no character that would act on a screen or a log."""


def visible(text: str) -> str:
    r"""Return ``text`` with every character that is not printed written out.

    A study is its coordinator's text. An escape sequence in it could erase a line
    of the card, and a direction mark could reorder one, before somebody approves.

    >>> visible("find nodules\x1b[2K")
    'find nodules\\u001b[2K'
    """
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
