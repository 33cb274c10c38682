"""One de-identifier, run as its own documentation says, in a process that lives on.

    PYTHON worker.py TOOL

Reads one JSON object a line, ``{"in": path, "out": path, "pixels": bool}``, and
answers each with one: ``status`` (``done``, ``refused`` or ``crashed``), ``why``
(a code or an exception's type), and ``cpu_s``: user and system seconds of the
call, reading and writing the file included, and of processes that it waited
for. Importing is not counted. ``pixels`` asks for the tool's own look at
burned-in text as well.
"""

# Each tool is imported where it is installed, in its own process.
# ruff: noqa: PLC0415

import functools
import json
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

KEY = bytes(range(32))

Call = Callable[[Path, Path, bool], str]


def septum(*, defaults: bool = False) -> Call:
    """The engine of every way out of a site; OCR only where pixels are asked for.

    With ``defaults``, as a new site refuses. Without, heads are let through and
    every capture counts as looked at and accepted, because the other tools
    refuse neither: so that headers are compared on as many files as possible.
    """
    from septum_client.deid.engine import Deidentifier, Refused
    from septum_client.rules import Intake
    from septum_client.screening.verdict import Decision

    class Accepted(dict):
        def get(self, name: str, default: object = None) -> Decision:  # noqa: ARG002 - of dict
            return Decision(verdict="accept")

    def engine(pixels: bool) -> Deidentifier:
        read = "ocr" if pixels else "header"
        if defaults:
            return Deidentifier(key=KEY, rules=Intake(burned_in_text=read))
        rules = Intake(burned_in_text=read, faces="allow", synthetic="include")
        return Deidentifier(key=KEY, rules=rules, decisions=Accepted())

    engines = {pixels: engine(pixels) for pixels in (False, True)}

    def call(source: Path, target: Path, pixels: bool) -> str:
        found = engines[pixels](source.read_bytes())
        if isinstance(found, Refused):
            return f"{found.code.value} {found.code.name}"
        target.write_bytes(found.content)
        return ""

    return call


def dicognito() -> Call:
    """One Anonymizer for the run; for pixels, the guard that its command line offers."""
    import pydicom
    from dicognito.anonymizer import Anonymizer
    from dicognito.filters import BurnedInAnnotationGuard

    anonymizer = Anonymizer()
    guard = BurnedInAnnotationGuard("if-yes", "fail")

    def call(source: Path, target: Path, pixels: bool) -> str:
        with pydicom.dcmread(source, force=False) as dataset:
            if pixels:
                try:
                    guard.before_each(dataset)
                except ValueError:
                    return "BurnedInAnnotation is YES"
            anonymizer.anonymize(dataset)
            dataset.save_as(target)
        return ""

    return call


def deid() -> Call:
    """The bundled recipe, sequences and private tags stripped; for pixels, DicomCleaner."""
    from deid.config import DeidRecipe
    from deid.dicom import DicomCleaner, replace_identifiers

    recipe = DeidRecipe("dicom")
    chosen = {
        "entity_id": "subject",
        "item_id": "image",
        "entity_timestamp": "20000101",
        "item_timestamp": "20000101",
    }

    def call(source: Path, target: Path, pixels: bool) -> str:
        if pixels:
            cleaner = DicomCleaner(output_folder=str(target.parent / "cleaned"))
            found = cleaner.detect(str(source))
            if found["flagged"]:
                if not any(result["coordinates"] for result in found["results"]):
                    return "flagged, no coordinates to clean"
                cleaner.clean()
                source = Path(cleaner.save_dicom()).rename(target.parent / "cleaned" / source.name)
        replace_identifiers(
            dicom_files=str(source),
            ids={str(source.resolve()): dict(chosen)},
            deid=recipe,
            save=True,
            overwrite=True,
            output_folder=str(target.parent),
            strip_sequences=True,
            remove_private=True,
        )
        return ""

    return call


def dicom_anonymizer() -> Call:
    """The 2026c table (not the default, which is 2023's), private tags deleted."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    def rules() -> dict:
        return initialize_actions("dicomfields_2026c")

    def call(source: Path, target: Path, pixels: bool) -> str:  # noqa: ARG001 - it has no pixel step
        anonymize_dicom_file(str(source), str(target), base_rules_gen=rules)
        return ""

    return call


def pydicom() -> Call:
    """Read and write: the floor under every tool here."""
    import pydicom

    def call(source: Path, target: Path, pixels: bool) -> str:  # noqa: ARG001 - as above
        pydicom.dcmread(source).save_as(target)
        return ""

    return call


TOOLS = {
    "Septum": septum,
    "Septum, defaults": functools.partial(septum, defaults=True),
    "dicognito": dicognito,
    "deid": deid,
    "dicom-anonymizer": dicom_anonymizer,
    "pydicom": pydicom,
}


def cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def answer(call: Call, asked: dict) -> dict:
    source, target = Path(asked["in"]), Path(asked["out"])
    start = cpu_s()
    try:
        why = call(source, target, asked["pixels"])
        status = "refused" if why else "done"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a crash is a result; deid raises SystemExit
        status, why = "crashed", type(error).__name__
    spent = cpu_s() - start
    if status == "done" and not target.is_file():
        status, why = "crashed", "no output"
    return {"status": status, "why": why, "cpu_s": spent}


def main(tool: str) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # What a tool prints must not get between the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    call = TOOLS[tool]()
    for line in sys.stdin:
        answers.write(json.dumps(answer(call, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
