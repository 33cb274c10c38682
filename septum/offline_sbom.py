"""The list of what a bundle installs, as CycloneDX 1.5: name, version, licence, purl, SHA-256."""

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from septum.offline_wheels import Wheel

_SPDX: Final = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+()-]+)*")


def sbom(root: Wheel, wheels: Sequence[Wheel], *, now: datetime) -> dict[str, Any]:
    """Return the bill of materials of ``root`` with everything that is installed beside it.

    Args:
      root: Septum's own wheel.
      wheels: All wheels of the bundle, ``root`` among them.
      now: When it was made, aware of its zone.

    Guarantees:
      - One component for each wheel but the root, each with the hash of its file.
      - Licences are as each wheel states them; one that states none has none here.
      - The same wheels at the same time give the same document.
    """
    names = {wheel.name for wheel in wheels}
    identity = " ".join(wheel.sha256 for wheel in wheels) + now.isoformat()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds"),
            "component": {**_component(root), "type": "application"},
        },
        "components": [_component(wheel) for wheel in wheels if wheel is not root],
        "dependencies": [
            {"ref": _purl(wheel), "dependsOn": sorted(_uses(wheel, names, wheels))}
            for wheel in wheels
        ],
    }


def _component(wheel: Wheel) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(wheel),
        "name": wheel.name,
        "version": wheel.version,
        "purl": _purl(wheel),
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        **({"licenses": [_licence(wheel.licence)]} if wheel.licence else {}),
    }


def _licence(said: str) -> dict[str, Any]:
    # A phrase such as "BSD License" is a name; only an SPDX expression may stand as one.
    if _SPDX.fullmatch(said) and (" " in said or "-" in said or said in {"MIT", "ISC"}):
        return {"expression": said}
    return {"license": {"name": said}}


def _purl(wheel: Wheel) -> str:
    # "+" stands for a space in some readers of package URLs.
    return f"pkg:pypi/{wheel.name}@{wheel.version.replace('+', '%2B')}"


def _uses(wheel: Wheel, names: set[str], wheels: Sequence[Wheel]) -> set[str]:
    needed = {canonicalize_name(Requirement(line).name) for line in wheel.requires} & names
    return {_purl(other) for other in wheels if other.name in needed and other is not wheel}
