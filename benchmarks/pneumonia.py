"""The figures of ``septum bench pneumoniamnist``, as a Markdown table and row by row.

.venv/bin/python benchmarks/pneumonia.py ../shared/data/pneumoniamnist.npz OUT
"""

import sys
from pathlib import Path

from septum_bench.pneumonia import run_pneumonia, table


class Loud:
    """A reporter that names each stage."""

    def stage(self, name: str, total: int) -> None:
        """Say that a stage began."""
        print(f"… {name} ({total})", file=sys.stderr, flush=True)

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Say nothing."""


if __name__ == "__main__":
    rows = run_pneumonia(Path(sys.argv[1]), Path(sys.argv[2]), reporter=Loud())
    for row in rows:
        print(row)
    print()
    print(table(rows))
