"""A view holds what its threat model grants, and cannot be made to hold anything else."""

from dataclasses import dataclass, field, fields
from itertools import chain, combinations

import numpy as np
import pytest

from septum.errors import ConfigError
from septum_bench.threat import (
    RELEASED,
    UNPROTECTED,
    AttackerView,
    Grant,
    ThreatModel,
    View,
    granted,
)

PART = (Grant.OBSERVED, Grant.LABELS, Grant.CANDIDATES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight(View):
    observed: object = granted(Grant.OBSERVED, default=None)
    labels: object = granted(Grant.LABELS, default=None)
    candidates: object = granted(Grant.CANDIDATES, default=None)


def holder(*grants):
    return ThreatModel(
        name="tester", attacker="a tester", protected=True, holds=dict.fromkeys(grants, "held")
    )


@pytest.mark.parametrize(
    "held", list(chain.from_iterable(combinations(PART, n) for n in range(len(PART) + 1)))
)
@pytest.mark.parametrize("wanted", PART)
def test_a_field_can_be_filled_exactly_where_its_grant_is_held(held, wanted):
    filled = {wanted.value: np.zeros(3)}
    if wanted in held:
        assert getattr(Sight(threat=holder(*held), **filled), wanted.value) is not None
    else:
        with pytest.raises(ConfigError, match=f"tester does not grant {wanted}"):
            Sight(threat=holder(*held), **filled)


def test_an_empty_field_needs_no_grant():
    assert Sight(threat=holder()).observed is None


def test_a_view_cannot_have_a_field_that_names_no_grant():
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Peek(View):
        truth: object = field(default=None)

    with pytest.raises(ConfigError, match="truth"):
        Peek(threat=holder(*Grant))


def test_a_view_is_frozen_once_it_was_checked():
    view = Sight(threat=holder())
    with pytest.raises(AttributeError):
        view.observed = np.zeros(3)


def test_the_inversion_view_grants_every_field_and_nobody_holds_the_truth():
    named = {each.metadata["grant"] for each in fields(AttackerView) if each.name != "threat"}
    assert named <= set(RELEASED.holds)
    assert not {"patient", "truth", "gallery"} & {each.name for each in fields(AttackerView)}
    assert Grant.NOISE not in UNPROTECTED.holds
