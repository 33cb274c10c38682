"""The arrows between the zones, and the few doors to the outside."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import grimp
import pytest

PACKAGES = ("septum", "septum_client", "septum_server", "septum_strategies", "septum_bench")

# Who may import what directly; a name that ends in a dot is a whole package. A new name here
# is a decision, not a fix.
DOORS = {
    "flwr": {
        "septum.superexec",  # Flower's own, whose tasks get their token by the environment
        "septum.wire",
        "septum_client.app",
        "septum_client.guard",  # in place of Flower's own client process
        "septum_client.supernode",  # Flower's connection, without redirects
        "septum_server.app",
        "septum_server.asking",
        "septum_server.bridge",
        "septum_server.inflation",
        "septum_server.control",  # the Control API, which only Flower's own messages speak
        "septum_server.superlink",  # Flower's server, behind a gate
        "septum_server.uploads",  # Flower's server, told what an answer may take of its disk
        "septum_server.task",  # Flower's own program, ended with its parent
        "septum_bench.engine",
    },
    "pydicom": {
        "septum_client.imaging.",
        "septum_client.deid.",
        "septum_client.screening.",
        "septum_client.consent.declared",  # for the type alone
        "septum_client.pacs.inbox",  # reads what our own engine wrote
        "septum_client.masks.objects",
        "septum_bench.phantoms.headers",
        "septum_bench.phantoms.segmentations",
    },
    "gdcm": {"septum_client.imaging.compressed"},
    "fhir": {"septum_client.consent.fhir"},
    "pynetdicom": {"septum_client.pacs.association", "septum_client.pacs.meter"},
    "opacus": {
        "septum_client.clipping.",
        "septum_bench.opacus_defaults",  # what Opacus gives by itself, to compare with
    },
    "dp_accounting": {
        "septum.accounting",
        # The same curves, read as bounds on what an attack can reach.
        "septum_bench.audit.robustness",
        "septum_bench.audit.empirical_epsilon",
    },
    "ray": {"septum_bench.engine"},
    "sqlite3": {"septum_client.budget"},
    "socket": {
        "septum.forking",  # a pair of its own, over which tasks come
        "septum_client.node",
        "septum_client.pacs.meter",
        "septum_server.launch",  # whether its own ports listen
        "septum_server.listening",  # the edge's own
    },
    "requests": {"septum_client.pacs.archive"},
    "urllib3": {"septum_client.pacs.archive"},
    "http": {
        "septum_client.review_pixels.server",
        "septum_client.preflight_network",  # one empty request to the coordinator's address
    },
    "subprocess": {
        "septum.processes",
        "septum.superexec",
        "septum.forking",  # the program that it forks
        "septum_client.sandbox.pool",
        "septum_client.screening.ocr",
        "septum_client.screening.deface",
    },
    "httpx": {
        "septum_client.supernode",  # tells an outage from a wrong certificate
        "septum_client.guard",  # tells a SuperNode that is away from one that was started anew
        "septum_server.control",
        "septum_server.control_desk",
        "septum_server.edge",
        "septum_server.relay",
        "septum_server.asking",
    },
    "urllib": set(),
    "pickle": set(),
    # Reading DICOM and training each have one caller in a hospital.
    "septum_client.deid.engine": {
        "septum_client.reading",
        "septum_client.child_settings",
        "septum_client.plain_files",
        "septum_client.answers",
    },
    "septum_client.reading": {"septum_client.sandbox.child"},
    "septum_client.train": {
        "septum_client.gate",
        "septum_client.app",  # hands it to the gate
        "septum_client.preflight_pace",  # times it on made-up images; no cohort is opened
        "septum_bench.baselines",  # each hospital alone
        "septum_bench.unprotected",  # the same draws without privacy, to compare with
        # The auditor's side runs the client as it is, recorded, broken, or once more.
        "septum_bench.audit.",
        "septum_bench.attacks.",
        "septum_bench.conformance.",
        "septum_bench.faults",
        "septum_bench.faulty_clients",
    },
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_the_import_contracts_hold(root: Path) -> None:
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert linter, "import-linter is not installed"
    done = subprocess.run(
        [linter, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_process_that_keeps_the_cohort_has_no_parser_of_images(
    fresh_python: Callable[..., str],
) -> None:
    program = """
