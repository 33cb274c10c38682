import copy
import json
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import DataError
from septum_client.consent import fhir
from septum_client.consent.decisions import Use

SECRET = "MUELLER-1957"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"
CATEGORY = "http://terminology.hl7.org/CodeSystem/consentcategorycodes"
TODAY = date(2026, 6, 1)


def concept(system, code):
    return {"coding": [{"system": system, "code": code}]}


def purpose(*codes, system=REASON):
    return [{"system": system, "code": code} for code in codes]


RESEARCH = {"type": "permit", "purpose": purpose("HRESCH")}


def r4(provision=None, **changes):
    """Return an R4 Consent of P1 that permits research; a part given as None is left out."""
    said = {
        "resourceType": "Consent",
        "status": "active",
        "scope": concept(SCOPE, "patient-privacy"),
        "category": [concept("http://loinc.org", "59284-0")],
        "patient": {"identifier": {"value": "P1"}},
        "dateTime": "2026-01-02",
        "provision": {"type": "permit", "purpose": purpose("HRESCH")} | (provision or {}),
    } | changes
    return {key: value for key, value in said.items() if value is not None}


def r5(**changes):
    said = {
        "resourceType": "Consent",
        "status": "active",
        "decision": "deny",
        "subject": {"identifier": {"value": "P1"}},
        "date": "2026-01-02",
        "provision": [{"purpose": purpose("HRESCH")}],
    } | changes
    return {key: value for key, value in said.items() if value is not None}


def bundle(*resources, kind="collection"):
    return {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [{"fullUrl": f"urn:uuid:{n}", "resource": r} for n, r in enumerate(resources)],
    }


def read(*files):
    return fhir.read(
        [f if isinstance(f, bytes) else json.dumps(f).encode() for f in files], pseudonym=str
    )


def verdicts(*files, asked="HRESCH", today=TODAY):
    use = Use(names=frozenset({"s"}), purpose=asked, commercial=False, today=today)
    return [(each.pseudonym, each.rule.verdict(use)) for each in read(*files).records]


@pytest.mark.parametrize(
    "resource",
    [
        r4(),
        r4(dateTime="2026-01-02T03:04:05+02:00"),
        r4({"purpose": None}, scope=concept(SCOPE, "research")),
        r4({"purpose": None}, category=[concept(CATEGORY, "research")]),
        r4({"type": "deny", "purpose": None, "provision": [RESEARCH]}),
        r4({"period": {"start": "2026-01-01", "end": "2026-06-01"}}),
        r5(),
        r5(decision="permit", provision=None, category=[concept(CATEGORY, "research")]),
        r5(period={"start": "2026-06-01"}),
    ],
)  # fmt: skip
def test_a_consent_that_says_yes_in_full_permits(resource):
    resource = json.loads(json.dumps(resource))
    if resource.get("provision") and isinstance(resource["provision"], dict):
        resource["provision"] = {k: v for k, v in resource["provision"].items() if v is not None}
    assert verdicts(resource) == [("P1", True)]
    assert read(resource).not_understood == 0


@pytest.mark.parametrize(
    "resource",
    [
        r4({"type": "deny"}),
        r4({"provision": [{"type": "deny", "purpose": purpose("HRESCH")}]}),
        r4({"provision": [{"type": "deny"}]}),
        r5(provision=None),
        r5(decision="permit", category=[concept(CATEGORY, "research")]),
    ],
)
def test_a_consent_that_says_no_denies(resource):
    assert verdicts(resource) == [("P1", False)]
    assert read(resource).not_understood == 0


@pytest.mark.parametrize(
    "resource",
    [
        r4({"purpose": purpose("TREAT")}),
        r4({"purpose": purpose("HRESCH", system="http://example.org")}),
        r4({"period": {"start": "2026-07-01"}}),
        r4({"period": {"end": "2026-05-31"}}),
        r4(dateTime="2026-06-02"),
    ],
)
def test_a_permission_for_something_else_or_another_day_permits_nothing(resource):
    assert verdicts(resource) == [("P1", None)]


