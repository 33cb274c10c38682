import json

import pytest
from pydantic import ValidationError

from septum import registry
from septum.accounting import Charge, epsilon
from septum.registry import Record

ASKED = {
    # What registries ask of a deployment, and where this record says it.
    "organisation": ("deployment", "organisation"),
    "product": ("deployment", "product"),
    "intended use": ("deployment", "intended_use"),
    "release frequency": ("deployment", "release_frequency"),
    "source": ("deployment", "source"),
    "privacy unit": ("guarantee", "privacy_unit"),
    "neighbouring relation": ("guarantee", "neighbouring_relation"),
    "epsilon": ("guarantee", "epsilon"),
    "delta": ("guarantee", "delta"),
    "deployment model": ("guarantee", "deployment_model"),
    "mechanism": ("details", "mechanism"),
    "accountant": ("details", "accountant"),
    "composition": ("details", "composition"),
    "post-processing": ("details", "post_processing"),
    "unprotected quantities": ("details", "unprotected"),
    "implementation": ("details", "implementation"),
}


def entry(study):
    return registry.of_study(study, organisation="St Elsewhere", url="https://example.org")


@pytest.mark.parametrize("asked", ASKED)
def test_a_record_answers_what_registries_ask(tiny, asked):
    part, key = ASKED[asked]
    assert json.loads(entry(tiny.study()).to_json())[part][key]


def test_a_record_is_read_back_by_its_own_schema_and_nothing_else_is(tiny):
    text = entry(tiny.study()).to_json()
    assert Record.model_validate_json(text, strict=True) == entry(tiny.study())
    fields = json.loads(text)
    for part, key, value in (
        ("guarantee", "epsilon", -1),
        ("guarantee", "delta", 0),
        ("guarantee", "privacy_unit", "one image"),
        ("guarantee", "neighbouring_relation", "replace one"),
        ("details", "sampling_rate", 2),
        ("details", "hidden", "x"),
        ("deployment", "identifier", "abc"),
    ):
        spoilt = json.loads(text)
        spoilt[part][key] = value
        with pytest.raises(ValidationError, match=key):
            Record.model_validate_json(json.dumps(spoilt), strict=True)
    del fields["details"]["accountant"]
    with pytest.raises(ValidationError, match="accountant"):
        Record.model_validate(fields)


def test_the_numbers_of_a_record_are_the_studys(tiny):
    study = tiny.study(rounds=4, recipients=["participants", "acme"])
    found = entry(study)
    one = study.mechanism("north").charge()
    assert found.guarantee.epsilon == epsilon([one] * 4, delta=1e-4)
    assert (found.guarantee.delta, found.guarantee.epsilon_is) == (1e-4, "planned")
    assert found.details.steps == 8
    assert found.details.randomness == "not drawn yet"
    assert found.deployment.identifier == study.digest
    assert found.deployment.recipients == ("participants", "acme")


def test_a_record_of_what_was_charged_says_a_seed(tiny):
    study = tiny.study()
    one = Charge(noise_multiplier=2.0, sampling_rate=0.5, steps=2)
    for seeded, word in ((True, "seeded"), (False, "system")):
        found = registry.of_charges(
            study, charges=[one], delta=1e-6, organisation="north", seeded=seeded
        )
        assert found.details.randomness == word
        assert found.details.noise_multiplier == 2.0
        assert found.guarantee.epsilon_is == "charged"
        assert found.guarantee.epsilon == epsilon([one], delta=1e-6)
        assert "the 1 rounds charged so far, of 3" in found.guarantee.scope
