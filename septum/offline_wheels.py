"""Wheels as they lie in a folder: what they are, what they need, and Septum's cut to one zone.

The wheel that is built from the tree holds every zone. A hospital's machine
gets a cut of it that has no server, no strategies and no attacks in it, and a
coordinator's one that cannot read an image.
"""

import base64
import configparser
import hashlib
import io
import platform
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from types import MappingProxyType
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from septum.errors import DataError

NAME: Final = "septum"

_LARGEST_METADATA: Final = 4 << 20
_PART: Final = 1 << 20
_FIRST_DATE: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_VERBS: Final = "septum.verbs"
_OF_EXTRA: Final = re.compile(r"extra == [\"']([\w-]+)[\"']")


@dataclass(frozen=True, kw_only=True)
class Zone:
    """What of Septum one side installs.

    Args:
      packages: Top-level packages.
      extras: Extras of the whole distribution that become plain requirements.
      verbs: Entry points that add verbs to the command line.
    """

    packages: tuple[str, ...]
    extras: tuple[str, ...]
    verbs: tuple[str, ...]


ZONES: Final[Mapping[str, Zone]] = MappingProxyType(
    {
        "site": Zone(
            packages=("septum", "septum_client"), extras=("site", "pacs"), verbs=("site",)
        ),
        "server": Zone(
            packages=("septum", "septum_server", "septum_strategies"),
            extras=("server",),
            verbs=("server",),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel file, read but not trusted: nothing of it has run.

    Args:
      name: Canonical (PEP 503).
      version: As in its metadata, local tag included.
      sha256: Of the file.
      size_bytes: Of the file.
      licence: As its metadata states it; may be empty.
      requires: Lines of ``Requires-Dist``.
    """

    path: Path = field(repr=False)
    name: str
    version: str
    sha256: str
    size_bytes: int
    licence: str
    requires: tuple[str, ...]


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's metadata and hash it.

    Raises:
      DataError: It is no wheel, or its metadata contradict its name.
    """
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as file:
            about = HeaderParser().parsestr(_member(file, "METADATA"))
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError, KeyError, UnicodeError) as error:
        raise DataError(
            f"{path.name} cannot be read as a wheel ({type(error).__name__}).",
            remedy="Fetch it again.",
        ) from None
    if (canonicalize_name(about["Name"] or ""), about["Version"]) != (name, str(version)):
        raise DataError(
            f"{path.name} holds {about['Name']} {about['Version']}.", remedy="Fetch it again."
        )
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return Wheel(
        path=path,
        name=name,
        version=str(version),
        sha256=digest,
        size_bytes=path.stat().st_size,
        licence=_licence(about),
        requires=tuple(about.get_all("Requires-Dist") or ()),
    )


def closure(root: Wheel, others: Iterable[Wheel]) -> tuple[Wheel, ...]:
    """Return ``root`` and every wheel that it needs on a machine like this one, by name.

    Raises:
      DataError: One is missing, is there in two versions, or is of a version
        that is not asked for.
    """
    by_name: dict[str, Wheel] = {}
    for wheel in others:
        if wheel.name in by_name:
            raise DataError(
                f"{wheel.name} is there twice, as {by_name[wheel.name].version} and "
                f"{wheel.version}.",
                remedy="Leave the one that constraints.txt names.",
            )
        by_name[wheel.name] = wheel
    found = {root.name: root}
    missing: set[str] = set()
    waiting: list[tuple[Wheel, frozenset[str]]] = [(root, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wheel, extras = waiting.pop()
        if (wheel.name, extras) in seen:
            continue
        seen.add((wheel.name, extras))
        for needed in _needs(wheel, extras):
            name = canonicalize_name(needed.name)
            there = found.get(name) or by_name.get(name)
            if there is None or not needed.specifier.contains(there.version, prereleases=True):
                missing.add(f"{name}{needed.specifier}")
                continue
            found[name] = there
            waiting.append((there, frozenset(needed.extras)))
    if missing:
        raise DataError(
            f"{len(missing)} wheels are missing: {', '.join(sorted(missing)[:8])}.",
            remedy="Fetch them with `pip wheel`, as --help shows, and name that folder.",
        )
    return tuple(found[name] for name in sorted(found))


def cut(whole: Path, zone: str) -> tuple[str, bytes]:
    """Return the file name and the bytes of Septum's wheel for one zone.

    Args:
      whole: The wheel of all zones, as built from the tree.
      zone: A name of :data:`ZONES`.

    Guarantees:
      - No file and no entry point of another zone is in it.
      - Its version ends in ``+ZONE``, so that it is never taken for the whole.
      - The same wheel gives the same bytes.

    Raises:
      DataError: ``whole`` is no wheel of Septum, or lacks the zone.
    """
    wanted = ZONES[zone]
    about = read_wheel(whole)
    if about.name != NAME:
        raise DataError(f"{whole.name} is no wheel of Septum.", remedy="Name Septum's own.")
    version = f"{about.version}+{zone}"
    old = f"{NAME}-{about.version}.dist-info/"
    new = f"{NAME}-{version}.dist-info/"
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(whole) as file:
            for name in file.namelist():
                if name.partition("/")[0] in wanted.packages and not name.endswith("/"):
                    files[name] = file.read(name)
                elif name.startswith(f"{old}licenses/") or name == f"{old}WHEEL":
                    files[new + name.removeprefix(old)] = file.read(name)
            files[f"{new}METADATA"] = _metadata(_member(file, "METADATA"), version, wanted)
            files[f"{new}entry_points.txt"] = _points(_member(file, "entry_points.txt"), wanted)
    except (KeyError, configparser.Error, zipfile.BadZipFile, UnicodeError) as error:
        raise DataError(
            f"{whole.name} cannot be read ({type(error).__name__}).", remedy="Build it again."
        ) from None
    lacking = set(wanted.packages) - {name.partition("/")[0] for name in files}
    if lacking:
        raise DataError(
            f"{whole.name} has no {', '.join(sorted(lacking))}.",
            remedy="Build it from the tree, with every zone.",
        )
    return f"{NAME}-{version}-py3-none-any.whl", _packed(files, f"{new}RECORD")


def machine() -> str:
    """Return which machines the bundle is for, since wheels and requirements depend on it."""
    version = ".".join(platform.python_version_tuple()[:2])
    kind = f"{platform.system()} {platform.machine()}"
    return f"{platform.python_implementation()} {version}, {kind}"


def _needs(wheel: Wheel, extras: frozenset[str]) -> Iterable[Requirement]:
    for line in wheel.requires:
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            raise DataError(
                f"{wheel.path.name} asks for something unreadable.", remedy="Fetch it again."
            ) from None
        if needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in extras or {""}
        ):
            yield needed


def _metadata(text: str, version: str, zone: Zone) -> bytes:
    head, _, body = text.partition("\n\n")
    kept: list[str] = []
    for line in head.splitlines():
        key, _, value = line.partition(": ")
        if key == "Version":
            kept.append(f"Version: {version}")
        elif key == "Requires-Dist":
            needed = Requirement(value)
            extra = _OF_EXTRA.fullmatch(str(needed.marker or ""))
            if extra and (extra[1] not in zone.extras or needed.name == NAME):
                continue
            if extra:
                needed.marker = None
            kept.append(f"Requires-Dist: {needed}")
        elif key != "Provides-Extra":
            kept.append(line)
    # The wheel's extras repeat what they share.
    return ("\n".join(dict.fromkeys(kept)) + "\n\n" + body).encode()


def _points(text: str, zone: Zone) -> bytes:
    points = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    points.optionxform = str  # type: ignore[assignment, method-assign] # configparser's documented way
    points.read_string(text)
    lines = ["[console_scripts]", *(f"{k} = {v}" for k, v in points["console_scripts"].items())]
    lines += ["", f"[{_VERBS}]"]
    lines += [f"{k} = {v}" for k, v in points[_VERBS].items() if k in zone.verbs]
    return ("\n".join(lines) + "\n").encode()


def _packed(files: Mapping[str, bytes], record: str) -> bytes:
    rows = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(files[name])}\n")
    everything = {**files, record: ("".join(rows) + f"{record},,\n").encode()}
    wheel = io.BytesIO()
    # Not compressed: compressed bytes differ between versions of zlib.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(everything, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, _FIRST_DATE)
            entry.create_system = _UNIX
            entry.external_attr = 0o644 << 16
            file.writestr(entry, everything[name])
    return wheel.getvalue()


def _member(file: zipfile.ZipFile, name: str) -> str:
    """Return a text of the metadata; KeyError if it is not there once, or too large."""
    form = re.compile(rf"[^/]+\.dist-info/{name}")
    found = [entry for entry in file.infolist() if form.fullmatch(entry.filename)]
    if len(found) != 1 or found[0].file_size > _LARGEST_METADATA:
        raise KeyError(name)
    return file.read(found[0]).decode()


def _licence(about: Message) -> str:
    """Return the licence as an expression if one is stated, else in the words that are."""
    if expression := about["License-Expression"]:
        return str(expression)
    classifiers = about.get_all("Classifier") or []
    named = [line.rpartition(":: ")[2] for line in classifiers if line.startswith("License ::")]
    return named[-1] if named else str(about["License"] or "").strip().split("\n")[0][:100]
