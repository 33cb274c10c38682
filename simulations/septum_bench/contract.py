"""The simulated study: written from the plan, and signed as a coordinator signs one."""

from pathlib import Path

from septum.accounting import Charge, epsilon, noise_for, rounds_within
from septum.errors import ConfigError
from septum.models import network_of, to_vector
from septum.signed_study import SignedStudy, load_signed, sign
from septum.study import Model, Privacy, Study
from septum.training import Aggregation, Training
from septum.wire import payload_digest
from septum_bench import hospitals
from septum_bench.plan import Plan
from septum_client.cohort import Cohort
from septum_client.site import write_durably


def signed_study(
    plan: Plan, folder: Path, cohorts: dict[str, Cohort], *, noise: float
) -> SignedStudy:
    """Return the study of the run in ``folder``, written and signed at its first start.

    Raises:
      ConfigError: More sites are asked for than there are.
      DataError: A hospital has too few patients.
    """
    path = folder / "study.toml"
    if path.exists():
        return load_signed(path)
    prox = plan.strategy == "fedprox"
    participants = hospitals.declare(cohorts, seed=plan.seed)
    if (plan.minimum_sites or 1) > len(participants):
        raise ConfigError(
            f"minimum_sites is {plan.minimum_sites}, but there are {len(participants)} hospitals.",
            remedy="Ask for at most as many as there are.",
        )
    study = Study(
        name="simulation",
        purpose="Simulated on one machine; no hospital takes part.",
        rounds=plan.rounds,
        data=hospitals.data_of(next(iter(cohorts.values())).spec),
        model=Model(name=plan.model, seed=plan.seed),
        training=Training(
            learning_rate=plan.learning_rate,
            images_per_patient=plan.images_per_patient,
            proximal_mu=plan.proximal_mu if prox else 0.0,
            optimizer=plan.optimizer,
            momentum=plan.momentum,
            views=plan.views,
            augmentation=plan.augmentation,
            mirror=plan.mirror,
            label_smoothing=plan.label_smoothing,
        ),
        privacy=Privacy(
            noise_multiplier=noise,
            max_grad_norm=plan.max_grad_norm,
            sampling_rate=plan.sampling_rate,
            steps_per_round=plan.steps_per_round,
            delta=plan.delta,
            clipping=plan.clipping,
        ),
        strategy=Aggregation(
            name=plan.strategy,
            learning_rate=plan.server_learning_rate,
            momentum=plan.server_momentum,
            ema=plan.ema,
            minimum_sites=plan.minimum_sites or max(1, len(participants) // 2),
        ),
        sites=participants,
    )
    # As a coordinator does it: hospitals then hold the first round's model against this digest.
    start = payload_digest(to_vector(network_of(study)))
    model = study.model.model_copy(update={"initial": start})
    signed = sign(study.model_copy(update={"model": model}), hospitals.coordinator_key(plan.seed))
    write_durably(path, signed.to_toml().encode())
    return signed


def affordable_noise(plan: Plan) -> float:
    """Return the study's noise multiplier.

    Raises:
      ConfigError: The plan's budget does not pay for its rounds.
    """
    if plan.noise_multiplier is None:
        steps = plan.rounds * plan.steps_per_round
        return noise_for(
            target=plan.epsilon, delta=plan.delta, sampling_rate=plan.sampling_rate, steps=steps
        )
    charge = Charge(
        noise_multiplier=plan.noise_multiplier,
        sampling_rate=plan.sampling_rate,
        steps=plan.steps_per_round,
    )
    cost = epsilon([charge] * plan.rounds, delta=plan.delta)
    if cost > plan.epsilon:
        pays = rounds_within(charge, limit=plan.epsilon, delta=plan.delta, most=plan.rounds)
        raise ConfigError(
            f"{plan.rounds} rounds cost epsilon {cost:.2f} at delta {plan.delta:g}; "
            f"the hospitals' limit is {plan.epsilon:g}, which pays for {pays} rounds.",
            remedy=f"Use --rounds {pays}, more noise, or a larger --epsilon."
            if pays
            else "Use more noise, fewer steps per round, or a larger --epsilon.",
        )
    return plan.noise_multiplier
