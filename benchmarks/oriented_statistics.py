"""Make ``septum/models/oriented_statistics.npy``: features of phantoms, which are nobody's images.

.venv/bin/python benchmarks/oriented_statistics.py
"""

from pathlib import Path

import numpy as np
import torch

from septum import tasks
from septum.models import oriented
from septum_bench.phantoms.public import public_images
from septum_bench.seeded import SeededRandomness
from septum_client.augment import Radiograph

IMAGES, VIEWS, SEED = 400, 4, 0


def main() -> None:
    """Write means and spreads over phantoms and their augmented views, float16 (2, 1225)."""
    films = torch.from_numpy(public_images(IMAGES, oriented.SIDE, SEED))
    change = Radiograph(geometry=True, tone=True, mirror=True)
    chance = SeededRandomness(SEED)
    nothing = torch.zeros(len(films))
    views = torch.cat([films] + [change(films, nothing, chance)[0] for _ in range(VIEWS - 1)])
    plain = torch.stack([torch.zeros(oriented.FEATURES), torch.ones(oriented.FEATURES)])
    front = oriented.OrientedEnergy(plain)
    found = oriented.energies(
        tasks.normalise(views), front.get_buffer("filters"), front.get_buffer("binomial")
    )
    stored = torch.stack([found.mean(dim=0), found.std(dim=0)]).numpy().astype(np.float16)
    path = Path(oriented.__file__).with_name(oriented.STATISTICS)
    np.save(path, stored, allow_pickle=False)


if __name__ == "__main__":
    main()
