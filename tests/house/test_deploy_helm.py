"""The coordinator's chart, rendered by Helm itself where there is one.

That is the program `helm`, or Helm's own engine in an environment apart from
Septum's: `.venv-helm` at the root, or the interpreter SEPTUM_HELM_PYTHON names,
with the package helm-python-sdk in it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import septum

CHART = "deploy/helm/septum-coordinator"
VALUES = {"address": "fl.example.org:443"}

IN_PYTHON = """
import json, sys
from helm_python.chart import Chart, lint
asked = json.load(sys.stdin)
report = lint(asked["chart"], asked["values"], strict=True)
found = [m for m in report["messages"] if m["severity"] > 1]
if found or report["errors"]:
    sys.exit(json.dumps([found, report["errors"]]))
with Chart.load(asked["chart"]) as chart:
    made = chart.render(values=asked["values"], name="demo", namespace="trials")
print(json.dumps([text for path, text in made.items() if path.endswith(".yaml")]))
"""


def _by_program(helm: str, chart: Path, values: dict, folder: Path) -> list[str]:
    given = folder / "values.json"
    given.write_text(json.dumps(values), encoding="utf-8")
    for verb in (("lint", "--strict"), ("template", "demo")):
        words = [helm, verb[0], *verb[1:], str(chart), "--namespace", "trials", "-f", str(given)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stdout + done.stderr)
    return [done.stdout]


def _by_engine(python: str, chart: Path, values: dict) -> list[str]:
    done = subprocess.run(
        [python, "-I", "-c", IN_PYTHON],
        input=json.dumps({"chart": str(chart), "values": values}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return json.loads(done.stdout)


@pytest.fixture
def render(root: Path, tmp_path: Path) -> Callable[[dict], dict[str, dict]]:
    """Render the chart and return its objects by kind."""
    helm = shutil.which("helm")
    apart = os.environ.get("SEPTUM_HELM_PYTHON", str(root / ".venv-helm/bin/python"))
    if helm is None and not Path(apart).exists():
        pytest.skip("neither `helm` nor an environment with its engine is here")

    def run(values: dict) -> dict[str, dict]:
        chart = root / CHART
        texts = (
            _by_program(helm, chart, values, tmp_path) if helm else _by_engine(apart, chart, values)
        )
        objects = [each for text in texts for each in yaml.safe_load_all(text) if each]
        kinds = {each["kind"]: each for each in objects}
        assert len(kinds) == len(objects)
        return kinds

    return run


def test_the_rendered_chart_is_one_pod_held_to_every_limit(
    render: Callable[[dict], dict[str, dict]],
) -> None:
    kinds = render(VALUES)
    assert set(kinds) == {"StatefulSet", "Service", "NetworkPolicy", "ServiceAccount"}
    spec = kinds["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    held = pod["securityContext"]
    assert (held["runAsNonRoot"], held["runAsUser"]) == (True, 10001)
    assert held["seccompProfile"] == {"type": "RuntimeDefault"}
    assert held["fsGroupChangePolicy"] == "OnRootMismatch"
    containers = [*pod["initContainers"], *pod["containers"]]
    assert len(containers) == 2
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] == "8Gi"
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
        assert container["image"] == "septum-coordinator:0.1.0"
    for volume in pod["volumes"]:
        assert "hostPath" not in volume


def test_the_rendered_chart_listens_on_one_port_and_asks_nobody(
    render: Callable[[dict], dict[str, dict]],
) -> None:
    kinds = render(VALUES | {"service": {"sourceRanges": ["192.0.2.0/24"]}})
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    assert policy["ingress"] == [
        {
            "ports": [{"port": 8443, "protocol": "TCP"}],
            "from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        }
    ]
    selected = kinds["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for chosen in (policy["podSelector"]["matchLabels"], kinds["Service"]["spec"]["selector"]):
        assert chosen.items() <= selected.items()
    ports = kinds["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert [port["containerPort"] for port in ports] == [8443]
    assert kinds["Service"]["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]


def test_a_digest_names_the_image_for_ever(render: Callable[[dict], dict[str, dict]]) -> None:
    digest = "sha256:" + "a" * 64
    kinds = render(VALUES | {"image": {"digest": digest}})
    pod = kinds["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"septum-coordinator@{digest}"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"address": "https://fl.example.org"},
        VALUES | {"replicas": 2},
        VALUES | {"seccomp": {"type": "Unconfined"}},
        VALUES | {"image": {"digest": "latest"}},
    ],
)
def test_values_that_the_chart_does_not_know_are_refused(
    values: dict, render: Callable[[dict], dict[str, dict]]
) -> None:
    render(VALUES)
    with pytest.raises(ValueError, match=r"schema|additional"):
        render(values)


def test_every_yaml_file_of_deploy_that_is_no_template_is_read(root: Path) -> None:
    files = [p for p in (root / "deploy").rglob("*.yaml") if "templates" not in p.parts]
    assert len(files) >= 4
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file


def test_the_chart_has_the_version_of_septum(root: Path) -> None:
    about = yaml.safe_load((root / CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((root / CHART / "values.yaml").read_text(encoding="utf-8"))
    assert about["appVersion"] == values["image"]["tag"] == septum.__version__
