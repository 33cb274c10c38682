import io
import json
import os
import struct
import sys
import time
import traceback
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from septum.errors import EngineError, Quarantine
from septum_client.rules import Intake
from septum_client.sandbox import frames, pool
from septum_client.sandbox.pool import STOPPED, Answer, Pool, Task
from septum_client.sandbox.settings import settings

NAME = "Lindqvist^Anna"
RULES = Intake(burned_in_text="header", synthetic="include")
TOLD = settings(b"k" * 32, rules=RULES, decisions={}, image_size=16)

# The real child, with verbs that do what a hostile file could make a parser do.
ODD = """
import os, sys, time
from septum_client import reading
from septum_client.sandbox import child

seen = []

def verb(function):
    reading.VERBS[function.__name__] = function

@verb
def abort(settings, fields, body):
    os.abort()

@verb
def hang(settings, fields, body):
    time.sleep(600)

@verb
def fill(settings, fields, body):
    return {"bytes": len(bytearray(fields["bytes"]))}, b""

@verb
def fail(settings, fields, body):
    raise RuntimeError(body.decode())

@verb
def echo(settings, fields, body):
    return {"fields": fields, "pid": os.getpid()}, body

@verb
def chatter(settings, fields, body):
    print(body.decode(), flush=True)
    print(body.decode(), file=sys.stderr, flush=True)
    os.write(1, body)
    os.write(2, body)
    return {}, b""

@verb
def told(settings, fields, body):
    if not any(settings is one for one in seen):
        seen.append(settings)
    return {"times": len(seen), "size": settings.image_size}, b""

@verb
def write(settings, fields, body):
    os.write(os.open(fields["path"], os.O_WRONLY | os.O_CREAT), b"x")
    return {}, b""

child.main()
"""

