"""The Flower bundle of Septum: configuration without code, the same bytes everywhere.

Flower sends an app to each hospital as a bundle. Septum's names two objects of
the installed package and holds nothing else, so a hospital runs what it
installed; it can therefore compare the whole bundle, byte for byte, with what
this module gives, and refuse any other.
"""

import hashlib
import io
import zipfile
from typing import Final

STUDY_KEY: Final = "study"
"""The run config's one key: which signed study the coordinator runs. No hospital reads it."""

CLIENT_APP: Final = "septum_client.app:app"
SERVER_APP: Final = "septum_server.app:app"

PYPROJECT: Final = f"""\
[project]
name = "septum-study"
version = "1.0.0"
description = "Configuration only; each side runs the Septum that it installed."

[tool.flwr.app]
publisher = "septum"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
{STUDY_KEY} = ""
"""

_FIRST_DATE: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3


def fab() -> bytes:
    """Return the bundle: a ZIP of one ``pyproject.toml`` and Flower's list of contents.

    Guarantees:
      - The same bytes on every machine: nothing is compressed, because compressed
        bytes differ between versions of zlib, and no date or mode is read.
      - No module and no data: what it names is imported from what is installed.
    """
    content = PYPROJECT.encode()
    listed = f"pyproject.toml,{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as file:
        for name, text in (("pyproject.toml", content), (".info/CONTENT", listed.encode())):
            entry = zipfile.ZipInfo(name, _FIRST_DATE)
            entry.create_system = _UNIX
            entry.external_attr = 0o600 << 16
            file.writestr(entry, text)
    return bundle.getvalue()


def fab_digest() -> str:
    """Return the SHA-256 of :func:`fab`, as 64 hex digits."""
    return hashlib.sha256(fab()).hexdigest()
