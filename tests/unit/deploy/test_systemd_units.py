"""Why the service units lack the one limit that one would expect in them."""

import subprocess
import sys

import pytest

# PR_SET_MDWE, with PR_MDWE_REFUSE_EXEC_GAIN: the kernel's own form of MemoryDenyWriteExecute.
DENY = "import ctypes, sys\nif ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
NO_KERNEL = 77


def run_without_writable_code(code):
    done = subprocess.run(
        [sys.executable, "-c", DENY + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    if done.returncode == NO_KERNEL:
        pytest.skip("this kernel cannot deny memory that is writable and executable")
    return done


def test_torch_cannot_convolve_where_writable_memory_may_not_become_code():
    # When this fails, torch has learnt it: put MemoryDenyWriteExecute=yes into both units.
    done = run_without_writable_code(
        "import torch\nprint('imported')\n"
        "torch.nn.Conv2d(1, 4, 3)(torch.randn(2, 1, 16, 16)).sum().backward()\nprint('trained')\n"
    )
    assert done.stdout.split() == ["imported"]
    assert "could not create a primitive" in done.stderr
