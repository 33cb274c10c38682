import importlib.util
import re
from pathlib import Path

import pytest

from septum.models import MODELS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_lists_every_registered_network_and_no_other():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(MODELS)
    for name, network in MODELS.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert cells[0] == network.source
        assert cells[1] == ", ".join(sorted(network.tasks))
        assert [cell != "no" for cell in cells[2:4]] == [dims in network.dims for dims in (2, 3)]
        assert cells[5] == f"`{network.head}`"


@pytest.mark.slow
def test_the_page_says_what_becomes_of_each_network_now():
    path = ROOT / "benchmarks" / "models_page.py"
    spec = importlib.util.spec_from_file_location("models_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "run python benchmarks/models_page.py"
