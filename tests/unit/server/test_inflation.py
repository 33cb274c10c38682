"""A reply's arrays grow no larger than a release, however little was sent to make them."""

import hashlib
import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from septum.errors import WireError
from septum_server.inflation import at_most

MIB = 1 << 20


def named(kind, children, body):
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
    return hashlib.sha256(content).hexdigest(), content


def array(*, chunk, times):
    name, content = named("ArrayChunk", [], bytes(chunk))
    body = {"dtype": "float32", "shape": [1], "stype": "numpy.ndarray"}
    whole = json.dumps(body | {"arraychunk_ids": [0] * times}).encode()
    made, text = named("Array", [name], whole)
    return made, {name: content, made: text}


def test_one_small_chunk_named_often_is_refused_before_it_is_made_large():
    name, contents = array(chunk=65_536, times=2_000)
    with at_most(8 * MIB), pytest.raises(WireError, match="more than 8388608 bytes"):
        inflate_object_from_contents(name, dict(contents))
    # The control: without the limit, Flower makes 125 MiB of 70 KiB.
    assert len(inflate_object_from_contents(name, dict(contents)).data) == 2_000 * 65_536


def test_many_arrays_share_one_allowance_and_the_next_reply_has_a_new_one():
    name, contents = array(chunk=MIB, times=3)
    with at_most(8 * MIB) as allowance:
        for _ in range(2):
            inflate_object_from_contents(name, dict(contents))
        with pytest.raises(WireError):
            inflate_object_from_contents(name, dict(contents))
        allowance.renew()
        inflate_object_from_contents(name, dict(contents))


def test_an_honest_reply_of_several_chunks_passes_whole():
    vector = np.random.default_rng(0).standard_normal(3 * MIB, dtype=np.float32)
    sent = RecordDict({"update": ArrayRecord({"vector": Array(vector)})})
    objects = get_all_nested_objects(sent)
    with at_most(vector.nbytes + 6 * MIB):
        made = inflate_object_from_contents(
            sent.object_id, {name: one.deflate() for name, one in objects.items()}
        )
    assert np.array_equal(made["update"]["vector"].numpy(), vector)
