"""A DICOMweb server as seen by a careful client: one host, bounded answers, few retries."""

import json
import os
import stat
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests
from urllib3.exceptions import HTTPError

from septum.errors import ConfigError, EngineError
from septum_client.pacs.multipart import MalformedError, only_part
from septum_client.pacs.settings import Pull

_CHUNK: Final = 2**16
_ENVELOPE_BYTES: Final = 2**16
_TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_NOT_US: Final = frozenset({401, 403})
_MOST_PAUSE_S: Final = 30.0
_JSON: Final = "application/dicom+json"
# `*` is the instance as it is stored (PS3.18 8.7.3.5.2): nothing is decoded or recoded for us.
_INSTANCE: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class _NoneError(Exception):
    """The server has nothing to give here, or nothing that may be taken."""


class _BriefError(Exception):
    """Worth another try.

    Args:
      alive: Whether the server was there, so that its other answers may be good.
    """

    def __init__(self, *, alive: bool) -> None:
        self.alive: Final = alive
        super().__init__()


@dataclass(frozen=True, kw_only=True)
class _Answer:
    body: bytes
    content_type: str


class Archive:
    """QIDO-RS and WADO-RS (PS3.18 10.6 and 10.4) of one server.

    Args:
      settings: Where, who we are, and the limits.
      pause: Waits so many seconds between two tries.

    Guarantees:
      - Talks to the host of the settings only: no redirect is followed, and no
        proxy or ``.netrc`` of the environment is used unless asked for.
      - The server's certificate is verified.
      - An answer longer than its limit, or slower than ``deadline_s``, is left
        unread. Compressed answers are not asked for and not inflated.

    Raises:
      ConfigError: The secret or a certificate cannot be used.
    """

    def __init__(self, settings: Pull, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._settings = settings
        self._pause = pause
        self._base = str(settings.url).rstrip("/")
        session = requests.Session()
        session.trust_env = False
        if settings.environment_proxies:
            session.proxies = requests.utils.get_environ_proxies(self._base)
        for path in (settings.authorities, settings.certificate, settings.key):
            if path is not None and not path.is_file():
                raise ConfigError(
                    "a certificate file of [pull] is missing.",
                    remedy="Check authorities, certificate and key.",
                )
        session.verify = True if settings.authorities is None else str(settings.authorities)
        if settings.certificate is not None and settings.key is not None:
            session.cert = (str(settings.certificate), str(settings.key))
        session.headers = requests.structures.CaseInsensitiveDict({"Accept-Encoding": "identity"})
        if settings.secret is not None:
            session.headers["Authorization"] = _credentials(settings, settings.secret)
        self._session = session

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def search(self, path: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return one page of matches (PS3.18 10.6.3.3.1); an empty one is no match.

        Raises:
          EngineError: The server cannot be reached, refuses, or answers with
            something that is not a list of matches.
          ConfigError: It does not accept who we are.
        """
        try:
            answer = self._get(path, parameters, _JSON, self._settings.maximum_answer)
        except _NoneError:
            raise _nonsense() from None
        if not answer.body:
            return []
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise _nonsense() from None
        if not isinstance(found, list) or not all(isinstance(match, dict) for match in found):
            raise _nonsense()
        return found

    def instance(self, path: str) -> bytes | None:
        """Return one instance as DICOM Part 10 bytes, as stored.

        None where the server has none at ``path``, or it is too long, too slow
        or not a DICOM file in one part.

        Raises:
          EngineError: The server cannot be reached.
          ConfigError: It does not accept who we are.
        """
        longest = self._settings.maximum_instance
        try:
            answer = self._get(path, {}, _INSTANCE, longest + _ENVELOPE_BYTES)
            found = only_part(answer.body, answer.content_type)
        except (_NoneError, MalformedError):
            return None
        return found if len(found) <= longest else None

    def _get(self, path: str, parameters: Mapping[str, str], accept: str, longest: int) -> _Answer:
        attempts = self._settings.attempts
        alive = False
        for attempt in range(attempts):
            try:
                return self._once(path, parameters, accept, longest)
            except _BriefError as error:
                alive = error.alive
                if attempt + 1 < attempts:
                    self._pause(min(2.0**attempt, _MOST_PAUSE_S))
        if alive:
            raise _NoneError
        raise EngineError(
            f"the DICOMweb server did not answer in {attempts} attempts.",
            remedy="See that it runs, then start the pull again; it goes on where it was.",
        )

    def _once(self, path: str, parameters: Mapping[str, str], accept: str, longest: int) -> _Answer:
        deadline = time.monotonic() + self._settings.deadline_s
        try:
            with self._session.get(
                f"{self._base}/{path}",
                params=dict(parameters),
                headers={"Accept": accept},
                timeout=self._settings.timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                _check(response)
                if int(response.headers.get("Content-Length") or 0) > longest:
                    raise _NoneError
                return _Answer(
                    body=_read(response, longest, deadline),
                    content_type=response.headers.get("Content-Type", ""),
                )
        except requests.exceptions.SSLError:
            raise ConfigError(
                "the DICOMweb server's certificate cannot be verified.",
                remedy="Name the hospital's authority in pull.authorities.",
            ) from None
        except (requests.RequestException, HTTPError, OSError):
            raise _BriefError(alive=False) from None
        except ValueError:
            raise _NoneError from None


def _check(response: requests.Response) -> None:
    code = response.status_code
    if code in _NOT_US:
        raise ConfigError(
            f"the DICOMweb server does not accept who we are (HTTP {code}).",
            remedy="Check pull.authorization, its secret, and what the account may read.",
        )
    if code in _TRY_AGAIN:
        raise _BriefError(alive=True)
    if 300 <= code < 400:
        raise ConfigError(
            f"the DICOMweb server redirects (HTTP {code}), which is not followed.",
            remedy="Write the final address in pull.url.",
        )
    if code not in {200, 204} or response.headers.get("Content-Encoding", "identity") != "identity":
        raise _NoneError


def _read(response: requests.Response, longest: int, deadline: float) -> bytes:
    """Read to the end; `read1` returns after each packet, so that the deadline is looked at."""
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > longest:
            raise _NoneError
        if time.monotonic() > deadline:
            raise _BriefError(alive=True)
    promised = response.headers.get("Content-Length")
    if promised is not None and int(promised) != len(body):
        raise _BriefError(alive=False)
    return bytes(body)


def _credentials(settings: Pull, path: Path) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(
                    "the secret of [pull] can be read by others.",
                    remedy="Run `chmod 600` on it.",
                )
            secret = file.read(2**14).strip()
    except OSError:
        raise ConfigError(
            "the secret of [pull] cannot be read.", remedy="Check pull.secret."
        ) from None
    if not secret or not all(0x20 <= byte < 0x7F for byte in secret):
        raise ConfigError(
            "the secret of [pull] is empty or not one line of ASCII.",
            remedy="Write the token, or user:password, and nothing else.",
        )
    if settings.authorization == "basic":
        return f"Basic {b64encode(secret).decode()}"
    return f"Bearer {secret.decode()}"


def _nonsense() -> EngineError:
    return EngineError(
        "the DICOMweb server's answer to a search is not a list of matches, or too long.",
        remedy="Check that pull.url is the base of QIDO-RS, or ask for less.",
    )
