"""What both zones must agree on, byte for byte.

The hospital (``septum_client``) and the coordinator (``septum_server``) import
this package and never each other. Nothing here trains, reads DICOM or opens a
socket.

Importing it switches off the telemetry and the update checks of Flower and
Ray, for this process and every process it starts: Flower reads these
variables when it is imported, so they are set before anything here does.
Nothing is written to the user's home either: where Matplotlib is installed,
MONAI imports it, and its font list goes to a private folder that lasts as long
as the process. No folder is made where it is not, and none is needed: a process
that can write nowhere imports this package like any other.
"""

import atexit
import contextlib
import importlib.util
import os
import shutil
import tempfile
from typing import Final

__version__: Final = "0.1.0"

SILENCE: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
os.environ.update(SILENCE)

if "MPLCONFIGDIR" not in os.environ:
    # Where no folder can be made, whether Matplotlib needs one is for who imports it. A finder
    # that forbids Matplotlib raises, and then nobody does.
    with contextlib.suppress(OSError, ImportError):
        if importlib.util.find_spec("matplotlib") is not None:
            # Not a fixed name: Matplotlib runs what a configuration in that folder names.
            os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="septum-")
            atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
