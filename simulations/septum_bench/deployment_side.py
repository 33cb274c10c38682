"""One side of a deployment on this machine: the functions behind two commands, by their folder.

``python -P -m septum_bench.deployment_side server|site FOLDER``
"""

import sys
from pathlib import Path


def main() -> None:
    """Run ``septum server up`` or ``septum site up`` until ended."""
    side, folder = sys.argv[1], Path(sys.argv[2])
    if side == "server":
        from septum_server.server_cli import up as serve  # noqa: PLC0415 - one side, not both

        serve(folder)
    else:
        from septum_client.up import up  # noqa: PLC0415 - likewise

        up(folder)


if __name__ == "__main__":
    main()
