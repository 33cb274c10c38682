"""What weight standardisation does to ``small_cnn``, on validation images alone.

    .venv/bin/python benchmarks/standardisation_search.py ../shared/data/pneumoniamnist.npz

The hospitals, views and scores of ``pneumonia_search.py``; every step is the
product's own (draws, clip by patient, noise), six hospitals' steps are averaged
each round, and the server has momentum. Each learning rate is tried with the
first seed, and the better one of each network goes on to the other seeds. One
line for each federation: mean AUC over the eleven sets, AUC on the unchanged
one, and the CPU time of training.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pneumonia_search import ALL, BANK, DELTA, SEEDS, pictures
from sklearn.metrics import roc_auc_score

from septum import tasks
from septum.accounting import noise_for
from septum.models import build, load_vector, to_vector
from septum.privacy import Mechanism
from septum_bench.seeded import SeededRandomness
from septum_client.dpsgd import PatientTrainer, draw_patients

ROUNDS, RATE, CLIP, MOMENTUM, BATCH = 24, 0.2, 1.0, 0.9, 96
LEARNING_RATES, EPSILONS = (0.3, 1.0), (8.0, 1.0)


def banks(sites: list) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each hospital's views as the images of a cohort, and their labels."""
    return [
        (bank.reshape(-1, 1, *bank.shape[2:]).numpy().astype(np.float16),
         labels.repeat_interleave(BANK)[:, None].numpy())
        for bank, labels in sites
    ]  # fmt: skip


def train(
    sites: list, *, epsilon: float, seed: int, rate: float, standardised: bool
) -> torch.nn.Module:
    """Return the network that one private federation published."""
    network = build(
        "small_cnn", channels=1, outputs=1, seed=seed, weight_standardisation=standardised
    )
    weights = to_vector(network)
    chance, speed = SeededRandomness(1000 + seed), np.zeros_like(weights)
    sigma = noise_for(target=epsilon, delta=DELTA, sampling_rate=RATE, steps=ROUNDS)
    declared = [len(labels) // BANK // 10 * 10 for _, labels in sites]
    for _ in range(ROUNDS):
        mean = np.zeros_like(weights)
        for (images, labels), patients in zip(sites, declared, strict=True):
            mechanism = Mechanism(
                noise_multiplier=sigma,
                max_grad_norm=CLIP,
                sampling_rate=RATE,
                steps=1,
                expected_patients=RATE * patients,
                delta=DELTA,
            )
            load_vector(network, weights)
            trainer = PatientTrainer(
                network,
                mechanism=mechanism,
                optimizer=partial(torch.optim.SGD, lr=1.0),
                images_per_patient=1,
                randomness=chance,
                device=torch.device("cpu"),
                physical=BATCH,
            )
            everybody = np.arange(len(labels) // BANK)
            drawn = draw_patients(everybody, mechanism=mechanism, randomness=chance)
            which = (chance.uniform(len(drawn)) * BANK).astype(np.int64)
            trainer.step(images, labels, [np.array([row]) for row in drawn * BANK + which])
            trainer.detach()
            mean += (to_vector(network) - weights) * (patients / sum(declared))
        speed = MOMENTUM * speed + mean
        weights = weights + rate * speed
    load_vector(network, weights.astype(np.float32))
    return network.eval()


def scores(network: torch.nn.Module, suites: dict, truth: list) -> tuple[float, float]:
    """Return the mean AUC over all sets, and the one on the unchanged images."""
    with torch.inference_mode():
        found = [
            roc_auc_score(truth, network(tasks.normalise(images[:, None]))[:, 0])
            for images in suites.values()
        ]
    return float(np.mean(found)), float(found[0])


def main(npz: Path) -> None:
    """Print one line for each federation."""
    chosen: dict[tuple[float, bool], float] = {}
    for seed in SEEDS:
        sites, suites, truth = pictures(npz, seed, ALL)
        held = banks(sites)
        for epsilon in EPSILONS:
            found: dict[tuple[bool, float], float] = {}
            for rate in LEARNING_RATES:
                for standardised in (False, True):
                    if chosen.get((epsilon, standardised), rate) != rate:
                        continue
                    began = time.process_time()
                    network = train(
                        held, epsilon=epsilon, seed=seed, rate=rate, standardised=standardised
                    )
                    spent = time.process_time() - began
                    mean, unchanged = scores(network, suites, truth)
                    found[standardised, rate] = mean
                    print(
                        f"seed {seed}, ε = {epsilon:g}, learning rate {rate}, "
                        f"{'standardised' if standardised else 'plain'}: "
                        f"{mean:.4f} / {unchanged:.4f}, {spent:.1f} s",
                        flush=True,
                    )
            for standardised in (False, True):
                best = max((s, r) for (which, r), s in found.items() if which == standardised)
                chosen.setdefault((epsilon, standardised), best[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
