"""Does correlated noise beat DP-SGD's independent noise at few steps? Computed, not trained.

.venv/bin/python benchmarks/banded_noise.py

DP-SGD: noise of each step independent, every patient in every step with
probability q. Banded matrix factorisation (Choquette-Choo et al. 2023,
arXiv:2306.08153): noise of a step correlated with the b - 1 before, patients
in b fixed groups that take turns, each sampled with probability b * q; its
privacy is that of DP-SGD with T / b steps at rate b * q (their theorem 4).
Shown is the standard deviation of the noise in the model, in units of one
step's clip, at epsilon and delta of PneumoniaMNIST's recipe: of the last model
and the root mean square over all. Momentum is the workload's, as in
server momentum. One band is DP-SGD.
"""

import numpy as np
from scipy.optimize import minimize

from septum.accounting import noise_for

STEPS, DELTA, MOMENTUM = 40, 1e-5, 0.9


def workload(momentum: float) -> np.ndarray:
    """Return which share of each step's sum is in each later model, ``(steps, steps)``."""
    path = np.cumsum(momentum ** np.arange(STEPS))
    lag = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
    return np.where(lag >= 0, path[np.maximum(lag, 0)], 0.0)


def strategy(coefficients: np.ndarray) -> np.ndarray:
    """Return the banded Toeplitz matrix with columns of norm one: sensitivity one a turn."""
    band = np.concatenate([[1.0], coefficients])
    matrix = np.zeros((STEPS, STEPS))
    for lag, value in enumerate(band):
        matrix += value * np.eye(STEPS, k=-lag)
    return matrix / np.linalg.norm(matrix, axis=0)


def errors(work: np.ndarray, coefficients: np.ndarray) -> tuple[float, float]:
    """Return noise of the last model and its root mean square over models, at noise one."""
    mixed = np.linalg.solve(strategy(coefficients).T, work.T).T
    every = np.sqrt(np.square(mixed).sum(axis=1))
    return float(every[-1]), float(np.sqrt(np.square(every).mean()))


def main() -> None:
    """Print one Markdown row per rate, bands and epsilon."""
    work = workload(MOMENTUM)
    print("| q | bands | ε | noise multiplier | last model | all models, RMS |")
    print("|---|---|---|---|---|---|")
    for rate, bands in ((0.5, 1), (0.5, 2), (0.25, 1), (0.25, 2), (0.25, 4), (0.1, 1), (0.1, 8)):
        start = 0.5 ** np.arange(1, bands)
        best = (
            minimize(lambda c, w=work: errors(w, c)[1], start, method="Nelder-Mead").x
            if bands > 1
            else start
        )
        last, every = errors(work, best)
        for epsilon in (1.0, 3.0, 8.0):
            noise = noise_for(
                target=epsilon,
                delta=DELTA,
                sampling_rate=min(1.0, rate * bands),
                steps=STEPS // bands,
            )
            # A step's sum grows with the rate: divide, to compare noise with signal.
            print(
                f"| {rate:g} | {bands} | {epsilon:g} | {noise:.3f} "
                f"| {noise * last / rate:.1f} | {noise * every / rate:.1f} |"
            )


if __name__ == "__main__":
    main()
