import contextlib
import io
import pickle
import zipfile

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from septum.errors import Code, SignatureError, WireError
from septum.signing import Purpose, SigningKey, verify
from septum.wire import (
    INSTRUCTION_FIELDS,
    METRICS,
    REFUSAL_FIELDS,
    RELEASE_FIELDS,
    Declined,
    Instruction,
    Release,
    decode_instruction,
    decode_refusal,
    decode_release,
    encode_instruction,
    encode_refusal,
    encode_release,
)

SECRET = "Mustermann^Erika"
HEX = "0123456789abcdef" * 4
KEY = SigningKey.from_seed(b"k" * 32)

vectors = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32))
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(allow_nan=False, allow_infinity=False)


def release(**changes):
    fields = {
        "study": HEX,
        "site": "north",
        "round": 1,
        "instruction": HEX,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        "ledger_head": HEX,
        "update": np.arange(4, dtype=np.float32),
        "metrics": {"steps": 3},
    }
    return Release(**(fields | changes))


def array(data, *, dtype="float32", shape=(4,), stype="numpy.ndarray"):
    return ArrayRecord({"vector": Array(dtype=dtype, shape=shape, stype=stype, data=data)})


def npy(vector):
    stored = io.BytesIO()
    np.save(stored, vector)
    return stored.getvalue()


def header(shape, descr="<f4", fortran=False):
    stored = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stored, {"descr": descr, "fortran_order": fortran, "shape": shape}
    )
    return stored.getvalue()


@given(
    vector=vectors,
    study=digests,
    round=st.integers(1, 2**62),
    deadline=st.integers(0, 2**62),
    signed=st.booleans(),
)
def test_an_instruction_survives_the_wire(vector, study, round, deadline, signed):
    sent = Instruction(study=study, round=round, model=vector, deadline=deadline)
    sent = sent.signed(KEY) if signed else sent
    got = decode_instruction(encode_instruction(sent))
    assert (got.study, got.round, got.model.tobytes()) == (study, round, vector.tobytes())
    assert (got.deadline, got.signature) == (deadline, sent.signature)
    assert got.digest == sent.digest
    assert got.statement == sent.statement


@given(
    vector=vectors,
    hexes=st.tuples(digests, digests, digests),
    site=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    round=st.integers(1, 2**62),
    numbers=st.tuples(finite, finite),
    metrics=st.fixed_dictionaries(
        {}, optional={"steps": st.integers(0, 2**62), "update_norm": finite}
    ),
)
def test_a_release_survives_the_wire(vector, hexes, site, round, numbers, metrics):
    sent = Release(
        study=hexes[0],
        site=site,
        round=round,
        instruction=hexes[1],
        noise_multiplier=numbers[0],
        max_grad_norm=numbers[1],
        ledger_head=hexes[2],
        update=vector,
        metrics=metrics,
    ).signed(KEY)
    got = decode_release(encode_release(sent))
    for name in RELEASE_FIELDS:
        assert getattr(got, name) == getattr(sent, name)
    assert got.metrics == metrics
    assert got.update.tobytes() == vector.tobytes()
    assert got.update.dtype == np.float32
    verify(KEY.public, Purpose.RELEASE, got.statement, got.signature)


@pytest.mark.parametrize("code", Code)
def test_every_refusal_survives_the_wire(code):
    said = Declined(code=code, site="north", instruction=HEX)
    for sent in (said, said.signed(KEY)):
        got = decode_refusal(encode_refusal(sent))
        assert got == sent
        assert got.statement == sent.statement


def changed_release():
    yield from (
        {"study": HEX[::-1]}, {"site": "south"}, {"round": 2}, {"instruction": HEX[::-1]},
        {"noise_multiplier": 1.5}, {"max_grad_norm": 2.0}, {"ledger_head": HEX[::-1]},
        {"update": np.arange(4, dtype=np.float32) + 1}, {"metrics": {}}, {"metrics": {"steps": 4}},
        {"metrics": {"steps": 3, "update_norm": 0.1}},
    )  # fmt: skip


def changed_instruction():
    yield from (
        {"study": HEX[::-1]}, {"round": 2}, {"deadline": 8}, {"model": np.zeros(4, np.float32)},
    )  # fmt: skip


def changed_refusal():
    yield from ({"code": Code.INTERNAL}, {"site": "south"}, {"instruction": HEX[::-1]})


def order(**changes):
    fields = {"study": HEX, "round": 1, "model": np.ones(4, np.float32), "deadline": 7}
    return Instruction(**(fields | changes))


def refusal(**changes):
    fields = {"code": Code.NO_POLICY, "site": "north", "instruction": HEX}
    return Declined(**(fields | changes))


SIGNED = {
    Purpose.RELEASE: (release, changed_release),
    Purpose.INSTRUCTION: (order, changed_instruction),
    Purpose.REFUSAL: (refusal, changed_refusal),
}