@pytest.mark.parametrize(
    "resource",
    [
        r4(provision={"type": "allow"}),
        r4({"actor": [{"role": {"text": "x"}, "reference": {"display": "x"}}]}),
        r4({"class": [{"code": "x"}]}),
        r4({"securityLabel": [{"code": "R"}]}),
        r4({"provision": [{"type": "deny", "code": [concept("x", "y")]}]}),
        r4({"period": {"start": "2025"}}),
        r4(status="unknown"),
        r4(status="rejected"),
        r4(status=None),
        r4(status=["active"]),
        r4(modifierExtension=[{"url": "http://x", "valueBoolean": True}]),
        r4({"modifierExtension": [{"url": "http://x", "valueBoolean": True}]}),
        r4(implicitRules="http://x"),
        r4(scope=None),
        r4(surprise=1),
        r4(subject={"identifier": {"value": "P1"}}),
        r5(decision="maybe"),
        r5(decision=None),
        r5(decision="permit", provision=None),
        r5(provision=[{"purpose": purpose("HRESCH"), "expression": {"language": "x"}}]),
    ],
)  # fmt: skip
def test_what_is_not_understood_denies_and_is_counted(resource):
    assert verdicts(resource) == [("P1", False)]
    assert read(resource).not_understood == 1
    assert read(resource).records[0].dated is None


def test_a_permission_without_a_purpose_is_not_for_research():
    treatment = r4(scope=concept(SCOPE, "treatment"))
    del treatment["provision"]["purpose"]
    assert verdicts(treatment) == [("P1", False)]


@pytest.mark.parametrize(
    "status", ["draft", "proposed", "inactive", "entered-in-error", "not-done"]
)
def test_a_consent_that_is_not_in_force_says_nothing(status):
    assert read(r4(status=status)).records == ()


def test_a_nested_permission_never_reaches_beyond_the_level_above():
    nested = {"type": "deny", "purpose": purpose("BIORCH"), "provision": [{"type": "permit"}]}
    assert verdicts(r4(nested), asked="BIORCH") == [("P1", True)]
    assert verdicts(r4(nested), asked="HRESCH") == [("P1", False)]
    wider = nested | {"provision": [RESEARCH]}
    assert verdicts(r4(wider), asked="HRESCH") == [("P1", False)]
    lapsed = r5(period={"end": "2026-05-31"})
    assert verdicts(lapsed) == [("P1", False)]


def test_each_level_of_r5_is_the_opposite_of_the_one_above():
    inner = {"purpose": purpose("CLINTRCH")}
    outer = {"purpose": purpose("HRESCH"), "provision": [inner]}
    assert verdicts(r5(provision=[outer]), asked="CLINTRCH") == [("P1", False)]
    assert verdicts(r5(provision=[outer]), asked="BIORCH") == [("P1", True)]


def test_deep_nesting_denies_and_does_not_crash():
    provision = {"type": "permit", "purpose": purpose("HRESCH")}
    for _ in range(40):
        provision = {"type": "permit", "purpose": purpose("HRESCH"), "provision": [provision]}
    assert verdicts(r4(provision)) == [("P1", False)]
    bomb = b'{"resourceType":"Consent","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(DataError):
        read(bomb)


def patient(*identifiers, number=None, **more):
    said = [{"value": value} for value in identifiers]
    if number:
        kind = concept("http://terminology.hl7.org/CodeSystem/v2-0203", "MR")
        said.append({"value": number, "type": kind})
    return {"resourceType": "Patient", "id": "a", "identifier": said} | more


def referring(make=r4, name="Patient/a", **changes):
    key = "patient" if make is r4 else "subject"
    return make(**{key: {"reference": name}}, **changes)


