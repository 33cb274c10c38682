"""Another party's words, shown so that nothing in them acts on the screen that shows them."""


def visible(text: str) -> str:
    r"""Return ``text`` with every character that is not printed written out.

    A study is its coordinator's text. An escape sequence in it could erase a line
    of the card, and a direction mark could reorder one, before somebody approves.

    >>> visible("find nodules\x1b[2K")
    'find nodules\\u001b[2K'
    """
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