@pytest.mark.parametrize(
    ("purpose", "changes"),
    [(purpose, change) for purpose, (_, changes) in SIGNED.items() for change in changes()],
    ids=lambda value: value if isinstance(value, Purpose) else " ".join(value),
)
def test_a_signature_holds_for_what_was_said_and_for_no_other_value(purpose, changes):
    make, _ = SIGNED[purpose]
    said = make().signed(KEY)
    verify(KEY.public, purpose, said.statement, said.signature)
    with pytest.raises(SignatureError):
        verify(KEY.public, purpose, make(**changes).statement, said.signature)


def test_every_field_that_crosses_the_wall_is_under_the_signature():
    held = set(release(metrics={"steps": 1, "update_norm": 1.0}).statement)
    assert held == {*RELEASE_FIELDS, *(f"metric_{name}" for name in METRICS), "payload"} - {
        "signature"
    }
    assert set(order().statement) == {*INSTRUCTION_FIELDS, "model"} - {"signature"}
    assert set(refusal().statement) == set(REFUSAL_FIELDS) - {"signature"}


def test_an_order_repeated_with_a_new_deadline_is_the_same_order():
    assert order(deadline=1).digest == order(deadline=2).digest


def test_a_release_is_not_taken_for_a_refusal():
    assert decode_refusal(encode_release(release())) is None


def _instruction():
    return encode_instruction(Instruction(study=HEX, round=1, model=np.ones(4, np.float32)))


def _extra_record(content):
    content[SECRET] = ConfigRecord({"noise_multiplier": 0.0})


def _extra_field(content):
    content["instruction"]["noise_multiplier"] = 0.0


def _named_field(content):
    content["instruction"][SECRET] = SECRET


def _missing_field(content):
    del content["instruction"]["round"]


def _missing_record(content):
    del content["model"]


def _text_round(content):
    content["instruction"]["round"] = SECRET


def _early_deadline(content):
    content["instruction"]["deadline"] = -1


def _named_signature(content):
    content["instruction"]["signature"] = SECRET


def _true_round(content):
    content["instruction"]["round"] = True


def _zero_round(content):
    content["instruction"]["round"] = 0


def _path_study(content):
    content["instruction"]["study"] = "../../" + SECRET


def _newline_study(content):
    content["instruction"]["study"] = HEX + "\n"


def _swapped_kinds(content):
    content["model"] = ConfigRecord({"vector": SECRET})


def _config_as_array(content):
    content["instruction"] = array(npy(np.ones(4, np.float32)))


def _two_vectors(content):
    content["model"]["more"] = Array(np.ones(4, np.float32))


@pytest.mark.parametrize(
    "spoil",
    [
        _extra_record, _extra_field, _named_field, _missing_field, _missing_record, _text_round,
        _true_round, _zero_round, _path_study, _newline_study, _swapped_kinds, _config_as_array,
        _two_vectors, _early_deadline, _named_signature,
    ],
    ids=lambda f: f.__name__.strip("_"),
)  # fmt: skip
def test_an_instruction_outside_the_tables_is_refused_unquoted(spoil):
    content = _instruction()
    spoil(content)
    with pytest.raises(WireError) as refused:
        decode_instruction(content)
    assert SECRET not in str(refused.value)
    assert "noise_multiplier" not in str(refused.value)


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def _zip():
    stored = io.BytesIO()
    np.savez(stored, vector=np.ones(4, np.float32))
    return stored.getvalue()


def _broken_zip():
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a.npy", b"nothing")
    return stored.getvalue()[:-4]


PAYLOADS = {
    "pickle": array(pickle.dumps(_Bomb())),
    "pickled object array": array(header((4,), "|O") + pickle.dumps(np.array([_Bomb()] * 4))),
    "zip archive": array(_zip()),
    "broken zip archive": array(_broken_zip()),
    "empty": array(b""),
    "text": array(SECRET.encode()),
    "header that is not Python": array(b"\x93NUMPY\x01\x00\x06\x00{'a':("),
    "header of another version": array(b"\x93NUMPY\x09\x00" + header((4,))[8:] + bytes(16)),
    "header that declares terabytes": array(header((2**40,)) + bytes(16)),
    "declared and stored length differ": array(npy(np.ones(5, np.float32))),
    "cut off": array(npy(np.ones(4, np.float32))[:-1]),
    "trailing bytes": array(npy(np.ones(4, np.float32)) + SECRET.encode()),
    "another dtype inside": array(npy(np.ones(4, np.int32))),
    "big endian inside": array(npy(np.ones(4, ">f4"))),
    "half the values at float64": array(npy(np.ones(2, np.float64))),
    "another shape inside": array(npy(np.ones((2, 2), np.float32))),
    "declared float64": array(npy(np.ones(4)), dtype="float64"),
    "declared dtype is text": array(npy(np.ones(4, np.float32)), dtype=SECRET),
    "declared serialisation is text": array(npy(np.ones(4, np.float32)), stype=SECRET),
    "two axes": array(npy(np.ones((2, 2), np.float32)), shape=(2, 2)),
    "no axes": array(npy(np.float32(1)), shape=()),
    "no values": array(npy(np.ones(0, np.float32)), shape=(0,)),
    "negative length": array(npy(np.ones(4, np.float32)), shape=(-1,)),
    "huge declared length": array(npy(np.ones(4, np.float32)), shape=(2**60,)),
}  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("record", ["model", "update"])
def test_a_payload_that_is_not_one_float32_vector_is_refused_unquoted(payload, record):
    content = _instruction() if record == "model" else encode_release(release())
    content[record] = payload
    with pytest.raises(WireError) as refused:
        (decode_instruction if record == "model" else decode_release)(content)
    assert SECRET not in str(refused.value)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_wire_error(tail, patch):
    whole = npy(np.ones(4, np.float32))
    for data in (
        tail,
        b"\x93NUMPY\x01\x00" + tail,
        b"PK\x03\x04" + tail,
        patch + whole[len(patch) :],
    ):
        content = encode_release(release())
        content["update"] = array(data)
        with contextlib.suppress(WireError):
            decode_release(content)


