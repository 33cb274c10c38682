"""Two engines for the same two apps: one process of our own, or Flower's simulation on Ray.

This is the one file of the bench that speaks Flower, and the one file of the
project that touches private names of it (``Run``, ``TaskIdentity``).
"""

import functools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from septum.errors import EngineError
from septum_bench.plan import Engine
from septum_client.app import SiteApp
from septum_client.randomness import Source

_RUN_ID = 1
_SERVER = 1


class LocalGrid(Grid):
    """Flower's grid in one process: a pool of threads in place of a network.

    Nothing is written outside the sites' own directories and no socket is
    opened. Node ``i + 2`` is site ``i``: the numbers start above the server's.

    Args:
      app: The hospitals' ClientApp.
      sites: Number of hospitals.
      workers: Hospitals that train at the same time.
    """

    def __init__(self, app: ClientApp, *, sites: int, workers: int) -> None:
        self._app = app
        self._contexts = {
            _SERVER + 1 + index: Context(
                run_id=_RUN_ID,
                node_id=_SERVER + 1 + index,
                node_config={"partition-id": index, "num-partitions": sites},
                state=RecordDict(),
                run_config={},
            )
            for index in range(sites)
        }
        self._run = Run.create_empty(run_id=_RUN_ID)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="site")
        self._answers: dict[str, Future[Message]] = {}

    def set_run(self, run: Run) -> None:
        """Set the run this grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the hospitals' node numbers."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start each message's hospital as soon as a worker is free; return message ids."""
        names = []
        for message in messages:
            name = uuid4().hex
            message.metadata.__dict__["_message_id"] = name
            self._answers[name] = self._pool.submit(self._answer, message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are ready; each is handed out once."""
        ready = [
            name for name in message_ids if name in self._answers and self._answers[name].done()
        ]
        return [self._answers.pop(name).result() for name in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, wait until all have answered or the time is over, and return the answers.

        An interrupt lets hospitals that are training finish and record their
        round, so that a resumed study finds it instead of losing its charge.
        """
        names = list(self.push_messages(messages))
        try:
            wait([self._answers[name] for name in names], timeout=timeout)
        except KeyboardInterrupt:
            self._pool.shutdown(wait=True, cancel_futures=True)
            raise
        return self.pull_messages(names)

    def close(self) -> None:
        """Stop the workers; answers that nobody waits for are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            answer = self._app(message, context)
        except Exception as error:  # noqa: BLE001 - Flower's own client does the same, text included
            answer = Message(Error(code=2, reason=str(error)), reply_to=message)
        answer.metadata.__dict__["_message_id"] = uuid4().hex
        return answer


def run(
    server: ServerApp,
    sites: Sequence[Path],
    *,
    engine: Engine,
    workers: int,
    source: Source,
    home: Path,
) -> None:
    """Run a study's ServerApp against one ClientApp that stands for all ``sites``.

    Args:
      server: From :func:`septum_server.app.server_app`.
      sites: One site directory per simulated hospital.
      engine: ``local`` or ``ray``.
      workers: Hospitals that train at the same time.
      source: Randomness of the hospitals.
      home: Folder for what Flower writes under its home; used by Ray only.

    Raises:
      EngineError: The engine could not start, or a round could not be completed.
    """
    app = SiteApp(functools.partial(_locate, tuple(sites)), source=source)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if engine == "local":
        _run_local(server, app, sites=len(sites), workers=workers)
    else:
        _run_ray(server, app, sites=len(sites), workers=workers, home=home)


def _locate(sites: tuple[Path, ...], context: Context) -> Path:
    return sites[int(str(context.node_config["partition-id"]))]


def _run_local(server: ServerApp, app: ClientApp, *, sites: int, workers: int) -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, _SERVER
    grid = LocalGrid(app, sites=sites, workers=workers)
    try:
        with threads(workers):
            server(grid, _server_context())
    finally:
        grid.close()


@contextmanager
def threads(workers: int) -> Iterator[None]:
    """Share the machine's cores among ``workers`` that train side by side.

    One thread each beats all threads for each in turn.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_ray(server: ServerApp, app: ClientApp, *, sites: int, workers: int, home: Path) -> None:
    try:
        import ray  # noqa: F401, PLC0415 - optional: only this engine needs it
    except ImportError:
        raise EngineError(
            "the Ray engine is not installed.", remedy="Install septum[bench], or use local."
        ) from None
    home.mkdir(parents=True, exist_ok=True)
    os.environ["FLWR_HOME"] = str(home)
    from flwr.simulation import run_simulation  # noqa: PLC0415 - imports Ray

    cpus = os.cpu_count() or 1
    address = os.environ.get("RAY_ADDRESS")
    start: Any = (  # Flower types the values of this dictionary as one closed union
        {"address": address}
        if address
        else {"num_cpus": max(cpus, workers), "log_to_driver": False}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            run_simulation(
                server_app=server,
                client_app=app,
                num_supernodes=sites,
                backend_config={
                    "init_args": start,
                    "client_resources": {"num_cpus": max(1, cpus // workers), "num_gpus": 0.0},
                },
            )
    except RuntimeError as error:
        raise EngineError(
            f"the Ray engine stopped ({type(error).__name__}).",
            remedy="Look at Ray's own log, or use --engine local.",
        ) from error


def _server_context() -> Context:
    return Context(
        run_id=_RUN_ID, node_id=_SERVER, node_config={}, state=RecordDict(), run_config={}
    )
