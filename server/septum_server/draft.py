"""A new study as commented TOML: a start that a person edits, and everybody can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tomlkit

from septum.accounting import noise_for
from septum.errors import ConfigError
from septum.joining import SiteCard
from septum.recipes import RECIPES, recipe_for
from septum.study import parse

_HEAD: Final = (
    "A study: data, never code. Edit it, then sign it: septum study sign FILE.",
    "After signing, one changed byte is another study, which every hospital reviews anew.",
)
_WORDS: Final[dict[str, str]] = {
    "purpose": "for people: the research question, in a sentence or two",
    "purpose_of_use": "HL7 v3 PurposeOfUse, held against each patient's consent",
    "commercial": "held against consent as well",
    "recipients": "who gets the model: participants, public, or an organisation's name",
    "rounds": "each costs every patient privacy",
    "expires": "last day of training, YYYY-MM-DD, UTC; empty for none",
    "data.image_size": "pixels a side",
    "data.labels": "in the order of the network's outputs",
    "data.test_fraction": "patients who are never trained on",
    "model.name": "`septum model list` shows all",
    "model.initial": "SHA-256 of the first model's vector; `study sign` fills it in",
    "model.weights": "SHA-256 of public weights to start from; empty for the seed alone",
    "training.mirror": "must be false where a finding has a side",
    "privacy.noise_multiplier": "standard deviation over the clip; `septum privacy plan`",
    "privacy.max_grad_norm": "the clip",
    "privacy.sampling_rate": "chance of each patient in each step",
    "privacy.delta": "well below 1 / patients of the largest hospital",
    "strategy.minimum_sites": "the quorum: fewer answers make no round",
    "participation.deadline_s": "seconds that a hospital has to answer a round",
    "participation.dropout": "below the quorum: stop, or retry the same round",
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a coordinator is asked before there is a study.

    Args:
      name: Public name.
      purpose: The research question.
      task: ``data.task``; chooses the recipe.
      labels: What is learnt.
      image_size: Pixels a side.
      epsilon: Most that a patient pays over all rounds.
      delta: At which delta.
      rounds: Rounds; None for the recipe's.
      expires: Last day of training, or empty.
      approvals: Pairs of number and body.
      purpose_of_use: HL7 v3 code.
      commercial: Whether the use is commercial.
      recipients: Who gets the model.
      quorum: Fewest sites of a round; None for all but one, at least two.
      deadline_s: Seconds that a site has to answer.
      model: Registered network; empty for the recipe's.
    """

    name: str
    purpose: str
    task: str
    labels: tuple[str, ...]
    image_size: int
    epsilon: float
    delta: float = 1e-5
    rounds: int | None = None
    expires: str = ""
    approvals: tuple[tuple[str, str], ...] = ()
    purpose_of_use: str = "HRESCH"
    commercial: bool = False
    recipients: tuple[str, ...] = ("participants",)
    quorum: int | None = None
    deadline_s: int = 3600
    model: str = ""


def fields_of(wishes: Wishes, cards: Sequence[SiteCard]) -> dict[str, Any]:
    """Return the study's fields: the recipe of its task, at the noise that keeps its epsilon.

    Args:
      wishes: What was answered.
      cards: The hospitals', each with the patients that it declares.

    Raises:
      ConfigError: No hospital, one that declares no patients, no such task, or an
        epsilon that no noise keeps.
    """
    undeclared = [card.name for card in cards if not card.patients]
    if not cards or undeclared:
        raise ConfigError(
            f"{len(cards)} site cards were given"
            + (f"; {', '.join(undeclared)} declares no patients." if undeclared else "."),
            remedy="Add each hospital with --site CARD; ask it to declare its patients, or say "
            "--patients NAME=NUMBER.",
        )
    recipe = RECIPES["masks"] if wishes.task == "segmentation" else recipe_for(wishes.task)
    rounds = wishes.rounds or recipe.rounds
    noise = noise_for(
        target=wishes.epsilon,
        delta=wishes.delta,
        sampling_rate=recipe.sampling_rate,
        steps=rounds * recipe.steps_per_round,
    )
    quorum = wishes.quorum or min(len(cards), max(2, len(cards) - 1))
    return {
        "format": 1,
        "name": wishes.name,
        "purpose": wishes.purpose,
        "purpose_of_use": wishes.purpose_of_use,
        "commercial": wishes.commercial,
        "recipients": list(wishes.recipients),
        "rounds": rounds,
        "expires": wishes.expires,
        "approvals": [{"number": number, "body": body} for number, body in wishes.approvals],
        "data": {
            "image_size": wishes.image_size,
            "task": wishes.task,
            "labels": list(wishes.labels),
            "test_fraction": 0.25,
        },
        "model": {"name": wishes.model or recipe.model, "seed": 0, "weights": ""},
        "training": recipe.training.model_dump(mode="json"),
        "privacy": {
            "noise_multiplier": noise,
            "max_grad_norm": recipe.max_grad_norm(wishes.epsilon),
            "sampling_rate": recipe.sampling_rate,
            "steps_per_round": recipe.steps_per_round,
            "delta": wishes.delta,
        },
        "strategy": recipe.strategy.model_dump(mode="json") | {"minimum_sites": quorum},
        "participation": {"deadline_s": wishes.deadline_s, "dropout": "stop"},
        "sites": [
            {
                "name": card.name,
                "patients": card.patients,
                "key": card.key,
                "node_key": card.node_key,
            }
            for card in sorted(cards, key=lambda card: card.name)
        ],
    }


def declared(cards: Sequence[SiteCard], said: Mapping[str, str]) -> list[SiteCard]:
    """Return the cards with the patients that ``said`` gives a hospital which declares none.

    Raises:
      ConfigError: A number is none, or is of a hospital that has no card or declares its own.
    """
    silent = {card.name for card in cards if not card.patients}
    for name, number in said.items():
        if name not in silent or not (number.isdecimal() and int(number) > 0):
            raise ConfigError(
                f"--patients {name}={number} cannot be used.",
                remedy="Give a whole number above 0, for a hospital whose card declares none.",
            )
    return [
        card.model_copy(update={"patients": int(said.get(card.name, card.patients))})
        for card in cards
    ]


def commented(fields: dict[str, Any]) -> str:
    """Return ``fields`` as TOML with a word on each key that needs one.

    Guarantees:
      - :func:`septum.study.parse` reads it back to the study of ``fields``.

    Raises:
      ConfigError: They are not a study's; names the key.
    """
    parse(tomlkit.dumps(fields), source="the new study")
    document = tomlkit.document()
    for line in _HEAD:
        document.add(tomlkit.comment(line))
    document.add(tomlkit.nl())
    _fill(document, fields, "")
    return tomlkit.dumps(document)


def _fill(table: Any, fields: dict[str, Any], prefix: str) -> None:
    # TOML: plain keys before tables, or they would belong to the last table.
    for name, value in sorted(fields.items(), key=lambda pair: _is_table(pair[1])):
        if isinstance(value, dict):
            inner = tomlkit.table()
            _fill(inner, value, f"{name}.")
            table.add(name, inner)
        else:
            item = tomlkit.item(value)
            if words := _WORDS.get(prefix + name):
                item.comment(words)
            table.add(name, item)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or bool(
        isinstance(value, list) and value and isinstance(value[0], dict)
    )
