"""One file in, one proved de-identified file out, or the reason there is none.

Every way out of a hospital's raw files goes through here: the cohort, the
inbox of a PACS and ``septum site deidentify`` use this engine and no other.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset
from pydicom.dataset import FileDataset

from septum.errors import Quarantine
from septum_client import pseudonyms
from septum_client.consent.declared import declared
from septum_client.deid import dates, masking, proof
from septum_client.deid.rebuild import Options, rebuild, require_image
from septum_client.deid.writing import written
from septum_client.demographics import age_band_index, sex_index
from septum_client.imaging import parse
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.owner import NOBODY, Owner
from septum_client.reject import Rejected
from septum_client.rules import Intake
from septum_client.screening import ocr, verdict
from septum_client.screening.rules import REVIEWABLE, Ruling, judge

_SCALE: Final = ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Deidentified:
    """A file that was proved.

    Args:
      content: DICOM Part 10 bytes.
      dataset: The same, parsed.
      owner: By pseudonym.
      face: Whether a volume made of such files would show a face: whoever
        builds one must deface it or refuse it.
      reviewed: Whether a person let it in.
    """

    content: bytes = field(repr=False)
    dataset: FileDataset = field(repr=False)
    owner: Owner
    face: bool = False
    reviewed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Refused:
    """A file that stays out, why, and whose it was as far as that could be read."""

    code: Quarantine
    owner: Owner = NOBODY
    preview: verdict.Preview | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Deidentifier:
    """The engine, set up for one hospital.

    Args:
      key: The site's key: pseudonyms, UIDs and dates hang on it.
      rules: What may enter.
      decisions: What a person decided on the review page, by name of the pixels.
      linkage_key: Simulations only: lets a bench find a patient who is in two sites.
    """

    key: bytes = field(repr=False)
    rules: Intake
    decisions: Mapping[str, verdict.Decision] = field(default_factory=dict, repr=False)
    linkage_key: bytes | None = field(default=None, repr=False)

    def __call__(self, data: bytes) -> Deidentified | Refused:
        """Return ``data`` de-identified and proved, or why not.

        Guarantees:
          - The output is built from the allow-list of
            :mod:`septum_client.deid.profile` and nothing else.
          - Its bytes hold no identifier that :mod:`septum_client.deid.proof`
            finds in the input.
          - Raises nothing that a file can cause, except MemoryError; logs and
            warns of nothing.
        """
        owner = NOBODY
        try:
            with parse.silent():
                try:
                    original = parse.parse(data)
                except Rejected:
                    owner = self.owner_of(data)
                    raise
                owner = self._owner(original)
                return self._deidentified(original, owner)
        except Rejected as rejected:
            return Refused(code=rejected.code, owner=owner)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - a hostile file can make a parser raise anything
            return Refused(code=Quarantine.NOT_DICOM, owner=owner)

    def owner_of(self, broken: bytes) -> Owner:
        """Return whose a refused file is, as far as its first bytes tell; raises nothing.

        A label row whose image is broken is not a label for an unknown patient.
        """
        patient, instance = parse.owner(broken)
        try:
            # A denial holds for the patient, whatever became of the file that says it.
            said = declared(parse.beginning(broken))
        except Exception:  # noqa: BLE001 - a header that cannot be read says nothing
            said = 0
        return self._named(patient=patient, instance=instance, declared=said)

    def _owner(self, original: Dataset) -> Owner:
        kept = self.rules.patient_characteristics
        return self._named(
            patient=_text(original, "PatientID"),
            instance=_text(original, "SOPInstanceUID"),
            series=_text(original, "SeriesInstanceUID"),
            sex=sex_index(_text(original, "PatientSex")) if kept else 0,
            age_band=age_band_index(_text(original, "PatientAge")) if kept else 0,
            declared=declared(original),
        )

    def _named(self, *, patient: str, instance: str, series: str = "", **kept: int) -> Owner:
        patient = pseudonyms.plain(patient)
        linked = self.linkage_key if patient else None
        return Owner(
            patient=pseudonyms.pseudonym(self.key, patient) if patient else "",
            instance=pseudonyms.uid(self.key, instance) if instance else "",
            series=pseudonyms.uid(self.key, series) if series else "",
            linkage="" if linked is None else pseudonyms.linkage(linked, patient),
            **kept,
        )

    def _deidentified(self, original: Dataset, owner: Owner) -> Deidentified | Refused:
        require_image(original)
        self._require_own_patient(original)
        _require_matching_frames(original)
        ruling = judge(original, synthetic=self.rules.synthetic, faces=self.rules.faces)
        if ruling.reason == "ultrasound-without-regions" and self._is_own(original):
            # It had regions before it was cut to them.
            ruling = Ruling(code=None, reason=ruling.reason)
        if ruling.code is not None and ruling.code not in REVIEWABLE:
            return Refused(code=ruling.code, owner=owner)
        clean, reviewed = self._rebuilt(original, ruling, reviewed=False), False
        read = self.rules.burned_in_text == "ocr"
        if ruling.code is not None or read or self.decisions:
            found = verdict.decide(
                self._seen(clean), code=ruling.code, read=read, decisions=self.decisions
            )
            if found.code is not None:
                return Refused(code=found.code, owner=owner, preview=found.preview)
            reviewed = found.reviewed
            if reviewed:
                clean = self._rebuilt(original, ruling, reviewed=True)
                masking.blank(clean, found.blank)
        if clean.file_meta.TransferSyntaxUID.is_compressed:
            # What no decoder accepts is no image, whatever its codestream carries.
            deque(stored_frames(clean), maxlen=0)
        _require_scale(original, clean)
        content = written(clean)
        if proof.survivors(proof.identifiers(original, key=self.key), content):
            return Refused(code=Quarantine.IDENTIFIER_LEFT, owner=owner)
        face = ruling.reason == "face"
        return Deidentified(
            content=content, dataset=clean, owner=owner, face=face, reviewed=reviewed
        )

    def _is_own(self, original: Dataset) -> bool:
        """Return whether patient and instance are names that this key made.

        That is no proof that the pixels are ours: whoever holds a file that this site
        gave away can put others under its names. They are still read for text.
        """
        instance = _text(original, "SOPInstanceUID")
        return (
            pseudonyms.is_own(self.key, _text(original, "PatientID"))
            and pseudonyms.uid(self.key, instance) == instance
        )

    def _require_own_patient(self, original: Dataset) -> None:
        """Refuse a pseudonym of another key: no record of consent can be found by it."""
        patient = pseudonyms.plain(_text(original, "PatientID"))
        foreign = pseudonyms.looks_own(patient) and not pseudonyms.is_own(self.key, patient)
        if foreign and dates.is_septums(original):
            raise Rejected(Quarantine.NO_PATIENT)

    def _rebuilt(self, original: Dataset, ruling: Ruling, *, reviewed: bool) -> FileDataset:
        options = Options(
            dates=self.rules.dates,
            patient_characteristics=self.rules.patient_characteristics,
            # Of a loop, a person sees some pictures made of it, and not every frame.
            pixels_checked=reviewed and int(original.get("NumberOfFrames") or 1) == 1,
            faces_removed=False,
        )
        clean = rebuild(original, key=self.key, options=options)
        masking.crop(clean, ruling.keep)
        masking.colour(clean)
        return clean

    def _seen(self, clean: Dataset) -> verdict.Seen:
        def frames() -> verdict.Frames:
            for index, stored in enumerate(stored_frames(clean)):

                def display(index: int = index, stored: verdict.Stored = stored) -> verdict.Display:
                    values = frame_values(clean, index, stored)
                    return ocr.to_display(values.values, values.hidden)

                yield stored, display

        return verdict.see(frames(), count=int(clean.get("NumberOfFrames") or 1), key=self.key)


def _require_scale(original: Dataset, clean: Dataset) -> None:
    """Refuse an image whose scale is there and cannot be carried: without it, values are wrong."""
    for keyword in _SCALE:
        # As it stands: what is no number cannot be converted.
        element = original.get_item(keyword)
        if element is not None and element.value and keyword not in clean:
            raise Rejected(Quarantine.BAD_VALUES)


def _require_matching_frames(original: Dataset) -> None:
    """Refuse frames without a place of their own, or places without a frame (PS3.3 C.7.6.16)."""
    groups = original.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) != original.get("NumberOfFrames"):
        raise Rejected(Quarantine.MULTI_FRAME)


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return value.strip(" \0") if isinstance(value, str) else ""
