"""A compose service's command line as a plain process, held as its container would be.

A root of its own that nothing can write, in it the interpreter, the service's mounts and nothing
else; its user and group, no capability, no new privilege, its system calls; a network without any
interface but the loopback. What is not tried: the engine itself, its networks and its limits of
memory.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

CONFINED = Path(__file__).with_name("confined.py")
INSTALLED, PROGRAMS = "/usr/local/septum/bin", "/programs"

START = """\
set -eu
umask 022
root=$1
shift
ip link set lo up
mount -t tmpfs -o mode=755 none "$root"
bind() { # SOURCE TARGET ro|rw
  if [ -d "$1" ]; then mkdir -p "$root$2"; else
    mkdir -p "$(dirname "$root$2")"
    [ -e "$root$2" ] || : > "$root$2"
  fi
  mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
}
mkdir -p "$root/proc" "$root/tmp"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do
  case $1 in
    tmpfs) mkdir -p "$root$2"; mount -t tmpfs -o "$3" none "$root$2"; shift 3;;
    *) bind "$1" "$2" "$3"; shift 3;;
  esac
done
shift
mount -o remount,ro "$root"
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
exec "$chroot" "$root" /bin/sh -c 'cd /tmp; exec "$@"' sh "$@"
"""


def compose(root, name):
    text = (root / f"deploy/compose/{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["services"]


def image(root, name):
    """Return the variables and the entry point of an image, as its Dockerfile says."""
    text = (root / f"deploy/images/{name}.Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", text).splitlines()
    (told,) = [line for line in lines if line.startswith("ENV ")]
    variables = dict(word.split("=", 1) for word in shlex.split(told[4:]))
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT ")]
    return variables, yaml.safe_load(entry.split(None, 1)[1])


class Engine:
    """Stands in for a container engine; ``folder`` is where the compose file would be."""

    def __init__(self, root, folder, name):
        self.root, self.folder, self.name = root, folder, name
        self.services = compose(root, name)
        programs = folder / ".programs"
        programs.mkdir()
        python = shlex.quote(sys.executable)
        for program, words in (
            ("python", '"$@"'),
            ("septum", "-I -c 'from septum.cli import main; main()' \"$@\""),
        ):
            path = programs / program
            path.write_text(f"#!/bin/sh\nexec {python} {words}\n")
            path.chmod(0o755)

    def _host(self, source):
        told = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", source)
        return self.folder / told

    def _mounts(self, service):
        """Yield what a container is made of: source, target, and how."""
        for mount in service.get("tmpfs", []):
            target, options = mount.split(":")
            yield from ("tmpfs", target, options)
        packages = {Path(entry) for entry in sys.path if entry.endswith("site-packages")}
        needed = {Path(sys.base_prefix), Path(sys.prefix), self.root, *packages}
        covered = {path for path in needed if not any(up in needed for up in path.parents)}
        for path in sorted({Path("/usr"), *covered}):
            yield from (str(path), str(path), "ro")
        for name in ("/bin", "/lib", "/lib64", "/etc"):
            if Path(name).exists():
                yield from (name, name, "ro")
        for name in ("null", "zero", "urandom", "random"):
            yield from (f"/dev/{name}", f"/dev/{name}", "rw")
        for mount in service.get("volumes", []):
            source = self._host(mount["source"])
            if not source.exists():
                # An engine would make a folder of root's; a person makes it first.
                assert mount.get("bind", {}).get("create_host_path", True), source
                source.mkdir(mode=0o755)
            yield from (str(source), mount["target"], "ro" if mount.get("read_only") else "rw")

    def command(self, name, *words, user=None):
        """Return the command line of service ``name``, with ``words`` for its own if given."""
        service = self.services[name]
        variables, entry = image(self.root, self.name)
        variables["PATH"] = variables["PATH"].replace(INSTALLED, PROGRAMS)
        told = service.get("entrypoint", entry)
        told = [*told, *(words or service.get("command", []))]
        uid, gid = (user or service["user"]).split(":")
        inside = self.folder / f".root-{name}"
        inside.mkdir(exist_ok=True)
        profile = self.root / "deploy/images/seccomp.json"
        return [
            *("env", "-i", *(f"{key}={value}" for key, value in variables.items())),
            *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
            *("sh", "-c", START, "sh", str(inside), *self._mounts(service)),
            *(str(self.folder / ".programs"), PROGRAMS, "ro", "--"),
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all"),
            # It was cleared by the change of user.
            "--pdeathsig=KILL",
            *(sys.executable, "-I", str(CONFINED), str(profile), *told),
        ]

    def run(self, name, *words, user=None):
        """Run a service to its end, as `docker compose run --rm NAME WORDS` would."""
        return subprocess.run(
            self.command(name, *words, user=user),
            capture_output=True, text=True, check=False, timeout=110,
        )  # fmt: skip


def cannot():
    """Return why nothing can be contained on this machine, or nothing."""
    tools = [tool for tool in ("unshare", "setpriv", "ip") if shutil.which(tool) is None]
    if sys.platform != "linux" or os.geteuid() != 0 or tools:
        return f"a container's limits need Linux, root and tools; missing: {tools or 'root'}"
    made = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "x", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no such namespace can be made here: {made.stderr}" if made.returncode else ""
