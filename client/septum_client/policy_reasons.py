"""Why each default of a policy is what it is: printed, and written into ``policy.toml``."""

import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import tomlkit

_WIDTH: Final = 88

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "format": "The form of this file; another number is refused.",
        "epsilon_per_study": (
            "Most epsilon of one study, for one patient with all images (PLD accountant). 3 "
            "bounds the growth of the odds of any guess about a patient by e^3 = 20; a study "
            "that needs more should say why."
        ),
        "epsilon_per_year": (
            "Most epsilon of all studies within any 365 days (Rényi filter). 4 pays for one "
            "study at 3, whose figure the filter states higher, because it must hold for "
            "studies chosen after seeing earlier results; two such studies do not fit."
        ),
        "epsilon_total": (
            "Most epsilon of everything this site ever releases (Rényi filter): the bound that "
            "a patient can be told. As the year's, until somebody decides what a patient may "
            "be asked for in all; then the year keeps it from being spent at once."
        ),
        "delta": (
            "Chance with which the bound may fail; the study's own, if smaller. Keep it below "
            "1 / (10 x training patients), better 1 / (100 x): 1e-4 suits up to a thousand."
        ),
        "noise_floor": (
            "Least noise multiplier: a study that asks for less is trained with this. Below "
            "0.5 single steps cost so much that an epsilon says little."
        ),
        "clip_ceiling": (
            "Largest L2 norm that one patient may add: a study that asks for more is trained "
            "with this. It moves no epsilon; it bounds how loud an update can be."
        ),
        "minimum_patients": (
            "Fewest consenting training patients. In a smaller crowd delta weighs more and "
            "noise drowns what is learnt."
        ),
        "models": (
            "Networks that may train: those whose per-patient gradients were tested against "
            "one patient at a time. A name outside Septum's registry cannot run at all."
        ),
        "tasks": (
            "Tasks that may be learnt. All: a patient's gradient is clipped alike in each, so "
            "none costs more epsilon than another."
        ),
        "purposes": (
            "HL7 purposes of use. All kinds of research but POARCH, population origins or "
            "ancestry, which a hospital should decide on with those concerned."
        ),
        "commercial": (
            "Whether commercial studies may train. No: consent to research is often not "
            "consent to that."
        ),
        "recipients": (
            "Who may get the model. The hospitals of the study and their coordinator; "
            '"public" and the names of other organisations have to be added.'
        ),
        "metrics": (
            "Numbers that leave beside the update. steps is a constant of the study; "
            "update_norm is a function of the release and costs nothing either. No other "
            "exists: losses, scores and counts would be statistics of patients outside the "
            "bound."
        ),
        "intake": "What may enter a cohort; asked of every image, and of consent at every round.",
        "intake.consent": (
            "opt-in trains on patients whose record permits it and on nobody else; opt-out on "
            "all but those whose record denies it; waived likewise, where an ethics board "
            "waived consent. Silence is not consent."
        ),
        "intake.burned_in_text": (
            "ocr looks into every image for text; header believes the header, which is wrong "
            "often enough."
        ),
        "intake.faces": "refuse, deface or allow head scans that show a face: a face identifies.",
        "intake.synthetic": "Made-up images teach what nobody had; excluded unless wanted.",
        "intake.patient_characteristics": (
            "Keep sex and an age band in the cohort, to see whom a model serves badly. They "
            "do not leave."
        ),
        "intake.dates": "drop, or shift by one keyed number of days a patient.",
        "intake.keep_days": "After so many days a cohort trains nothing more: consent ages.",
    }
)
"""Each key of a policy, and why its default is what it is."""


def commented(fields: Mapping[str, Any]) -> str:
    """Return a policy's fields as TOML, each below the reason of its default."""
    document = tomlkit.document()
    document.add(tomlkit.comment("What this hospital lets a study do. The stricter of this and"))
    document.add(tomlkit.comment("the study holds. `septum site policy` checks and explains it."))
    _add(document, fields, prefix="")
    return tomlkit.dumps(document)


def _add(table: Any, fields: Mapping[str, Any], *, prefix: str) -> None:
    for key, value in fields.items():
        table.add(tomlkit.nl())
        for line in textwrap.wrap(REASONS[prefix + key], _WIDTH):
            table.add(tomlkit.comment(line))
        if isinstance(value, Mapping):
            inner = tomlkit.table()
            _add(inner, value, prefix=f"{key}.")
            table.add(key, inner)
        else:
            table.add(key, value)
