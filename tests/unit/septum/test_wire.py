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

from septum.errors import Code, WireError
from septum.wire import (
    METRICS,
    RELEASE_FIELDS,
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


@given(vector=vectors, study=digests, round=st.integers(1, 2**62))
def test_an_instruction_survives_the_wire(vector, study, round):
    sent = Instruction(study=study, round=round, model=vector)
    got = decode_instruction(encode_instruction(sent))
    assert (got.study, got.round, got.model.tobytes()) == (study, round, vector.tobytes())
    assert got.digest == sent.digest


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
    )
    got = decode_release(encode_release(sent))
    for name in RELEASE_FIELDS:
        assert getattr(got, name) == getattr(sent, name)
    assert got.metrics == metrics
    assert got.update.tobytes() == vector.tobytes()
    assert got.update.dtype == np.float32


@pytest.mark.parametrize("code", Code)
def test_every_refusal_survives_the_wire(code):
    assert decode_refusal(encode_refusal(code, site="north")) == (code, "north")


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
        _two_vectors,
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


@pytest.mark.parametrize(
    "content",
    [
        {"refusal": ConfigRecord({"code": SECRET, "site": "north"})},
        {"refusal": ConfigRecord({"code": "SITE_201", "site": SECRET})},
        {"refusal": ConfigRecord({"code": "SITE_201", "site": "north", "reason": SECRET})},
        {"refusal": ConfigRecord({"code": "DATA_101", "site": "north"})},
        {"refusal": ConfigRecord({"code": "SITE_201"})},
        {"refusal": ConfigRecord({"code": "SITE_201", "site": "north"}), SECRET: ConfigRecord({})},
        {"refusal": MetricRecord({"code": 201})},
    ],
    ids=["code is text", "site is text", "reason", "another list", "no site", "more", "metrics"],
)
def test_a_refusal_that_says_anything_but_a_code_is_refused_unquoted(content):
    with pytest.raises(WireError) as refused:
        decode_refusal(RecordDict(content))
    assert SECRET not in str(refused.value)


def test_the_allow_list_holds_no_statistic_of_patients():
    # A deliberate tripwire: widening it is a privacy decision, to be made in review.
    assert set(METRICS) == {"steps", "update_norm"}
    assert set(RELEASE_FIELDS) == {
        "study", "site", "round", "instruction", "noise_multiplier", "max_grad_norm", "ledger_head",
    }  # fmt: skip


@given(st.lists(st.sampled_from(["study", "round", "model"]), min_size=1, unique=True), vectors)
def test_an_instruction_digest_covers_study_round_and_model(changed, vector):
    one = Instruction(study=HEX, round=1, model=vector)
    two = Instruction(
        study=HEX[::-1] if "study" in changed else HEX,
        round=2 if "round" in changed else 1,
        model=np.append(vector, np.float32(1)) if "model" in changed else vector,
    )
    assert one.digest != two.digest
