import json

import pytest

from septum import egress
from septum.cli import build_app
from septum.errors import ConfigError


def run(*arguments):
    build_app()(["egress", *arguments], standalone_mode=False)


def test_the_command_prints_the_manifest_as_json(capsys):
    run("fl.example.org:8443", "--metric", "steps", "--parameters", "1000")
    printed = json.loads(capsys.readouterr().out)
    assert printed == egress.manifest(
        address="fl.example.org:8443", metrics=("steps",), parameters=1000
    )


@pytest.mark.parametrize("address", ["nowhere", ":8443", "host:", "host:0", "host:70000", "h:x"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        run(address)


def test_a_metric_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="'loss' is no metric"):
        run("h:1", "--metric", "loss")
