"""Choose the settings of ``septum bench pneumoniamnist`` on the validation images alone.

    .venv/bin/python benchmarks/pneumonia_search.py ../shared/data/pneumoniamnist.npz OUT

Trains on the published training images with seed 100 and scores on the published
validation images; the test images are not used. One line for each setting.
The search is not counted in epsilon: on patients' data it would have to be.
"""

import sys
from pathlib import Path

from septum_bench.pneumonia_study import plan_of, study_rows
from septum_bench.radiographs import read_npz

SEED = 100
EPSILONS = (1.0, 8.0)
SETTINGS = [
    {"image_size": 28, "learning_rate": rate, "rounds": rounds}
    for rate, rounds in ((0.5, 8), (0.5, 16), (1.0, 16), (2.0, 16))
]


class Silent:
    """A reporter that shows nothing."""

    def stage(self, name: str, total: int) -> None:
        """Show nothing."""

    def advance(self, text: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Show nothing."""


def main(npz: Path, out: Path, settings: list[dict[str, float]]) -> None:
    splits = read_npz(npz)
    for setting in settings:
        plans = [
            plan_of(out, sites=5, seed=SEED, epsilon=epsilon, workers=2, **setting)
            for epsilon in EPSILONS
        ]
        name = "-".join(f"{key}-{value}" for key, value in setting.items())
        rows = study_rows(
            out / name,
            plans,
            learn=splits["train"],
            held_out=splits["val"],
            reporter=Silent(),
            plain=False,
        )
        found = ", ".join(f"AUC {row.auc:.3f} at ε = {row.epsilon:g}" for row in rows)
        print(f"{setting}: {found}; {sum(row.seconds for row in rows):.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS)
