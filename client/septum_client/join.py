"""From an invitation to a study that waits for a yes: everything is checked, then all is kept.

Joining approves nothing. It settles whom this site believes, and puts the study
where a person reviews it; nothing trains from there.
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from septum.errors import ConfigError
from septum.joining import Invitation
from septum.signed_study import SignedStudy, check, load_signed, parse_signed
from septum.study import Study, load
from septum_client import coordinator
from septum_client.site import Site, write_durably

OFFERED: Final = "offered"


def join(
    site: Site, invitation: Invitation, *, heard: str, now: datetime, instead: bool = False
) -> SignedStudy:
    """Believe the coordinator of ``invitation`` from now on, and keep its study for review.

    Args:
      site: The hospital.
      invitation: A verified one (:func:`septum.joining.read_invitation`).
      heard: The fingerprint that the coordinator told the hospital over another
        way; empty only where the site joined this coordinator before.
      now: The time, with its zone.
      instead: Leave another coordinator for this one.

    Guarantees:
      - What is refused leaves nothing on the disk.

    Raises:
      ConfigError: It is for another site, or the site joined somebody else.
      SignatureError: The fingerprint is not that of the invitation's key.
      Refusal: The study is not as its coordinator signed it, has ended, or
        names another site or another key of this one.
    """
    if invitation.site != site.name:
        raise ConfigError(
            f"the invitation is for {invitation.site}; this site is {site.name}.",
            remedy="Ask the coordinator for this site's own invitation.",
        )
    accepted = coordinator.accept(site.folder, invitation, heard=heard, instead=instead, at=now)
    signed = parse_signed(invitation.study, source="the study in the invitation")
    check(
        signed,
        coordinator=accepted.key,
        site=site.name,
        today=now.date(),
        revoked=accepted.revoked,
        site_key=site.signing.public,
    )
    (site.folder / OFFERED).mkdir(mode=0o700, exist_ok=True)
    write_durably(site.folder / OFFERED / f"{signed.study.digest}.toml", signed.to_toml().encode())
    coordinator.keep(site.folder, accepted)
    return signed


def offered(site: Site, digest: str) -> SignedStudy:
    """Return the study with this digest that a coordinator offered; believe nothing of it yet.

    Raises:
      ConfigError: None was offered under this digest.
      Refusal: It was changed on disk.
    """
    path = site.folder / OFFERED / f"{digest}.toml"
    if digest not in digests(site):
        raise ConfigError(
            f"no study was offered to this site under the digest {digest[:70]!r}.",
            remedy="Copy the whole digest, 64 characters, from `septum site review`.",
        )
    signed = load_signed(path)
    if signed.study.digest != digest:
        raise ConfigError(
            "the offered study was altered on disk.", remedy="Join again by the invitation."
        )
    return signed


def digests(site: Site) -> list[str]:
    """Return the digests of the studies that were offered, in alphabetical order."""
    return sorted(path.stem for path in (site.folder / OFFERED).glob("*.toml"))


def believed(site: Site, signed: SignedStudy, *, now: datetime) -> None:
    """Accept ``signed`` as of the coordinator that this site joined, for it, and in force.

    Raises:
      ConfigError: The site joined nobody.
      Refusal: See :func:`septum.signed_study.check`.
    """
    joined = coordinator.joined(site.folder)
    check(
        signed,
        coordinator=joined.key,
        site=site.name,
        today=now.date(),
        revoked=joined.revoked,
        site_key=site.signing.public,
    )


def find(site: Site, word: str) -> SignedStudy:
    """Return the signed study that ``word`` names: an offered one's digest, or a file.

    Raises:
      ConfigError: Neither is there.
      Refusal: The file is no signed study.
    """
    if word in digests(site):
        return offered(site, word)
    if Path(word).is_file():
        return load_signed(Path(word))
    return offered(site, word)


def study_of(site: Site, word: str) -> Study:
    """Return the study that ``word`` names: an offered one's digest, a signed file, or a draft.

    For reading alone: a draft, which nobody signed, is shown and measured so that
    a hospital can object in time. Nothing approves what this returns.

    Raises:
      ConfigError: None is there, or the draft is no study.
      Refusal: The file is no signed study.
    """
    path = Path(word)
    if path.is_file() and not path.read_bytes().startswith(b"signature"):
        return load(path)
    return find(site, word).study