import sys
import septum_client.ingest, septum_client.check, septum_client.deidentification
parsers = {"pydicom", "gdcm", "nibabel", "openjpeg", "jpeg_ls", "rle", "PIL"}
print(sorted(parsers & set(sys.modules)))
"""
    assert fresh_python(program).strip() == "[]"


@pytest.mark.parametrize("guarded", sorted(DOORS))
def test_only_the_named_modules_open(guarded: str, graph: grimp.ImportGraph) -> None:
    found: set[str] = set()
    if guarded in graph.modules:
        found = set(graph.find_modules_that_directly_import(guarded))
    packages = tuple(door for door in DOORS[guarded] if door.endswith("."))
    assert {name for name in found if not name.startswith(packages or "\0")} <= DOORS[guarded]


def test_flower_is_reached_through_the_same_files_even_inside_functions(
    source: dict[str, str],
) -> None:
    speaking = {
        name for name, text in source.items() if "import flwr" in text or "from flwr" in text
    }
    stems = {door.rpartition(".")[2] + ".py" for door in DOORS["flwr"]}
    assert {Path(name).name for name in speaking} <= stems
    assert len(speaking) <= len(DOORS["flwr"])


def test_private_names_of_flower_stay_in_few_files(source: dict[str, str]) -> None:
    private = ("flwr.supercore", "flwr.common", "flwr.server.", "flwr.client.", "flwr.proto")
    assert {name for name, text in source.items() if any(module in text for module in private)} <= {
        "simulations/septum_bench/engine.py",
        "client/septum_client/supernode.py",  # the message it empties, the list of orders it keeps
        "client/septum_client/guard.py",  # how a task says that it lives, and when it gives up
        "septum/superexec.py",  # the one place where a task's program is started
        "server/septum_server/control.py",  # messages of the Control API have no public name
        "server/septum_server/uploads.py",  # what of its database an answer may take
        "server/septum_server/superlink.py",  # number and error of what it refuses
    }


def _imports_without(names: Iterable[str], blocked: Iterable[str]) -> str:
    return f"""
import importlib, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {set(blocked)!r}:
            raise ModuleNotFoundError(f'{{name}} is not in this zone', name=name)

sys.meta_path.insert(0, Wall())
for name in {sorted(names)!r}:
    importlib.import_module(name)
foreign = sorted(n for n in sys.modules if n.partition('.')[0] in {set(blocked)!r})
assert not foreign, foreign
"""


def _zone(modules: tuple[str, ...], *packages: str) -> list[str]:
    return [name for name in modules if name.partition(".")[0] in packages]


def test_a_hospital_runs_where_no_other_zone_is_installed(
    modules: tuple[str, ...], fresh_python: Callable[..., str]
) -> None:
    others = {"septum_bench", "septum_server", "septum_strategies"}
    bench_only = {"matplotlib", "ray", "skimage", "sklearn", "jinja2"}
    fresh_python(_imports_without(_zone(modules, "septum", "septum_client"), others | bench_only))


def test_the_coordinator_runs_where_no_hospital_and_no_bench_is_installed(
    modules: tuple[str, ...], fresh_python: Callable[..., str]
) -> None:
    others = {"septum_bench", "septum_client", "opacus", "pydicom", "ray"}
    zone = _zone(modules, "septum", "septum_server", "septum_strategies")
    fresh_python(_imports_without(zone, others))


def test_strategies_need_numpy_and_nothing_that_trains(
    modules: tuple[str, ...], fresh_python: Callable[..., str]
) -> None:
    zone = _zone(modules, "septum_strategies")
    fresh_python(_imports_without(zone, {"torch", "flwr", "monai", "opacus", "scipy"}))
