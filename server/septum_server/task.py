"""One run of the ServerApp: Flower's own program, ended with the process that started it.

SuperExec finds it as ``flwr-serverapp``, a script that :mod:`septum_server.launch`
writes. Its arguments, a token among them, come by the environment
(:mod:`septum.superexec`).
"""

import os
import sys

from flwr.superlink.cli import flwr_serverapp

from septum.child_process import TASK, end_with_parent


def main() -> None:
    """Run the task that the environment names."""
    end_with_parent()
    sys.argv[1:] = os.environ.pop(TASK, "").split("\n")
    flwr_serverapp()


if __name__ == "__main__":
    main()
