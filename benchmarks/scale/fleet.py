"""Many small hospitals in one process: Flower's fleet protocol and signed releases, no torch.

    .venv/bin/python benchmarks/scale/fleet.py PLAN FIRST LAST

Started by ``load.py``, which writes the plan. Each hospital is a thread with its own node
key, signing key, TLS connection and address (127.1.0.0/16). It asks as a hospital's own
SuperNode does, by ``septum_client.supernode``, with heartbeats beside it, and answers an order
at once with noise as loud as the study's. Ends when its input does, and prints what it was
answered.
"""

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from septum.signing import SigningKey
from septum.wire import Release, decode_instruction, encode_release

# isort: split
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supernode import fleet_http_connection

from septum_client.supernode import Held

POLL_S = 3.0  # Flower's SuperNode waits as long
HERE = threading.local()
SEEN: Counter[str] = Counter()
LOCK = threading.Lock()


def name_of(number: int) -> str:
    return f"site-{number:03d}"


def signing_of(number: int) -> SigningKey:
    return SigningKey.from_seed(number.to_bytes(32, "big"))


def node_of(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(1000 + number, ec.SECP384R1())  # known to all: a load test's


class Counted(Held):
    """A hospital's connection, from its own address, with its answers counted."""

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._client.close()
        way = httpx.HTTPTransport(verify=options["verify"], local_address=HERE.address)
        patience = self._client.timeout
        self._client = httpx.Client(transport=way, timeout=patience, trust_env=False)

    def _send(self, context: Any, *, stream: bool = False) -> httpx.Response:
        kind = "lost"
        try:
            answer = super()._send(context, stream=stream)
            kind = str(answer.status_code)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise
        finally:
            with LOCK:
                SEEN[kind] += 1
        return answer


class Hospital(threading.Thread):
    """One hospital."""

    def __init__(self, plan: dict[str, Any], number: int, over: threading.Event) -> None:
        super().__init__(name=name_of(number), daemon=True)
        self.plan, self.number, self.over = plan, number, over

    def run(self) -> None:
        """Ask and answer; begin again where Flower's own SuperNode ends and is started again."""
        HERE.address = "127.0.0.1"
        if not self.plan["one_address"]:
            HERE.address = f"127.1.{self.number >> 8}.{self.number & 255}"
        private = node_of(self.number)
        time.sleep(POLL_S * self.number / self.plan["sites"])  # not all at the same moment
        while not self.over.is_set():
            try:
                self.serve(private)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - counted, whatever it was
                with LOCK:
                    SEEN[f"begun again after {type(error).__name__}"] += 1
                self.over.wait(POLL_S)

    def serve(self, private: ec.EllipticCurvePrivateKey) -> None:
        """Ask and answer over one connection."""
        with fleet_http_connection.http_request_response(
            self.plan["address"],
            insecure=False,
            root_certificates=self.plan["ca"].encode(),
            authentication_keys=(private, private.public_key()),
        ) as (_, receive, send, get_run, get_fab, pull, push, confirm):
            known: set[int] = set()
            while not self.over.is_set():
                if (got := receive()) is None:
                    self.over.wait(POLL_S)
                    continue
                head, tree = got
                run = head.metadata.run_id
                if run not in known:
                    get_fab(get_run(run).fab_hash, run)
                    known.add(run)
                asked = pull_and_inflate_object_from_tree(
                    tree,
                    lambda name, run=run: pull(run, name),
                    lambda name, run=run: confirm(run, name),
                    return_type=Message,
                )
                asked.metadata.__dict__["_message_id"] = tree.object_id
                said = self.answer(asked)
                said.metadata.__dict__["_message_id"] = said.object_id
                objects = get_all_nested_objects(said)
                missing, session = send(said, get_object_tree(said), 0.0)
                for name in missing:
                    push(run, session, name, objects[name].deflate())

    def answer(self, asked: Message) -> Message:
        """Return the release that an order asks for."""
        order = decode_instruction(asked.content)
        rng = np.random.default_rng([self.number, order.round])
        noise = rng.standard_normal(len(order.model), dtype=np.float32)
        release = Release(
            study=order.study,
            site=self.name,
            round=order.round,
            instruction=order.digest,
            noise_multiplier=self.plan["noise_multiplier"],
            max_grad_norm=self.plan["max_grad_norm"],
            ledger_head="0" * 64,
            update=noise * np.float32(self.plan["std"]),
        )
        return Message(encode_release(release.signed(signing_of(self.number))), reply_to=asked)


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    fleet_http_connection.__dict__["FleetHttpClient"] = Counted
    over = threading.Event()
    numbers = range(int(sys.argv[2]), int(sys.argv[3]))
    hospitals = [Hospital(plan, number, over) for number in numbers]
    for hospital in hospitals:
        hospital.start()
    sys.stdin.read()
    over.set()
    for hospital in hospitals:
        hospital.join(60)
    print(json.dumps({"answers": SEEN, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
