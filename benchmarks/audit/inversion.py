"""Gradient inversion on pydicom's four images: PSNR and SSIM of one image each, per CPU second.

    nice -n 10 .venv/bin/python benchmarks/audit/inversion.py [--rows "ConvNet, batch 1;BN"]
    nice -n 10 .venv/bin/python benchmarks/audit/inversion.py --held-out

One thread; ``process_time``. Every row has its null (the same attack, seed and
scoring, on the gradient of four phantoms of chest films) and its blind guess
(mean of the images that are not attacked; of all four where all are). Data
range 1, optimal assignment, mean over images. No public image is used; labels
are inferred from the gradient, not given.
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from four_images import CLASSES, FILES, HELD_OUT, SIDE, Floats, images, network
from rich.console import Console
from rich.table import Table

from septum.tasks import Classification
from septum_bench.attacks.batch_inversion import BatchView, invert_batch, mean_gradient, weights_of
from septum_bench.attacks.gradient_matching import MatchingConfig
from septum_bench.attacks.labels import HeadView, as_labels, count_labels
from septum_bench.attacks.matching import assigned
from septum_bench.attacks.similarity import psnr, ssim
from septum_bench.phantoms.public import public_images
from septum_bench.threat import Grant, ThreatModel

LOSS = Classification(CLASSES).loss
SERVER = ThreatModel(
    name="gradient inversion of one step, unprotected",
    attacker="a coordinator who receives the exact mean gradient of one batch",
    protected=False,
    holds={
        Grant.MODEL: "network, initial weights, loss, normalisation and its mode",
        Grant.OBSERVED: "the exact mean gradient",
        Grant.LABELS: "labels inferred from the same gradient",
        Grant.LOCAL_TRAINING: "the size of the batch",
        Grant.PUBLIC_IMAGES: "noise images, to see what the network says",
    },
)
SINGLE = MatchingConfig(evaluations=300, box_weight=1.0, tv_weight=1e-3, spread=0.1)
BATCH = replace(SINGLE, evaluations=600, layer_power=0.5, tv_weight=3e-3)
# With one label nothing tells the images apart but their own patterns, and single runs end in
# different mixtures of them: their mean is nearer than any one.
ALIKE = replace(BATCH, evaluations=450, restarts=3, consensus=True)
POOLED = MatchingConfig(
    evaluations=100,
    restarts=4,
    consensus=True,
    stages=1,
    sharpness=(3.0, 3.0),
    tv_weight=1e-2,
    prior_weight=1e-2,
    spread=0.05,
)
SIGMOID = replace(SINGLE, evaluations=1200, layer_power=0.5)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``bar`` is what has to be beaten, as printed in attacks.md."""

    name: str
    network: str
    classes: tuple[int, ...]
    config: MatchingConfig
    alone: bool = False
    training: bool = False
    bar: str


ROWS = (
    Row(name="LeNet, batch 1", network="LeNet", classes=(0, 1, 2, 3), config=SIGMOID, alone=True,
        bar="19.4 / 0.60, 18 s"),
    Row(name="ConvNet, batch 1", network="ConvNet", classes=(0, 1, 2, 3), config=SINGLE,
        alone=True, bar="21.6 / 0.70, 36 s"),
    Row(name="ResNet8-GN, batch 1", network="ResNet8-GN", classes=(0, 1, 2, 3), config=POOLED,
        alone=True, bar="12.2 (blind), 219 s"),
    Row(name="ConvNet, batch 4, four labels", network="ConvNet", classes=(0, 1, 2, 3),
        config=BATCH, bar="21.8 / 0.69, 131 s"),
    Row(name="ConvNet, batch 4, one label", network="ConvNet", classes=(0, 0, 0, 0),
        config=ALIKE, bar="14.1 / 0.37, 130 s"),
    Row(name="ConvNet-BN, batch 4, train mode", network="ConvNet-BN", classes=(0, 1, 2, 3),
        config=BATCH, training=True, bar="16.3 / 0.48, 84 s"),
)  # fmt: skip


def observe(row: Row, pixels: Floats, labels: Floats) -> Floats:
    model = network(row.network).train(row.training)
    layers = mean_gradient(
        model,
        weights_of(model, torch.device("cpu")),
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        loss=LOSS,
    )
    return torch.cat([layer.detach().flatten() for layer in layers]).numpy()


def attack(row: Row, observed: Floats, batch: int) -> Floats:
    model = network(row.network).train(row.training)
    noise = np.random.default_rng(0).random((16, 1, SIDE, SIDE), dtype=np.float32)
    head = HeadView(threat=SERVER, network=model, loss=LOSS, task="classification",
                    observed=observed, batch=batch, public_images=noise)  # fmt: skip
    labels = as_labels(count_labels(head), batch=batch, task="classification")
    view = BatchView(threat=SERVER, network=model, loss=LOSS, side=SIDE,
                     observed=observed, labels=labels)  # fmt: skip
    return invert_batch(view, config=row.config).images


def scores(row: Row, source: Floats, truth: Floats) -> tuple[list[float], list[float], float]:
    """Return PSNR and SSIM of each image of ``truth``, attacking gradients of ``source``."""
    labels = np.eye(CLASSES, dtype=np.float32)[list(row.classes)]
    groups = [[place] for place in range(len(truth))] if row.alone else [list(range(len(truth)))]
    decibels, likeness, started = [], [], time.process_time()
    for group in groups:
        made = attack(row, observe(row, source[group], labels[group]), len(group))
        best = assigned(made, truth[group, 0])
        decibels += [float(each) for each in psnr(best, truth[group, 0])]
        likeness += [float(each) for each in ssim(best, truth[group, 0])]
    return decibels, likeness, (time.process_time() - started) / len(groups)


def guess(row: Row, truth: Floats) -> tuple[float, float]:
    """Return the blind guess's mean PSNR and SSIM; it may look at the other images, if any."""
    flat = truth[:, 0]
    if row.alone:
        made = np.stack([np.delete(flat, place, 0).mean(0) for place in range(len(flat))])
    else:
        made = np.broadcast_to(flat.mean(0), flat.shape)
    made = made.astype(np.float32)
    return float(psnr(made, flat).mean()), float(ssim(made, flat).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", default="", help="only rows with one of these in their name, by ;"
    )
    parser.add_argument("--no-null", action="store_true", help="leave the null runs out")
    parser.add_argument(
        "--held-out", action="store_true", help="attack four other files, to tune on"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=170)
    table = Table("row", "PSNR / SSIM", "worst for the patient", "null", "blind", "CPU s", "bar")
    truth = images(HELD_OUT if options.held_out else FILES)
    others = public_images(len(truth), SIDE, 1)
    for row in ROWS:
        if options.rows and not any(part in row.name for part in options.rows.split(";")):
            continue
        decibels, likeness, seconds = scores(row, truth, truth)
        null = "-"
        if not options.no_null:
            chance, alike, _ = scores(row, others, truth)
            null = f"{np.mean(chance):.1f} / {np.mean(alike):.2f}"
        blind = guess(row, truth)
        cells = (
            row.name,
            f"{np.mean(decibels):.1f} / {np.mean(likeness):.2f}",
            f"{max(decibels):.1f} / {max(likeness):.2f}",
            null,
            f"{blind[0]:.1f} / {blind[1]:.2f}",
            f"{seconds:.0f}",
            row.bar,
        )
        table.add_row(*cells)
        console.print(" | ".join(cells))
    console.print(table)


if __name__ == "__main__":
    main()
