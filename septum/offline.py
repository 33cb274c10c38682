"""A folder from which one zone is installed without a network, and which says who made it.

::

    install.sh          checks everything below, then installs
    wheels/             Septum's cut to the zone, and every package that it needs
    requirements.lock   each of them at one version, with the hash of its file
    sbom.cdx.json       what they are, for whoever must know (CycloneDX)
    MANIFEST            the SHA-256 of every file above
    MANIFEST.sig        the maker's Ed25519 signature over it
    signer.pub          the maker's public key, known by its fingerprint
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name
from packaging.version import Version

from septum.errors import ConfigError, DataError
from septum.offline_sbom import sbom
from septum.offline_wheels import NAME, ZONES, Wheel, closure, cut, machine, read_wheel
from septum.signing import Purpose, SigningKey, fingerprint

INSTALLER: Final = Path(__file__).with_name("offline_install.sh")
UNLISTED: Final = ("MANIFEST", "MANIFEST.sig", "signer.pub")
"""The files that the manifest cannot hold the hash of."""

_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+-]+)")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made.

    Args:
      wheels: Installed by it, Septum's own among them, by name.
      left_out: Files of the folder of wheels that the zone does not need.
      fingerprint: Of the key that signed.
      installer_sha256: Of ``install.sh``: it is the one file that nothing checks before it runs.
    """

    wheels: tuple[Wheel, ...]
    left_out: tuple[str, ...]
    fingerprint: str
    installer_sha256: str


def pins(path: Path) -> dict[str, str]:
    """Read the one version of each package that everything was tested with.

    Raises:
      ConfigError: The file cannot be read, or a line pins no version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        raise ConfigError(
            f"{path} cannot be read.",
            remedy="Name Septum's constraints.txt by --constraints.",
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pin = _PIN.fullmatch(line.strip())
        if pin is None:
            raise ConfigError(
                f"line {number} of {path.name} pins no version.", remedy="Write NAME==VERSION."
            )
        found[canonicalize_name(pin[1])] = pin[2]
    return found


def make(
    out: Path,
    *,
    zone: str,
    wheels: Path,
    pinned: Mapping[str, str],
    key: SigningKey,
    now: datetime,
) -> Made:
    """Make the bundle of one zone at ``out``, whole or not at all.

    Args:
      out: Where; must not exist.
      zone: A name of :data:`septum.offline_wheels.ZONES`.
      wheels: Folder with Septum's wheel of all zones and those of what it needs.
      pinned: From :func:`pins`.
      key: The maker's.
      now: Goes into the bill of materials.

    Guarantees:
      - Nothing is fetched and nothing of the wheels is run.
      - What is installed is listed, hashed and signed; nothing else is in it.

    Raises:
      ConfigError: The zone is none, or ``out`` exists.
      DataError: A wheel is missing, unreadable, or of another version than pinned.
    """
    if zone not in ZONES:
        raise ConfigError(
            f"{zone!r} is no zone.", remedy=f"Choose one of {', '.join(sorted(ZONES))}."
        )
    if out.exists():
        raise ConfigError(f"{out} exists already.", remedy="Choose another folder.")
    read = [read_wheel(path) for path in sorted(wheels.glob("*.whl"))]
    whole = [wheel for wheel in read if wheel.name == NAME]
    if len(whole) != 1:
        raise DataError(
            f"{wheels} holds {len(whole)} wheels of Septum and must hold one.",
            remedy="Build it with `pip wheel`, as --help shows.",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=".partial-"))
    try:
        root = _rooted(work / "wheels", whole[0], zone)
        others = [wheel for wheel in read if wheel.name != NAME]
        needed = closure(root, others)
        _compare(needed, pinned)
        installer = _fill(work, zone=zone, root=root, needed=needed, key=key, now=now)
        work.chmod(0o755)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Made(
        wheels=needed,
        left_out=tuple(wheel.path.name for wheel in others if wheel not in needed),
        fingerprint=fingerprint(key.public),
        installer_sha256=installer,
    )


def _rooted(folder: Path, whole: Wheel, zone: str) -> Wheel:
    """Put Septum's wheel of the zone into ``folder``."""
    folder.mkdir(mode=0o755)
    name, content = cut(whole.path, zone)
    (folder / name).write_bytes(content)
    return read_wheel(folder / name)


def _fill(
    work: Path, *, zone: str, root: Wheel, needed: Sequence[Wheel], key: SigningKey, now: datetime
) -> str:
    """Write everything else of the bundle; return the SHA-256 of its installer."""
    for wheel in needed:
        if wheel is not root:
            shutil.copyfile(wheel.path, work / "wheels" / wheel.path.name)
    lock = [f"# {zone}: {machine()}. Installed with --require-hashes; made by septum."]
    lock += [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in needed]
    (work / "requirements.lock").write_text("\n".join(lock) + "\n", encoding="utf-8")
    bill = json.dumps(sbom(root, needed, now=now), indent=1, sort_keys=True)
    (work / "sbom.cdx.json").write_text(bill + "\n", encoding="utf-8")
    shutil.copyfile(INSTALLER, work / "install.sh")
    listed = {
        path.relative_to(work).as_posix(): _sha256(path)
        for path in sorted(work.rglob("*"))
        if path.is_file()
    }
    for wheel in needed:
        if listed[f"wheels/{wheel.path.name}"] != wheel.sha256:
            raise DataError(f"{wheel.path.name} changed while it was copied.", remedy="Run again.")
    manifest = "".join(f"{digest}  {path}\n" for path, digest in listed.items()).encode()
    (work / "MANIFEST").write_bytes(manifest)
    said = {"manifest": hashlib.sha256(manifest).hexdigest()}
    signature = key.sign(Purpose.OFFLINE_BUNDLE, said)
    (work / "MANIFEST.sig").write_text(signature + "\n", encoding="ascii")
    (work / "signer.pub").write_text(key.public + "\n", encoding="ascii")
    return listed["install.sh"]


def _compare(needed: Sequence[Wheel], pinned: Mapping[str, str]) -> None:
    """Raise DataError unless each wheel is of the pinned version; local tags do not count."""
    other = [
        f"{wheel.name} {wheel.version} (pinned: {pinned.get(wheel.name, 'none')})"
        for wheel in needed
        if wheel.name != NAME and pinned.get(wheel.name) != Version(wheel.version).public
    ]
    if other:
        raise DataError(
            f"{len(other)} wheels are not of the pinned version: {', '.join(other[:5])}.",
            remedy="Fetch them with -c constraints.txt.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
