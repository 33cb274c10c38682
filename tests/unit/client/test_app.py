import builtins
import errno
import logging
import os

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import Code
from septum.wire import decode_refusal, decode_release, encode_instruction, unread
from septum_bench.seeded import SeededSource
from septum_client import site as site_module
from septum_client.app import NAMELESS, SiteApp, from_node_config
from septum_client.budget import Ledger

PATIENT = "Mustermann^Erika 1964-08-12 MRN 4711"


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def context(folder, **run_config):
    return Context(
        run_id=1,
        node_id=2,
        node_config={"site": str(folder)},
        state=RecordDict(),
        run_config=run_config,
    )


def message(content, kind="train"):
    return Message(content, dst_node_id=2, message_type=kind)


def leak(study, **given):
    print(end="")
    raise RuntimeError(f"cannot read {PATIENT}")


def ask(folder, content, *, kind="train", train=None, **run_config):
    # Whose order it is, test_orders asks; here nobody signs.
    given = {"train": train} if train else {}
    app = SiteApp(from_node_config, source=SeededSource(1), unsigned=True, **given)
    return app(message(content, kind) if isinstance(content, RecordDict) else content,
               context(folder, **run_config))  # fmt: skip


def wire_bytes(reply):
    return message_to_proto(reply).SerializeToString()


def says(reply, code, site="north"):
    assert not reply.has_error()
    said = decode_refusal(reply.content)
    assert (said.code, said.site) == (code, site)


def test_a_patients_name_in_an_exception_never_passes_the_wall(tiny, tmp_path, caplog, capfd):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    with caplog.at_level(logging.DEBUG):
        reply = ask(site.folder, encode_instruction(tiny.instruction(study)), train=leak)
    says(reply, Code.INTERNAL)
    raw = wire_bytes(reply) + repr(vars(reply)).encode() + repr(reply.metadata).encode()
    out, err = capfd.readouterr()
    for word in PATIENT.split():
        assert word.encode() not in raw
        assert word not in caplog.text + out + err
    assert b"RuntimeError" not in raw
    assert PATIENT in (site.folder / "private.log").read_text()


@pytest.mark.parametrize("kind", ["query", "evaluate", "train.default"])
def test_other_messages_than_training_are_refused_unread(tiny, tmp_path, kind):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    content = encode_instruction(tiny.instruction(study))
    reply = ask(site.folder, content, kind=kind, train=leak)
    says(reply, Code.MESSAGE_NOT_ALLOWED)
    assert Ledger(site.ledger_path).charges() == []


def _undecodable():
    return {
        "nothing": RecordDict(),
        "a foreign record": RecordDict({PATIENT: ConfigRecord({PATIENT: PATIENT})}),
        "pickled model": RecordDict(
            {
                "model": ArrayRecord(
                    {"vector": Array("float32", (1,), "numpy.ndarray", PATIENT.encode())}
                ),
                "instruction": ConfigRecord(
                    {"study": "a" * 64, "round": 1, "deadline": 2**40, "signature": ""}
                ),
            }
        ),
    }


@pytest.mark.parametrize("content", _undecodable().values(), ids=_undecodable())
def test_content_that_cannot_be_decoded_gets_a_code(tiny, tmp_path, content, caplog, capfd):
    site = tiny.site(tmp_path / "s")
    asked = message(content)
    asked.metadata.__dict__["_message_id"] = "a message"
    reply = ask(site.folder, asked)
    says(reply, Code.FIELD_NOT_ALLOWED)
    assert decode_refusal(reply.content).instruction == unread("a message")
    out, err = capfd.readouterr()
    assert b"Mustermann" not in wire_bytes(reply)
    assert "Mustermann" not in caplog.text + out + err


def test_an_error_message_from_flower_gets_a_code(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    failed = Message(Error(code=0, reason=PATIENT), reply_to=message(RecordDict()))
    reply = ask(site.folder, failed)
    says(reply, Code.INTERNAL)
    assert b"Mustermann" not in wire_bytes(reply)


def test_a_missing_site_directory_gets_a_nameless_code(tiny, tmp_path, capfd):
    content = encode_instruction(tiny.instruction(tiny.study()))
    says(ask(tmp_path / PATIENT, content), Code.INTERNAL, NAMELESS)
    assert not (tmp_path / PATIENT).exists()
    reply = SiteApp(from_node_config)(
        message(content),
        Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={}),
    )
    says(reply, Code.INTERNAL, NAMELESS)
    assert "Mustermann" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ['"Mustermann Erika"', "[1]", "7.5"])
