"""Starts each tool's worker and talks to it, a line each way."""

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

DEFAULTS = "Septum, defaults"
TOOLS = ("Septum", DEFAULTS, "dicognito", "deid", "dicom-anonymizer", "pydicom")
PATIENCE_S = 60
_WORKER = Path(__file__).with_name("worker.py")
_QUIET = {"MESSAGELEVEL": "QUIET", "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}


@dataclass(kw_only=True)
class Tool:
    """One tool in a process that lives until it crashes; then another is started."""

    name: str
    python: Path
    _process: subprocess.Popen[str] = field(repr=False)

    @classmethod
    def start(cls, name: str, *, peers: Path) -> "Tool":
        """Start a tool: Septum and pydicom here, the others in their own environment."""
        ours = name.startswith("Septum") or name == "pydicom"
        python = Path(sys.executable) if ours else peers / "bin" / "python"
        return cls(name=name, python=python, _process=_started(python, name))

    def ask(self, source: Path, target: Path, *, pixels: bool) -> dict:
        """Return the worker's answer; a dead or silent worker is a crash."""
        asked = {"in": str(source), "out": str(target), "pixels": pixels}
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
            line = self._process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        why = "died" if self._process.poll() is not None else f"silent for {PATIENCE_S} s"
        self.stop()
        self._process = _started(self.python, self.name)
        return {"status": "crashed", "why": why, "cpu_s": 0.0}

    def stop(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.wait()


def _started(python: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(python), str(_WORKER), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | _QUIET,
    )
