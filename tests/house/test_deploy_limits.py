"""What deploy/ promises of limits is in every file of deploy/ that starts a process."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from septum_client import node

COMPOSE = ("coordinator", "hospital")
USERS = {
    "septum-coordinator": "septum",
    "septum-hospital-client": "septum",
    "septum-hospital-node": "septum-node",
}
"""Of each unit; a hospital's two halves never run on a coordinator's machine."""
DECIDING_FOLDERS = ("cohort", "consent", "approved")
DECIDING_FILES = (
    *("policy.toml", "coordinator.toml", "revoked.txt", "key", "signing.key", "link.secret"),
)
NODES_FILES = ("node.key", "coordinator.toml", "revoked.txt", "link.secret")
HALVES = ("client", "node")
TIGHTEST = 15
"""Tenths: systemd's own measure of exposure, 0 to 100."""


def _compose(root: Path, name: str) -> dict:
    text = (root / f"deploy/compose/{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _unit(root: Path, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (root / f"deploy/systemd/{name}.service").read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", COMPOSE)
def test_every_container_is_held_to_every_limit(name: str, root: Path) -> None:
    services = _compose(root, name)["services"]
    assert services
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert "privileged" not in service
        assert service["user"] in {"10001:10001", "10002:10002"}
        assert service["security_opt"] == [
            "no-new-privileges:true",
            "seccomp=../images/seccomp.json",
        ]
        assert service["ulimits"] == {"core": 0, "nofile": 65536}
        assert service["init"] is True
        assert service["pids_limit"] <= 512
        assert service["mem_limit"]
        # HOME and TMPDIR of the images, on a root that nothing can write.
        (mount,) = service["tmpfs"]
        target, options = mount.split(":")
        assert target == "/tmp"
        assert {"noexec", "nosuid", "nodev", "mode=1777"} <= set(options.split(","))
        assert not {"devices", "pid", "ipc", "uts", "userns_mode"} & set(service)
    assert (root / "deploy/compose" / "../images/seccomp.json").is_file()


def test_what_trains_has_no_network_and_what_connects_reaches_the_door_alone(root: Path) -> None:
    compose = _compose(root, "hospital")
    services = compose["services"]
    assert services["client"]["network_mode"] == "none"
    assert "networks" not in services["client"]
    assert services["node"]["networks"] == ["inner"]
    assert compose["networks"]["inner"] == {"internal": True}
    outside = [
        name for name, service in services.items() if "outside" in service.get("networks", {})
    ]
    assert outside == ["door"]
    assert services["desk"]["network_mode"] == "none"
    assert not [name for name, service in services.items() if "ports" in service]
    # What carries the bytes has no key, no cohort and no folder at all.
    assert "volumes" not in services["door"]
    # What people run for a moment does not run by itself.
    assert [name for name, service in services.items() if "profiles" not in service] == [
        "client", "node", "door",
    ]  # fmt: skip


def test_each_half_of_a_hospital_has_a_user_and_a_folder_of_its_own(root: Path) -> None:
    services = _compose(root, "hospital")["services"]
    assert services["client"]["user"] != services["node"]["user"]
    for half, folder, other in (("client", "/site", "/node"), ("node", "/node", "/site")):
        targets = [mount["target"] for mount in services[half]["volumes"]]
        assert folder in targets
        assert not [target for target in targets if target.startswith(other)]
        words = f"site up --only {half} --site {folder} --link /link/socket"
        assert services[half]["command"] == words.split()
    # The socket is made by the one, and found by the other.
    links = {half: _mounts(root, half)["/link"].get("read_only", False) for half in HALVES}
    assert links == {"client": True, "node": False}
    # Nobody but these two passes through its folder: owner the one's user, group the other's.
    owner, group = (services[half]["user"].split(":")[0] for half in ("node", "client"))
    made = f"install -d -o {owner} -g {group} -m 0710 link\n"
    assert made in (root / "docs/deploy.md").read_text(encoding="utf-8")


def _mounts(root: Path, service: str) -> dict[str, dict]:
    volumes = _compose(root, "hospital")["services"][service]["volumes"]
    return {mount["target"]: mount for mount in volumes}


@pytest.mark.parametrize(
    ("half", "folder", "source", "folders", "files"),
    [
        ("client", "site", "${SITE_FOLDER:-./site}", DECIDING_FOLDERS, DECIDING_FILES),
        ("node", "node", "${NODE_FOLDER:-./node}", (), NODES_FILES),
    ],
)
def test_what_decides_what_may_leave_is_read_only_to_what_runs(
    half: str, folder: str, source: str, folders: tuple, files: tuple, root: Path
) -> None:
    mounts = _mounts(root, half)
    for name in (*folders, *files):
        assert mounts[f"/{folder}/{name}"]["read_only"] is True
        assert mounts[f"/{folder}/{name}"]["source"] == f"{source}/{name}"
    for name in files:
        # An engine that finds no file would make a folder of that name.
        assert mounts[f"/{folder}/{name}"]["bind"] == {"create_host_path": False}
    paths = _unit(root, f"septum-hospital-{half}")["ReadOnlyPaths"]
    home = {"site": "/var/lib/septum/site", "node": "/var/lib/septum-node"}[folder]
    assert set(paths) == {f"-{home}/{name}" for name in (*folders, *files)}


def test_an_export_is_only_read(root: Path) -> None:
    assert _mounts(root, "desk")["/export"]["read_only"] is True


def test_a_coordinator_publishes_one_port(root: Path) -> None:
    services = _compose(root, "coordinator")["services"]
    assert services["coordinator"]["ports"] == ["${PUBLIC_PORT:-8443}:8443"]
    assert services["desk"]["network_mode"] == "none"