def test_a_site_file_that_was_spoiled_still_gets_a_code(tiny, tmp_path, name):
    site = tiny.site(tmp_path / "s")
    (site.folder / "site.toml").write_text(f"name = {name}\n")
    reply = ask(site.folder, encode_instruction(tiny.instruction(tiny.study())))
    says(reply, Code.INTERNAL, NAMELESS)


def test_a_full_disk_while_logging_changes_nothing_for_the_coordinator(tiny, tmp_path, monkeypatch):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    real = os.open

    def full(path, *rest, **more):
        if str(path).endswith("private.log"):
            raise OSError(errno.ENOSPC, PATIENT)
        return real(path, *rest, **more)

    monkeypatch.setattr(site_module.os, "open", full)
    reply = ask(site.folder, encode_instruction(tiny.instruction(study)), train=leak)
    says(reply, Code.INTERNAL)
    assert not (site.folder / "private.log").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(PATIENT),
        RecursionError(PATIENT),
        UnicodeDecodeError("utf-8", PATIENT.encode(), 0, 1, PATIENT),
        KeyError(PATIENT),
        ExceptionGroup(PATIENT, [ValueError(PATIENT)]),
        type(PATIENT, (Exception,), {})(PATIENT),
        type("Unprintable", (Exception,), {"__str__": lambda self: builtins.int("no")})(PATIENT),
        OSError(errno.ENOSPC, PATIENT),
    ],
    ids=lambda e: type(e).__name__[:14],
)
def test_any_kind_of_exception_becomes_the_same_code(tiny, tmp_path, error, caplog, capfd):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)

    def broken(study, **given):
        raise error

    reply = ask(site.folder, encode_instruction(tiny.instruction(study)), train=broken)
    says(reply, Code.INTERNAL)
    assert b"Mustermann" not in wire_bytes(reply)
    assert "Mustermann" not in caplog.text + "".join(capfd.readouterr())


def test_a_tampered_ledger_gets_its_own_code(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    site.ledger_path.write_bytes(b"not a ledger" * 200)
    reply = ask(site.folder, encode_instruction(tiny.instruction(study)), train=leak)
    says(reply, Code.LEDGER_INVALID)


def test_a_refusals_own_code_is_what_leaves(tiny, tmp_path):
    site = tiny.site(tmp_path / "s")
    other = tiny.study(purpose=PATIENT)
    reply = ask(site.folder, encode_instruction(tiny.instruction(other)), train=leak)
    says(reply, Code.UNKNOWN_STUDY)


def test_no_run_config_and_no_message_field_moves_privacy(tiny, tmp_path):
    study = tiny.study()
    plain, pushed = (tiny.site(tmp_path / name, study) for name in ("a", "b"))
    content = encode_instruction(tiny.instruction(study))
    config = {
        "noise_multiplier": 0.0, "noise-multiplier": 0.0, "max_grad_norm": 1e9, "epsilon": 1e9,
        "sampling_rate": 1.0, "steps_per_round": 999, "site": "/etc", "delta": 0.9, "seed": 1,
    }  # fmt: skip
    ask(pushed.folder, content, **config)
    ask(plain.folder, content)
    charges = [Ledger(site.ledger_path).charges() for site in (plain, pushed)]
    assert charges[0] == charges[1] == [study.mechanism("north").charge()]
    for name, value in config.items():
        spoilt = encode_instruction(tiny.instruction(study, round=2))
        spoilt["instruction"][name] = value
        says(ask(plain.folder, spoilt), Code.FIELD_NOT_ALLOWED)
    assert Ledger(plain.ledger_path).charges() == charges[0]


def test_nothing_but_the_allow_listed_fields_is_in_an_encoded_release(tiny, tmp_path):
    study = tiny.study()
    site = tiny.site(tmp_path / "s", study)
    reply = ask(site.folder, encode_instruction(tiny.instruction(study)))
    release = decode_release(reply.content)
    proto = message_to_proto(reply)
    assert not proto.error.reason
    found = {
        item.key: sorted(
            entry.key
            for record in (item.array_record, item.config_record, item.metric_record)
            for entry in record.items
        )
        for item in proto.content.items
    }
    assert found == {
        "metrics": ["steps"],
        "release": sorted(
            ["instruction", "ledger_head", "max_grad_norm", "noise_multiplier", "round",
             "signature", "site", "study"]
        ),
        "update": ["vector"],
    }  # fmt: skip
    assert release.update.nbytes + 128 == len(reply.content["update"]["vector"].data)
    raw = proto.SerializeToString()
    for secret in (site.key, str(site.folder).encode(), b"cohort", b"patients"):
        assert secret not in raw
