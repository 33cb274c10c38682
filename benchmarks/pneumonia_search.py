"""Choose the recipe ``film-labels`` on validation images alone; test images are not read.

    .venv/bin/python benchmarks/pneumonia_search.py ../shared/data/pneumoniamnist.npz

Trains on the published training images, spread over six hospitals with their
scanners, and scores on the published validation images and ten corruptions of
them, because the images themselves saturate. One line for each setting: mean
AUC over the eleven sets, and AUC on the unchanged one, at each epsilon and
without clip and noise. In memory: the gradient of a linear layer on constant
features is written down, and views come from a bank of four, so that a setting
takes seconds. Draws, clip, noise, averaging and momentum are the product's.
The search is not counted in epsilon: on patients' data it would have to be.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from septum import tasks
from septum.accounting import noise_for
from septum.models.oriented import OrientedEnergy
from septum_bench.phantoms.scanner import digitise, expose, percentile_normalise
from septum_bench.radiographs import FILM_DEPTH, SIDE, read_npz, scanner_of, spread
from septum_bench.seeded import SeededRandomness
from septum_client.augment import Radiograph

SITES, SEEDS, DELTA, BANK = 6, (100, 101, 102), 1e-5, 4
EPSILONS = (1.0, 3.0, 8.0, None)
BASE = {"rounds": 40, "rate": 0.5, "views": 2, "clip": 1.0, "step": 10.0, "momentum": 0.9}
CHANGES = (
    {"clip": 0.5}, {"clip": 0.7}, {"clip": 1.0}, {"rate": 1.0}, {"rounds": 80, "step": 5.0},
    {"views": 1}, {"views": 4}, {"momentum": 0.0, "step": 40.0}, {"ema": 0.9},
    {"smoothing": 0.1}, {"automatic": True, "step": 4.0},
)  # fmt: skip

ALL = {"geometry": True, "tone": True, "mirror": True}
LESS = (ALL | {"mirror": False}, ALL | {"tone": False}, ALL | {"geometry": False}, {})

FEATURES = OrientedEnergy()


def features(images: torch.Tensor) -> torch.Tensor:
    """Return features of images ``(images, 28, 28)``, with a one for the bias."""
    found = [FEATURES(tasks.normalise(part[:, None])) for part in images.split(64)]
    return torch.cat([torch.cat(found), torch.ones(len(images), 1)], dim=1)


def changed(images: torch.Tensor, seed: int, **kinds: bool) -> torch.Tensor:
    """Return one view of each image."""
    change = Radiograph(**{"geometry": False, "tone": False, "mirror": False, **kinds})
    return change(images[:, None], torch.zeros(len(images)), SeededRandomness(seed))[0][:, 0]


def film(rng: np.random.Generator, image: np.ndarray, site: int) -> np.ndarray:
    """Return what a hospital's ingest makes of an image."""
    scanner = scanner_of(site)
    depth = image.astype(np.float32) * np.float32(FILM_DEPTH / 255)
    exposure = float(rng.lognormal(0, 0.15))
    stored = digitise(expose(rng, depth, scanner, exposure=exposure), scanner).astype(np.float32)
    top = float(2**scanner.bits_stored - 1)
    return percentile_normalise(top - stored if scanner.inverted else stored, SIDE)


