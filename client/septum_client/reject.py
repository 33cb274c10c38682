"""How a hostile or unfit file ends: with a closed code and not a word of what it says."""

from typing import Final

from septum.errors import Quarantine


class Rejected(Exception):
    """This file or image stays out, for this reason.

    It carries a code only, because an exception's text could carry what a
    header says. It never leaves the process that read the file.
    """

    def __init__(self, code: Quarantine) -> None:
        self.code: Final = code
        super().__init__(code.value)
