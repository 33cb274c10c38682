"""What a DICOM header itself says about consent: attributes (0012,0083) to (0012,0085).

PS3.3 C.7.2.3 (Clinical Trial Study Module): each item of the Consent for
Clinical Trial Use Sequence (0012,0083) states, for one Distribution Type
(0012,0084), whether consent to distribute was given (0012,0085): YES, NO or
WITHDRAWN.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from septum_client.consent.decisions import Declared

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SEQUENCE: Final = (0x0012, 0x0083)
_TYPE: Final = (0x0012, 0x0084)
_FLAG: Final = (0x0012, 0x0085)

# NAMED_PROTOCOL names somebody else's study, and RESTRICTED_REUSE does not say which
# restrictions: neither tells that this study is permitted. Both still carry a denial.
_PERMITS: Final = frozenset({"PUBLIC_RELEASE"})


def declared(original: "Dataset") -> int:
    """Return what one image says: a :class:`~septum_client.consent.decisions.Declared`.

    Guarantees:
      - NO or WITHDRAWN in any item, for any type of distribution, is ``DENIED``.
      - So is an item whose flag is absent or none of the three: it is required
        (type 1), and a consent that cannot be read is none.
      - ``PERMITTED`` needs YES for PUBLIC_RELEASE.
    """
    try:
        element = original.get(_SEQUENCE)
        items = [] if element is None or element.value is None else list(element.value)
        said = [(_word(item, _TYPE), _word(item, _FLAG)) for item in items]
    except Exception:  # noqa: BLE001 - a damaged element can raise anything when it is read
        return Declared.DENIED
    if any(flag != "YES" for _, flag in said):
        return Declared.DENIED
    return Declared.PERMITTED if _PERMITS & {kind for kind, _ in said} else Declared.NOTHING


def of_patient(images: Collection[int]) -> int:
    """Return what all images of one patient say together.

    Guarantees:
      - One image that denies speaks for all; a permission needs every image.
    """
    if any(said not in {Declared.NOTHING, Declared.PERMITTED} for said in images):
        return Declared.DENIED
    permitted = bool(images) and all(said == Declared.PERMITTED for said in images)
    return Declared.PERMITTED if permitted else Declared.NOTHING


def _word(item: "Dataset", tag: tuple[int, int]) -> str:
    element = item.get(tag)
    return "" if element is None or element.value is None else str(element.value).strip()
