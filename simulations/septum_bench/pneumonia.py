"""PneumoniaMNIST as a federation of hospitals: what privacy costs on real radiographs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from septum.errors import ConfigError, DataError, EngineError
from septum_bench.plan import Engine
from septum_bench.pneumonia_study import Row, plan_of, study_rows
from septum_bench.radiographs import read_npz
from septum_bench.simulate import Reporter
from septum_client.site import write_durably

PUBLISHED: Final = ("ResNet-18, published, central, no privacy", 0.944, 0.854)
"""Yang et al. 2023, doi:10.1038/s41597-022-01721-8: 28 by 28 pixels, AUC and accuracy."""

_CLAIM: Final = "pneumonia.json"


def run_pneumonia(
    npz: Path,
    out: Path,
    *,
    sites: int = 6,
    epsilons: Sequence[float] = (1, 3, 8),
    seeds: Sequence[int] = (0, 1, 2),
    workers: int = 2,
    reporter: Reporter,
    engine: Engine = "local",
) -> list[Row]:
    """Train on PneumoniaMNIST at several epsilons, and without privacy for comparison.

    For each seed the published training and validation images are spread over
    ``sites`` hospitals, written as DICOM, ingested and trained by the same
    study, ClientApp and ServerApp as every simulation. What a call that was
    interrupted finished is kept when it is repeated.

    Args:
      npz: ``pneumoniamnist.npz``, 28 by 28 pixels.
      out: A new folder, or the one of an interrupted call with the same file and sites.
      sites: Hospitals.
      epsilons: Patient-level limits, each a study of its own, at delta 1e-5 per hospital.
      seeds: One repetition each.
      workers: Hospitals that train at the same time.
      reporter: Shows progress.
      engine: ``local`` or ``ray``.

    Guarantees:
      - Test images are at the hospitals as held-out patients; none is trained on.

    Raises:
      DataError: The file or the folder cannot be used.
      ConfigError: An option is outside its limits.
      EngineError: The folder holds something else.
    """
    if not epsilons or not seeds:
        raise ConfigError(
            "at least one epsilon and one seed are needed.",
            remedy="Name them, or use the defaults.",
        )
    # Checked before the first file is written: a bad last epsilon must not cost an hour.
    plans = {(s, e): plan_of(out, sites=sites, seed=s, epsilon=e, workers=workers, engine=engine)
             for s in seeds for e in epsilons}  # fmt: skip
    splits = read_npz(npz)
    _claim(out, npz, sites)
    rows = []
    for seed in seeds:
        rows += study_rows(
            out / f"seed-{seed}",
            [plans[seed, epsilon] for epsilon in epsilons],
            learn=splits["train"] + splits["val"],
            held_out=splits["test"],
            reporter=reporter,
            defaults=True,
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: one line per way of training, over its seeds.

    >>> print(table([Row(training="federated, ε = 8", seed=s, epsilon=8.0, spent=7.99,
    ...                  auc=0.9 + s / 50, accuracy=0.8, seconds=1.0) for s in (0, 1)]))
    | training | ε spent | AUC, mean (range) | accuracy, mean (range) | seeds |
    |---|---|---|---|---|
    | federated, ε = 8 | 7.99 | 0.910 (0.900–0.920) | 0.800 (0.800–0.800) | 2 |
    | ResNet-18, published, central, no privacy | – | 0.944 | 0.854 | – |
    """
    lines = [
        "| training | ε spent | AUC, mean (range) | accuracy, mean (range) | seeds |",
        "|---|---|---|---|---|",
    ]
    for training in dict.fromkeys(row.training for row in rows):
        ours = [row for row in rows if row.training == training]
        spent = [row.spent for row in ours if row.spent is not None]
        lines.append(
            f"| {training} | {f'{max(spent):.2f}' if spent else '–'} "
            f"| {_mean([row.auc for row in ours])} | {_mean([row.accuracy for row in ours])} "
            f"| {len(ours)} |"
        )
    name, auc, accuracy = PUBLISHED
    lines.append(f"| {name} | – | {auc:.3f} | {accuracy:.3f} | – |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def _claim(out: Path, npz: Path, sites: int) -> None:
    """Take ``out`` for this file and this number of hospitals, or go on in it."""
    said = {"sha256": hashlib.sha256(npz.read_bytes()).hexdigest(), "sites": sites}
    path = out / _CLAIM
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != said:
            raise EngineError(
                f"{out} holds a benchmark of another file or number of hospitals.",
                remedy="Choose another --out.",
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EngineError(f"{out} is not an empty folder.", remedy="Choose another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out} cannot be made ({error.strerror}).", remedy="Choose another --out."
        ) from None
    write_durably(path, json.dumps(said).encode())
