"""What a round record's reason means to the coordinator, and what to do about it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from septum.errors import Code
from septum_server.rounds import RoundRecord

_THEIRS: Final = "the hospital decides"
_VERSIONS: Final = "compare the two sides' versions of Septum"
_SIGN: Final = "sign a study that fits and let it be approved"

REMEDIES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        Code.INTERNAL: ("something broke at the site", "the site reads its private.log"),
        Code.NO_POLICY: ("the site has no policy", "the site writes one"),
        Code.UNKNOWN_STUDY: ("the study is not approved there", "the site approves it"),
        Code.STUDY_NOT_ALLOWED: ("the study does not name the site", _SIGN),
        Code.MODEL_NOT_ALLOWED: ("its policy excludes the network", _THEIRS),
        Code.TASK_NOT_ALLOWED: ("its policy excludes the task", _THEIRS),
        Code.PURPOSE_NOT_ALLOWED: ("its policy excludes the purpose", _THEIRS),
        Code.RECIPIENT_NOT_ALLOWED: ("its policy excludes a recipient", _THEIRS),
        Code.STUDY_INVALID: ("it cannot read the study", _VERSIONS),
        Code.STUDY_SIGNATURE: ("the study's signature is missing or wrong", "send it again"),
        Code.STUDY_EXPIRED: ("the study or an approval has ended there", _SIGN),
        Code.OTHER_COORDINATOR: (
            "it believes another coordinator's key",
            "the site compares the fingerprint and joins again",
        ),
        Code.KEY_REVOKED: ("a key of the study is revoked there", _SIGN),
        Code.OTHER_SITE_KEY: ("the study gives it another key", "take its present card"),
        Code.ORDER_SIGNATURE: (
            "the order's signature was not ours when it arrived",
            "find out who speaks in our name; compare the keys",
        ),
        Code.ORDER_LATE: (
            "the order came after its deadline",
            "resume; compare the clocks if it happens again",
        ),
        Code.BUNDLE_NOT_ALLOWED: (
            "the Flower bundle is not the one without code",
            "start the study by `septum study start`",
        ),
        Code.STILL_TRAINING: (
            "it still trains a round of the study",
            "resume once that has ended, or set a longer deadline_s",
        ),
        Code.NO_COHORT: ("it has no cohort", "the site ingests"),
        Code.TOO_FEW_PATIENTS: ("it has too few patients", _THEIRS),
        Code.COHORT_MISMATCH: ("its cohort is for another study", "the site ingests again"),
        Code.COHORT_ALTERED: ("its cohort was altered", "the site ingests again"),
        Code.COHORT_EXPIRED: ("its cohort has expired", "the site ingests again"),
        Code.MESSAGE_NOT_ALLOWED: ("it was asked for more than training", _VERSIONS),
        Code.MODEL_MISMATCH: ("the model does not fit", "resume from the last good checkpoint"),
        Code.BUDGET_EXCEEDED: ("its privacy budget is spent", _THEIRS),
        Code.ROUND_ALREADY_CHARGED: (
            "it says that it lost this round after the charge",
            "ask it whether that is so; go on without it",
        ),
        Code.ROUND_OUT_OF_RANGE: ("the study has fewer rounds", "sign a study with more"),
        Code.LEDGER_INVALID: ("its ledger does not verify", "the site restores its backup"),
        Code.UPDATE_NOT_FINITE: ("its update was not finite", "lower the learning rate"),
        Code.UPDATE_NORM: ("its update was too long", "the site checks its installation"),
        Code.FIELD_NOT_ALLOWED: ("a field is not on the allow-list", _VERSIONS),
        Code.UNKNOWN_LAYER: ("the network has an unknown layer", "choose a registered network"),
        "NO_ANSWER": (
            "asked, and silent at the deadline",
            "see that the site runs, or set a longer deadline_s",
        ),
        "NOT_CONNECTED": ("not connected while the round lasted", "the site runs `septum site up`"),
        "FORM": ("its answer is not of the agreed form", _VERSIONS),
        "FLOWER": ("Flower made no answer", "the site looks at logs/; the next round asks again"),
        "OTHER_INSTRUCTION": ("it answered another order", "resume"),
        "REPLAYED": ("an old answer came again", "find out who sent it"),
        "UNSIGNED": ("its answer is not signed", "the site restores its signing.key"),
        "FORGED": (
            "the signature is not of the site's key",
            "find out who sent it; compare the key with the site's card",
        ),
        "UNKNOWN_SITE": ("the answer names a site outside the study", "find out who sent it"),
        "OTHER_SITE": ("its node spoke for another site", "check the node keys"),
        "OTHER_NODE": ("another node speaks for it", "check the node keys"),
        "DUPLICATE": ("it answered twice", "nothing: the first counts"),
        "WEAKER_PRIVACY": ("it states weaker privacy than the study", _VERSIONS),
        "TOO_MUCH_NOISE": ("it states far more noise than the study", "talk to the site"),
        "SHAPE": ("its update has another length", _VERSIONS),
        "NOT_FINITE": ("its update holds a value that is not finite", "talk to the site"),
        "NORM": ("its update is longer than the mechanism makes", "talk to the site"),
    }
)
"""Each reason: what it means, and who does what next."""


def line(entry: RoundRecord) -> str:
    """Return the round in one line: who contributed, who did not, why, and what to do."""
    text = f"round {entry.round}: {len(entry.answered)} of {len(entry.asked)} sites contributed"
    parts = [
        f"{site}: {why}, {meaning} ({remedy})"
        for site, why in sorted(entry.refused.items())
        for meaning, remedy in [_of(why)]
    ]
    parts += [f"unknown sender: {why}, {_of(why)[0]}" for why in entry.strays]
    return "; ".join([text, *parts])


def _of(reason: str) -> tuple[str, str]:
    # Flower's errors are numbered: FLOWER_8.
    return REMEDIES["FLOWER" if reason.startswith("FLOWER_") else reason]
