import json
import subprocess
import sys
from pathlib import Path

import pytest

# Tells what was imported, and on what Septum's own classes stand.
PROGRAM = """
import json, sys
if {lean}:
    from septum_client import lean
    lean.stand()
import opacus.optimizers.optimizer
from septum_client import app
from septum_client.clipping import PatientGradSampleModule, PatientOptimizer
print(json.dumps({{
    "files": sorted(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "opacus"),
    "bases": [kind.__mro__[1].__module__ for kind in (PatientGradSampleModule, PatientOptimizer)],
    "foreign": [name for name in ("scipy", "opacus.accountants") if name in sys.modules],
}}))
"""


@pytest.fixture
def told():
    def run(*, lean):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(lean=lean)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_process_that_answers_an_order_imports_no_more_of_opacus_than_it_uses(told):
    whole, part = told(lean=False), told(lean=True)
    assert whole["foreign"]
    assert not part["foreign"]
    assert part["bases"] == whole["bases"]
    assert set(part["files"]) < set(whole["files"])
    assert {Path(path).name for path in part["files"]} >= {"gsm_base.py", "optimizer.py"}
