"""Can this hospital take part in this study today? Each answer is green or names its remedy.

Nothing here trains on a patient's image, spends privacy or tells the coordinator
anything: one empty request to its address is all that leaves.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from septum.errors import SeptumError
from septum.signed_study import SignedStudy
from septum.signing import fingerprint
from septum_client import coordinator
from septum_client.card import read_keys
from septum_client.coordinator import Coordinator
from septum_client.join import believed
from septum_client.preflight_data import check_data
from septum_client.preflight_findings import Finding, ok, passed, stop
from septum_client.preflight_machine import (
    check_disk,
    check_graphics,
    check_memory,
    check_versions,
)
from septum_client.preflight_network import check_network
from septum_client.preflight_pace import check_pace, measure
from septum_client.site import Site


def preflight(
    site: Site,
    signed: SignedStudy,
    *,
    now: datetime,
    environment: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Return every answer, in the order of :data:`~.preflight_findings.NAMES`.

    Args:
      site: The hospital.
      signed: An offered or approved study.
      now: This machine's time, with its zone.
      environment: Where the proxy is read from; this process's unless told.
    """
    joined = coordinator.load(site.folder)
    study = signed.study
    findings = [*_agreed(site, signed, joined, now=now), *check_data(site, study, now=now)]
    try:
        pace = measure(site, study)
    except SeptumError as error:
        findings.append(
            stop("pace", f"nothing could be measured: {error.message}", error.remedy or _ASK)
        )
    else:
        vector = 4 * pace.parameters
        findings += [
            check_disk(site.folder, vector_bytes=vector, rounds=study.rounds),
            check_memory(needed_bytes=pace.peak_bytes),
            check_graphics(),
            check_pace(pace, study),
        ]
    if joined is not None:
        told = os.environ if environment is None else environment
        findings += check_network(joined.address, joined.ca, now=now, environment=told)
    return findings


def as_json(findings: Sequence[Finding], *, study: str) -> str:
    """Return the answers as one JSON object: ``passed``, ``study``, ``findings``."""
    return json.dumps(
        {
            "event": "preflight",
            "study": study,
            "passed": passed(findings),
            "findings": [asdict(finding) for finding in findings],
        }
    )


_ASK = "Show this line to the coordinator."


def _agreed(
    site: Site, signed: SignedStudy, joined: Coordinator | None, *, now: datetime
) -> list[Finding]:
    if joined is None:
        return [
            stop(
                "coordinator",
                "this site has joined no coordinator",
                "Run `septum site join INVITE --fingerprint …`.",
            )
        ]
    found = [ok("coordinator", f"{joined.address}, fingerprint {fingerprint(joined.key)}")]
    try:
        believed(site, signed, now=now)
    except SeptumError as error:
        found.append(stop("signature", error.message, error.remedy or _ASK))
    else:
        found.append(ok("signature", "the study is as that coordinator signed it, and in force"))
    return [
        *found,
        _keys(site, signed),
        check_versions(theirs=joined.septum, bundle=joined.bundle),
    ]


def _keys(site: Site, signed: SignedStudy) -> Finding:
    remedy = "Send the coordinator this site's card again: `septum site card`."
    try:
        own = read_keys(site.folder)
        named = signed.study.participant(site.name)
    except SeptumError as error:
        return stop("keys", error.message, error.remedy or remedy)
    except KeyError:
        return stop("keys", f"the study does not name {site.name}", remedy)
    if named.key != own.signing.public:
        return stop("keys", "the study gives this site another signing key", remedy)
    if named.node_key != own.node_public:
        text = "the study gives this site another node key, which cannot connect"
        return stop("keys", text, remedy)
    return ok("keys", f"the study names this site's own, {fingerprint(own.signing.public)}")