def test_a_patient_is_found_in_the_bundle_or_in_another_file():
    assert verdicts(bundle(patient("P7"), referring())) == [("P7", True)]
    assert verdicts(bundle(patient("P7"), referring(r5, "urn:uuid:0"))) == [("P7", True)]
    lines = b"\n".join(json.dumps(each).encode() for each in (referring(), referring(r5)))
    assert verdicts(lines, patient("P7")) == [("P7", True)] * 2


def test_the_record_number_is_chosen_among_several_identifiers():
    assert verdicts(bundle(patient("insurance", number="P7"), referring())) == [("P7", True)]


def test_a_permission_needs_one_certain_patient_and_a_denial_reaches_every_identifier():
    several = bundle(patient("A", "B"), referring())
    assert verdicts(several) == [("A", False), ("B", False)]
    assert read(several).not_understood == 1
    denied = bundle(patient("A", number="B"), referring(provision={"type": "deny"}))
    assert verdicts(denied) == [("A", False), ("B", False)]


def test_two_patients_of_one_name_are_not_told_apart():
    assert verdicts(bundle(patient("A"), referring()), patient("B")) == [("A", False), ("B", False)]


@pytest.mark.parametrize("who", [{}, {"reference": "Patient/b"}, {"display": SECRET}, None])
def test_a_consent_of_nobody_stops_everything_because_it_may_be_a_denial(who):
    with pytest.raises(DataError, match="resource 2 of FHIR file 1") as refused:
        read(bundle(patient("A"), r4(patient=who)))
    assert SECRET not in str(refused.value)


def test_two_versions_of_one_consent_deny_whichever_is_newer():
    old, new = r4(id="c"), r4(id="c", status="inactive")
    assert verdicts(old, new) == [("P1", False)]
    assert verdicts(old, old) == [("P1", True)] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"not json",
        json.dumps([r4()]).encode(),
        json.dumps(bundle(r4(), kind="history")).encode(),
        json.dumps(bundle(bundle(r4()))).encode(),
        b'{"resourceType":"Bundle","type":"collection","entry":[1]}',
        b'{"resourceType":"Bundle","type":"collection","entry":null}',
        json.dumps(r4()).encode()[:-3],
        json.dumps(r4()).encode() + b"\n{",
    ],
)
def test_a_file_that_is_not_fhir_is_refused_by_its_number(content):
    with pytest.raises(DataError, match="FHIR file 2 by name"):
        read(r4(), content)


values = st.none() | st.booleans() | st.integers(-1, 1) | st.text(max_size=5)
junk = values | st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=5), values)


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        yield from paths(part, (*path, key))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([r4({"type": "deny"}), r5(provision=None)]), st.data())
def test_a_denial_that_is_damaged_never_becomes_a_permission(resource, data):
    damaged = copy.deepcopy(resource)
    path = data.draw(st.sampled_from([p for p in paths(resource) if p]))
    at = damaged
    for key in path[:-1]:
        at = at[key]
    if data.draw(st.booleans()):
        at[path[-1]] = data.draw(junk)
    else:
        del at[path[-1]]
    try:
        said = verdicts(damaged)
    except DataError:
        said = []
    assert all(verdict is not True for _, verdict in said)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_permission_in_which_something_unknown_is_put_never_permits(data):
    resource = data.draw(st.sampled_from([r4(), r5()]))
    damaged = copy.deepcopy(resource)
    # Not the list of purposes: an unknown one beside a known one narrows nothing.
    places = [
        p for p in paths(resource) if p[:1] in {(), ("provision",)} and p[-1:] != ("purpose",)
    ]
    at = damaged
    for key in data.draw(st.sampled_from(places)):
        at = at[key]
    if isinstance(at, dict):
        at["condition"] = data.draw(junk)
    elif isinstance(at, list):
        at.append(data.draw(junk.filter(lambda value: value is not None)))
    else:
        return
    try:
        said = verdicts(damaged)
    except DataError:
        said = []
    assert all(verdict is not True for _, verdict in said)
