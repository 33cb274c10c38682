import copy
import pickle

import pytest

from septum.errors import (
    AdmissionError,
    BudgetExceeded,
    Code,
    ConfigError,
    DataError,
    EngineError,
    GateRefusal,
    LedgerError,
    Quarantine,
    Refusal,
    WireError,
)

ERRORS = [
    *(kind("value 3, limit 2.", remedy="Lower it.") for kind in (
        AdmissionError, BudgetExceeded, ConfigError, DataError, EngineError, LedgerError, WireError
    )),
    Refusal(Code.NO_POLICY, "no policy.", remedy="Write one."),
    GateRefusal(Code.UPDATE_NORM, "too long."),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_error_survives_the_way_between_processes(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.exit_code > 0


def test_codes_are_unique_and_of_one_form():
    every = [*Code, *Quarantine]
    assert len({code.value for code in every}) == len(every)
    assert all(code.value.startswith("SITE_2") for code in Code)
    assert all(code.value.startswith("DATA_1") for code in Quarantine)


def test_exit_codes_tell_kinds_of_failure_apart():
    kinds = {type(error) for error in ERRORS} - {BudgetExceeded, GateRefusal, AdmissionError}
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