def test_every_variable_of_the_hospitals_compose_file_is_in_its_example(root: Path) -> None:
    text = (root / "deploy/compose/hospital.yaml").read_text(encoding="utf-8")
    example = (root / "deploy/compose/hospital.env.example").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(\w+)", text)) - {"HTTPS_PROXY"}
    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


@pytest.mark.parametrize("name", USERS)
def test_every_service_unit_is_held_to_every_limit(name: str, root: Path) -> None:
    unit = _unit(root, name)
    wanted = {
        "User": USERS[name],
        "Group": USERS[name],
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces": "yes",
        "SystemCallArchitectures": "native",
        "LimitCORE": "0",
        "LimitNOFILE": "65536",
        "UMask": "0077",
        "StateDirectoryMode": "0700",
        "KillMode": "mixed",
    }
    assert {key: unit[key] for key in wanted} == {key: [value] for key, value in wanted.items()}
    assert unit["SystemCallFilter"][0] == "@system-service"
    assert "@privileged" in unit["SystemCallFilter"][1]
    # Torch fails with it: tests/unit/deploy/test_systemd_units.py shows it.
    assert "MemoryDenyWriteExecute" not in unit


def test_a_hospitals_units_reach_nobody_until_a_drop_in_names_one_address(root: Path) -> None:
    for half in HALVES:
        unit = _unit(root, f"septum-hospital-{half}")
        assert unit["IPAddressDeny"] == ["any"]
        assert unit["IPAddressAllow"] == ["localhost"]
    drop_in = configparser.ConfigParser()
    drop_in.read(root / "deploy/systemd/septum-hospital-node.service.d/coordinator.conf")
    assert list(drop_in["Service"]) == ["ipaddressallow"]
    assert not (root / "deploy/systemd/septum-hospital-client.service.d").exists()


def test_a_hospitals_two_units_share_a_socket_and_nothing_else(root: Path) -> None:
    client, node = (_unit(root, f"septum-hospital-{half}") for half in HALVES)
    assert client["PrivateNetwork"] == ["yes"]
    assert "PrivateNetwork" not in node
    # Each hides the other's folder, whatever its mode.
    assert client["InaccessiblePaths"] == [f"-/var/lib/{node['StateDirectory'][0]}"]
    assert node["InaccessiblePaths"] == [f"-/var/lib/{client['StateDirectory'][0]}"]
    program = "/usr/local/septum/bin/septum site up --only"
    link = "--link /run/septum-link/socket"
    assert client["ExecStart"] == [f"{program} client --site /var/lib/septum/site {link}"]
    assert node["ExecStart"] == [f"{program} node --site /var/lib/septum-node {link}"]
    assert (node["RuntimeDirectory"], node["RuntimeDirectoryMode"]) == (["septum-link"], ["0710"])
    # The other half passes through as a member of the group that the folder has; nobody else.
    assert client["SupplementaryGroups"] == node["Group"]
    assert "SupplementaryGroups" not in node
    assert "septum-hospital-node.service" in client["After"]


@pytest.mark.parametrize("name", USERS)
def test_systemd_knows_every_setting_of_a_unit_and_finds_it_little_exposed(
    name: str, root: Path, tmp_path: Path
) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd is not installed")
    text = (root / f"deploy/systemd/{name}.service").read_text(encoding="utf-8")
    # The program is not installed where tests run; all else is as shipped.
    unit = tmp_path / f"{name}.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    known = subprocess.run(
        [tool, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert name not in known.stderr, known.stderr
    rated = subprocess.run(
        [tool, "security", "--offline=true", "--no-pager", f"--threshold={TIGHTEST}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "offline" in rated.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [("hospital", "/site", "2"), ("coordinator", "/data/coordinator", "4")],
)
def test_an_image_fetches_nothing_runs_as_nobody_and_says_how_it_is(
    name: str, folder: str, count: str, root: Path
) -> None:
    text = (root / f"deploy/images/{name}.Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", text).splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith(("#", " "))]
    runs = [rest for word, rest in steps if word == "RUN"]
    assert runs
    assert all(rest.startswith("--network=none ") for rest in runs)
    assert sum("install.sh" in rest for rest in runs) == 1
    # An engine would give an anonymous, writable folder to every container that mounts none.
    assert not [word for word, _ in steps if word in ("ADD", "VOLUME")]
    (told,) = [rest for word, rest in steps if word == "ENV"]
    # The user has no entry in /etc/passwd, where torch and others would look for the name.
    assert {"USER=septum", "LOGNAME=septum", "HOME=/tmp"} <= set(told.split())
    assert [rest for word, rest in steps if word == "USER"] == ["10001:10001"]
    (health,) = [rest for word, rest in steps if word == "HEALTHCHECK"]
    assert f'"/usr/local/lib/septum/healthy", "{folder}", "{count}"' in health
    assert [rest for word, rest in steps if word == "ENTRYPOINT"] == ['["septum"]']
    copied = [rest.split()[1:-1] for word, rest in steps if word == "COPY" and "--chmod" in rest]
    for file in copied[0]:
        assert (root / "deploy/images" / file).is_file()


def test_the_counts_of_the_health_checks_are_those_of_the_processes(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "node.key").touch()
    link = tmp_path / "link"
    assert len(node.client_services(tmp_path, link=link)) == 2
    assert len(node.node_services(tmp_path, address="fl:1", ca="", link=link)) == 2
    launch = (root / "server/septum_server/launch.py").read_text(encoding="utf-8")
    assert len(re.findall(r"\bService\(\n", launch)) == 4
    check = _compose(root, "hospital")["services"]["node"]["healthcheck"]
    assert check["test"] == ["CMD", "/usr/local/lib/septum/healthy", "/node", "2"]