def suites(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the unchanged images and ten corruptions of them, each drawn once."""
    zoomed = torch.nn.functional.interpolate(images[:, None], scale_factor=1.3, mode="bilinear")
    start = (zoomed.shape[-1] - SIDE) // 2
    small = torch.nn.functional.interpolate(images[:, None], scale_factor=0.8, mode="bilinear")
    edge = SIDE - small.shape[-1]
    border = (edge // 2, edge - edge // 2) * 2
    noise = torch.from_numpy(SeededRandomness(6).normal(images.numel())).view(images.shape)
    middle = images.mean(dim=(1, 2), keepdim=True)
    return {
        "unchanged": images,
        "moved": changed(images, 1, geometry=True, tone=False),
        "moved twice": changed(
            changed(images, 2, geometry=True, tone=False), 3, geometry=True, tone=False
        ),
        "zoomed in": zoomed[:, 0, start : start + SIDE, start : start + SIDE],
        "zoomed out": torch.nn.functional.pad(small, border, mode="replicate")[:, 0],
        "darker": images.clamp_min(1e-4) ** 1.8,
        "lighter": images.clamp_min(1e-4) ** 0.55,
        "low contrast": (images - middle) * 0.5 + middle,
        "toned": changed(images, 4, geometry=False, tone=True),
        "noisy": (images + 0.08 * noise.to(torch.float32)).clamp(0, 1),
        "all": changed(images, 5, geometry=True, tone=True),
    }


def pictures(
    npz: Path, seed: int, kinds: dict
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], dict, list]:
    """Return each hospital's views ``(images, 4, 28, 28)`` and labels; and validation suites."""
    splits = read_npz(npz)
    learn, held = splits["train"], splits["val"]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    sites, films, truth = [], [], []
    parts = spread(learn.labels, held.labels, sites=SITES, rng=rng)
    for site, (ours, others) in enumerate(parts):
        images = torch.from_numpy(np.stack([film(rng, learn.images[i], site) for i in ours]))
        views = [changed(images, 10 * seed + k, **kinds) if kinds else images for k in range(BANK)]
        sites.append((torch.stack(views, dim=1), torch.from_numpy(learn.labels[ours]).float()))
        films += [film(rng, held.images[i], site) for i in others]
        truth += held.labels[others].tolist()
    return sites, suites(torch.from_numpy(np.stack(films))), truth


def hospitals(
    npz: Path, seed: int, kinds: dict
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], dict, list]:
    """Return features of each hospital's views and labels; and of the validation suites."""
    sites, scored, truth = pictures(npz, seed, kinds)
    banks = [(torch.stack([features(v) for v in bank.unbind(1)], dim=1), y) for bank, y in sites]
    return banks, {name: features(images) for name, images in scored.items()}, truth


def train(sites: list, epsilon: float | None, seed: int, setting: dict) -> torch.Tensor:
    """Return the published weights of one private (or, at no epsilon, plain) federation."""
    chance = torch.Generator().manual_seed(1000 + seed)
    rounds, rate, clip = setting["rounds"], setting["rate"], setting["clip"]
    noise = 0.0 if epsilon is None else noise_for(
        target=epsilon, delta=DELTA, sampling_rate=rate, steps=rounds
    )  # fmt: skip
    declared = [len(labels) // 10 * 10 for _, labels in sites]
    weight = torch.zeros(sites[0][0].shape[2])
    speed, average, given_up = weight.clone(), weight.clone(), setting.get("smoothing", 0.0)
    for number in range(1, rounds + 1):
        mean = torch.zeros_like(weight)
        for (bank, labels), patients in zip(sites, declared, strict=True):
            drawn = torch.nonzero(torch.rand(len(labels), generator=chance) < rate)[:, 0]
            which = torch.randint(BANK, (len(drawn), setting["views"]), generator=chance)
            views = bank[drawn[:, None], which]
            wanted = labels[drawn, None] * (1 - 2 * given_up) + given_up
            each = torch.einsum("pv,pvf->pf", torch.sigmoid(views @ weight) - wanted, views)
            each = each / setting["views"]
            if epsilon is not None:
                length = each.norm(dim=1, keepdim=True)
                if setting.get("automatic"):
                    each = each * clip / (length + 0.01)
                else:
                    each = each * (clip / length.clamp_min(1e-12)).clamp_max(1)
            total = each.sum(dim=0)
            total += torch.randn(total.shape, generator=chance) * noise * clip
            mean -= total / (rate * patients) * (patients / sum(declared))
        speed = setting["momentum"] * speed + mean
        weight = weight + setting["step"] * speed
        kept = min(setting.get("ema", 0.0), number / (number + 9))
        average = kept * average + (1 - kept) * weight
    return average


def main(npz: Path) -> None:
    """Print one line for each setting."""
    prepared = [hospitals(npz, seed, ALL) for seed in SEEDS]
    for change in CHANGES:
        report(change, prepared, change)
    for kinds in LESS:
        report(kinds, [hospitals(npz, seed, kinds) for seed in SEEDS], {})


def report(name: dict, prepared: list, change: dict) -> None:
    """Print one line: train by the base with ``change`` at every epsilon and seed."""
    found = []
    for epsilon in EPSILONS:
        scores = []
        for seed, (sites, scored, truth) in zip(SEEDS, prepared, strict=True):
            weight = train(sites, epsilon, seed, BASE | change)
            scores.append([roc_auc_score(truth, x @ weight) for x in scored.values()])
        every = np.array(scores)
        found.append(f"{every.mean():.4f}/{every[:, 0].mean():.4f}")
    print(name, " | ".join(found), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main(Path(sys.argv[1]))