# A child that a file took over: it answers whatever the body says.
LYING = """
import os, sys, time
from septum_client.sandbox.frames import pack, unpack

def exactly(size):
    found = sys.stdin.buffer.read(size)
    if len(found) < size:
        sys.exit()
    return found

while True:
    asked, body = unpack(exactly)
    if asked["verb"] in ("ready", "settings"):
        os.write(1, b"".join(pack({})))
    elif asked["verb"] == "deaf":
        os.write(1, b"".join(pack({"pid": os.getpid()})))
        time.sleep(600)
    else:
        os.write(1, body)
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("children")
    for name, text in (("odd", ODD), ("lying", LYING)):
        (folder / f"{name}.py").write_text(text)
    return folder


def pool_of(scripts, name, workers=1, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_COMMAND", (sys.executable, "-P", str(scripts / f"{name}.py")))
        made = Pool(workers, **kwargs)
        # A child is started when it is first needed, so that must be now.
        tasks = [Task(verb="ready")] * (3 * workers)
        assert all(not answer.fields for answer in made.map(tasks, settings=TOLD))
        return made


class Restarting:
    """A pool whose later children are started from the same script."""

    def __init__(self, scripts, name, monkeypatch, **kwargs):
        monkeypatch.setattr(pool, "_COMMAND", (sys.executable, "-P", str(scripts / f"{name}.py")))
        self.pool = Pool(**kwargs)

    def ask(self, *tasks, told=TOLD):
        return list(self.pool.map(tasks, settings=told))


@pytest.fixture
def odd(scripts, monkeypatch):
    made = Restarting(scripts, "odd", monkeypatch, memory_bytes=2**31)
    yield made
    made.pool.close()


@pytest.fixture
def lying(scripts, monkeypatch):
    made = Restarting(scripts, "lying", monkeypatch)
    yield made
    made.pool.close()


def gone(pid):
    ended = time.monotonic() + 10
    stat = Path("/proc", str(pid), "stat")
    while time.monotonic() < ended:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
    return False


def echo(number):
    return Task(verb="echo", fields={"number": number}, body=bytes([number]) * 3)


def test_a_child_that_crashes_hangs_fails_or_fills_the_memory_costs_one_answer_each(odd, capfd):
    code = Quarantine.WORKER_STOPPED
    faults = [
        Task(verb="abort"),
        Task(verb="hang", seconds=0.5),
        Task(verb="fail", body=NAME.encode()),
        Task(verb="fill", fields={"bytes": 2**32}),
        Task(verb="no such verb"),
    ]
    tasks = [task for n, fault in enumerate(faults) for task in (echo(n), fault)]
    tasks.insert(3, Answer(fields={"code": "DATA_101"}))
    began = time.monotonic()
    answers = odd.ask(*tasks, echo(9))
    assert time.monotonic() - began < 60
    assert answers.pop(3).fields == {"code": "DATA_101"}
    assert [answer.fields["code"] for answer in answers[1::2]] == [code.value] * len(faults)
    numbers = [answer.fields["fields"]["number"] for answer in answers[::2]]
    assert numbers == [*range(len(faults)), 9]
    assert [answer.body for answer in answers[::2]] == [bytes([n]) * 3 for n in numbers]
    assert NAME not in "".join(capfd.readouterr())


def test_what_a_child_prints_goes_nowhere_and_spoils_no_answer(odd, capfd):
    answers = odd.ask(Task(verb="chatter", body=NAME.encode()), echo(1))
    assert (answers[0].fields, answers[1].body) == ({}, b"\1\1\1")
    assert NAME not in "".join(capfd.readouterr())


def test_settings_are_told_once_and_again_when_they_change(odd):
    told = Task(verb="told")
    other = settings(b"k" * 32, rules=RULES, decisions={}, image_size=32)
    first = [answer.fields for answer in odd.ask(told, told, told)]
    assert first == [{"times": 1, "size": 16}] * 3
    assert [answer.fields for answer in odd.ask(told, told)] == first[:2]
    assert odd.ask(told, told=other)[0].fields == {"times": 2, "size": 32}
    assert odd.ask(Task(verb="abort"), told, told=other)[1].fields == {"times": 1, "size": 32}


def test_a_child_cannot_write_a_file(odd, tmp_path):
    written = tmp_path / "written"
    (answer,) = odd.ask(Task(verb="write", fields={"path": str(written)}))
    assert answer == STOPPED
    assert not written.exists() or written.read_bytes() == b""


def test_the_children_end_when_the_pool_closes_and_when_the_pipe_does(odd):
    (answer,) = odd.ask(echo(1))
    odd.pool.close()
    assert gone(answer.fields["pid"])


def test_what_nobody_waits_for_any_more_is_stopped(odd):
    tasks = [echo(1), *[Task(verb="hang", seconds=600)] * 3]
    rest = odd.pool.map(tasks, settings=TOLD)
    assert next(rest).body == b"\1\1\1"
    began = time.monotonic()
    rest.close()
    assert odd.ask(echo(2))[0].body == b"\2\2\2"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_of_answers_is_that_of_the_tasks_whatever_the_workers(scripts, workers):
    made = pool_of(scripts, "lying", workers)
    tasks = [
        Task(verb="raw", body=b"".join(frames.pack({"n": n}, bytes(n)))) if n % 3 else
        Answer(fields={"n": n}, body=bytes(n))
        for n in range(40)
    ]  # fmt: skip
    answers = list(made.map(iter(tasks), settings=TOLD))
    made.close()
    assert [(a.fields["n"], len(a.body)) for a in answers] == [(n, n) for n in range(40)]


def header(text):
    return frames.LENGTHS.pack(len(text), 0) + text


@pytest.mark.parametrize(
    "said",
    [
        frames.LENGTHS.pack(frames.MAX_HEADER + 1, 0),
        frames.LENGTHS.pack(2, frames.MAX_BODY + 1) + b"{}",
        struct.pack(">IQ", 2**32 - 1, 2**64 - 1),
        header(b"[1]"),
        header(NAME.encode()),
        header(b"\xff\xfe"),
        header(b"[" * 200_000),
        header(json.dumps({"code": NAME}).encode()),
        header(json.dumps({"code": ["DATA_101"]}).encode()),
        b"\0\0",
    ],
    ids=["header", "body", "both", "array", "text", "bytes", "nested", "code", "list", "short"],
)
def test_an_answer_that_is_not_one_is_a_stopped_worker_and_quotes_nothing(lying, said):
    good = Task(verb="raw", body=b"".join(frames.pack({}, b"fine")))
    bad = Task(verb="raw", body=said, seconds=2)
    answers = lying.ask(bad, good)
    assert answers[0] == STOPPED
    assert answers[1].body == b"fine"
    assert NAME not in repr(bad) + repr(answers)


def test_a_child_that_reads_no_more_holds_nobody_up(lying):
    (answer,) = lying.ask(Task(verb="deaf"))
    began = time.monotonic()
    # More than a pipe holds.
    (stopped,) = lying.ask(Task(verb="raw", body=bytes(2**22), seconds=1))
    assert stopped == STOPPED
    assert time.monotonic() - began < 30
    assert gone(answer.fields["pid"])


def test_a_child_that_cannot_start_is_said_once_and_in_one_sentence(scripts, monkeypatch):
    (scripts / "broken.py").write_text(f"raise SystemExit({NAME!r})")
    broken = Restarting(scripts, "broken", monkeypatch)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            broken.ask(echo(1))
        assert caught.value.remedy
        assert NAME not in "".join(traceback.format_exception(caught.value))
    broken.pool.close()


def test_a_frame_comes_back_as_it_went():
    stream = io.BytesIO(b"".join(frames.pack({"a": [1, "ü"]}, b"body")))
    assert frames.unpack(stream.read) == ({"a": [1, "ü"]}, b"body")


# Real files through the real child.


def prepared(data):
    task = Task(verb="prepare", fields={"kind": "dicom"}, body=data, seconds=60)
    (answer,) = pool.shared(1).map([task], settings=TOLD)
    return answer


def written(ds):
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_a_real_file_comes_back_as_training_values_and_pseudonyms(dcm):
    data = written(dcm.header(patient=NAME, instance="1.2.3.44"))
    answer = prepared(data)
    values = np.frombuffer(answer.body, dtype="<f2")
    assert (values.size, answer.fields["frames"]) == (256, [0])
    assert 0 <= values.min() < values.max() <= 1
    assert NAME not in json.dumps(dict(answer.fields))
    assert "1.2.3.44" not in json.dumps(dict(answer.fields))


def test_a_bomb_a_maze_and_a_giant_are_refused_in_time(dcm):
    small = written(dcm.header(patient=NAME))
    bomb = dcm.header(patient=NAME)
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = b"\x08\x00\x08\x00UT\x00\x00" + struct.pack("<I", 2**31 - 2)
    packed = deflater.compress(zeros)
    packed += b"".join(deflater.compress(bytes(2**20)) for _ in range(700)) + deflater.flush()
    head = written(bomb)
    meta_length = struct.unpack("<I", head[140:144])[0]
    deflated = head[: 144 + meta_length] + packed

    maze = dcm.header(patient=NAME)
    inner = Dataset()
    for _ in range(200):
        outer = Dataset()
        outer.OtherPatientIDsSequence = Sequence([inner])
        inner = outer
    maze.OtherPatientIDsSequence = Sequence([inner])

    giant = dcm.header(patient=NAME, Rows=65535, Columns=65535)
    began = time.monotonic()
    answers = [prepared(data) for data in (deflated, written(maze), written(giant), b"", small)]
    assert time.monotonic() - began < 60
    codes = [answer.fields.get("code") for answer in answers]
    assert codes[0] == Quarantine.EXPANDS.value
    assert codes[1] in {Quarantine.TOO_LARGE.value, Quarantine.NOT_DICOM.value}
    assert codes[2] in {Quarantine.TOO_LARGE.value, Quarantine.TRUNCATED.value}
    assert codes[3] == Quarantine.NOT_DICOM.value
    assert codes[4] is None
    assert all(not answer.body for answer in answers[:4])


def test_a_path_that_is_no_file_blocks_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    task = Task(
        verb="prepare", fields={"kind": "dicom", "path": str(tmp_path / "pipe")}, seconds=20
    )
    (answer,) = pool.shared(1).map([task], settings=TOLD)
    assert answer.fields["code"] == Quarantine.UNREADABLE.value
