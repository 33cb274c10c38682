"""Images straight from a PACS: pulled over DICOMweb or pushed by C-STORE, never written raw.

::

    settings      site/pacs.toml: who may push, where to pull from, and every limit
    inbox         de-identifies in memory and writes the result, or keeps nothing
    receive       the C-STORE receiver    ─ association (pynetdicom)
    pull          the DICOMweb client     ─ archive (requests), listing, multipart

Only ``association`` and ``archive`` import what the extra ``pacs`` installs, and
only once they are used: a hospital without the extra loses nothing else.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from septum.errors import ConfigError

# They log names of peers, queries with accession numbers in them, and whole data sets.
_TALKATIVE: Final = ("pynetdicom", "pydicom", "urllib3", "requests")


@contextmanager
def silent() -> Iterator[None]:
    """Keep the libraries from logging anything; what they had set comes back after."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def missing_extra() -> ConfigError:
    """Return the error for a site that was installed without the extra."""
    return ConfigError(
        "talking to a PACS needs packages that are not installed.",
        remedy='Run `pip install "septum[pacs]"`.',
    )