@pytest.mark.parametrize("name", RELEASE_FIELDS)
def test_a_release_lacking_a_field_is_refused(name):
    content = encode_release(release())
    del content["release"][name]
    with pytest.raises(WireError):
        decode_release(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("study", SECRET),
        ("site", SECRET),
        ("instruction", HEX.upper()),
        ("ledger_head", HEX[:-1]),
        ("signature", SECRET),
        ("signature", HEX),
        ("round", 1.0),
        ("noise_multiplier", 1),
        ("noise_multiplier", float("nan")),
        ("max_grad_norm", float("inf")),
        ("patients", 120),
    ],
)
def test_a_release_field_of_another_form_is_refused_unquoted(name, value):
    content = encode_release(release())
    content["release"][name] = value
    with pytest.raises(WireError) as refused:
        decode_release(content)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "metrics",
    [
        ConfigRecord({"loss": 0.3}),
        ConfigRecord({"steps": 3, "patients": 40}),
        ConfigRecord({"steps": 3.0}),
        ConfigRecord({"update_norm": float("nan")}),
        ConfigRecord({"steps": SECRET}),
        MetricRecord({"steps": 3}),
        ArrayRecord({"steps": Array(np.ones(1, np.float32))}),
    ],
    ids=["loss", "patients", "float steps", "NaN", "text", "metric record", "array record"],
)
def test_a_metric_outside_the_allow_list_is_refused(metrics):
    content = encode_release(release())
    content["metrics"] = metrics
    with pytest.raises(WireError) as refused:
        decode_release(content)
    assert SECRET not in str(refused.value)


def _refused(**changes):
    fields = {"code": "SITE_201", "site": "north", "instruction": HEX, "signature": ""}
    return ConfigRecord({k: v for k, v in (fields | changes).items() if v is not None})


@pytest.mark.parametrize(
    "content",
    [
        {"refusal": _refused(code=SECRET)},
        {"refusal": _refused(site=SECRET)},
        {"refusal": _refused(reason=SECRET)},
        {"refusal": _refused(code="DATA_101")},
        {"refusal": _refused(site=None)},
        {"refusal": _refused(instruction=SECRET)},
        {"refusal": _refused(instruction="")},
        {"refusal": _refused(signature=SECRET)},
        {"refusal": _refused(), SECRET: ConfigRecord({})},
        {"refusal": MetricRecord({"code": 201})},
    ],
    ids=[
        "code is text", "site is text", "reason", "another list", "no site", "order is text",
        "no order", "signature is text", "more", "metrics",
    ],
)  # fmt: skip
def test_a_refusal_that_says_anything_but_a_code_is_refused_unquoted(content):
    with pytest.raises(WireError) as refused:
        decode_refusal(RecordDict(content))
    assert SECRET not in str(refused.value)


def test_the_allow_list_holds_no_statistic_of_patients():
    # A deliberate tripwire: widening it is a privacy decision, to be made in review.
    assert set(METRICS) == {"steps", "update_norm"}
    assert set(RELEASE_FIELDS) == {
        "study", "site", "round", "instruction", "noise_multiplier", "max_grad_norm", "ledger_head",
        "signature",
    }  # fmt: skip
    assert set(REFUSAL_FIELDS) == {"code", "site", "instruction", "signature"}


@given(st.lists(st.sampled_from(["study", "round", "model"]), min_size=1, unique=True), vectors)
def test_an_instruction_digest_covers_study_round_and_model(changed, vector):
    one = Instruction(study=HEX, round=1, model=vector)
    two = Instruction(
        study=HEX[::-1] if "study" in changed else HEX,
        round=2 if "round" in changed else 1,
        model=np.append(vector, np.float32(1)) if "model" in changed else vector,
    )
    assert one.digest != two.digest
