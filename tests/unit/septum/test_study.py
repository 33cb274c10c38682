import json
from typing import get_args

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import ConfigError
from septum.study import PurposeOfUse, Reference, Study, load, parse

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
words = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp"))
positive = st.floats(1e-6, 1e6)


@st.composite
def studies(draw):
    prox = draw(st.booleans())
    sites = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    rate = draw(positive)
    return Study.model_validate(
        {
            "name": draw(names),
            "purpose": draw(st.text(words, min_size=1, max_size=40)),
            "purpose_of_use": draw(st.sampled_from(get_args(PurposeOfUse))),
            "commercial": draw(st.booleans()),
            "rounds": draw(st.integers(1, 10_000)),
            "data": {
                "image_size": draw(st.integers(16, 1024)),
                "labels": draw(
                    st.lists(
                        st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,9}", fullmatch=True),
                        min_size=1,
                        max_size=3,
                        unique=True,
                    )
                ),
                "test_fraction": draw(st.floats(0.01, 0.99)),
            },
            "model": {
                "name": draw(st.sampled_from(["small_cnn", "resnet18"])),
                "seed": draw(st.integers(0, 2**31)),
            },
            "training": {
                "learning_rate": rate,
                "images_per_patient": draw(st.integers(1, 64)),
                "proximal_mu": draw(st.floats(0.01, 0.9)) / rate if prox else 0.0,
            },
            "privacy": {
                "noise_multiplier": draw(st.floats(0.1, 1e6)),
                "max_grad_norm": draw(positive),
                "sampling_rate": draw(st.floats(1e-6, 1.0)),
                "steps_per_round": draw(st.integers(1, 1000)),
                "delta": draw(st.floats(1e-12, 0.0999)),
            },
            "strategy": {
                "name": "fedprox" if prox else "fedavg",
                "minimum_sites": draw(st.integers(1, len(sites))),
            },
            "sites": [{"name": name, "patients": draw(st.integers(1, 10**6))} for name in sites],
        }
    )


def leaves(value, path=()):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, (*path, key))
    else:
        yield path


def replaced(value, path, new):
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new(at[path[-1]])
    return copy


@settings(max_examples=100, deadline=None)
@given(studies())
def test_a_study_survives_toml(study):
    again = parse(study.to_toml())
    assert again == study
    assert again.digest == study.digest


@settings(max_examples=60, deadline=None)
@given(study=studies(), data=st.data())
def test_any_changed_value_changes_the_digest(study, data):
    fields = study.model_dump(mode="json")
    changed = {
        str: lambda v: (
            "small_cnn" if v == "resnet18" else "resnet18" if v == "small_cnn" else v + "x"
        ),
        int: lambda v: v + 1 if v != 1024 else v - 1,
        float: lambda v: v / 2 if v else 1.0,
        bool: lambda v: not v,
    }
    path = data.draw(st.sampled_from([p for p in leaves(fields) if p[0] != "format"]))
    other = replaced(fields, path, lambda v: changed[type(v)](v))
    if path == ("strategy", "name"):
        other = replaced(fields, path, lambda v: "fedavg" if v == "fedprox" else "fedprox")
    # Built without validation: the digest must depend on values that only a bug would let in.
    assert _digest_of(other) != study.digest == _digest_of(fields)


def _digest_of(fields):
    parts = {
        name: field.annotation.model_construct(**fields[name])
        for name, field in Study.model_fields.items()
        if isinstance(fields[name], dict)
    }
    participant = Study.model_fields["sites"].annotation.__args__[0]
    sites = tuple(participant.model_construct(**site) for site in fields["sites"])
    reference = {name: tuple(value) for name, value in fields["data"]["reference"].items()}
    update = {
        **{name: tuple(fields["data"][name]) for name in ("labels", "ranges", "positive_weight")},
        "reference": Reference.model_construct(**reference),
    }
    parts["data"] = parts["data"].model_copy(update=update)
    rest = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Study.model_construct(**(fields | rest | parts | {"sites": sites})).digest


def test_the_digest_is_64_hex_digits_and_stable_across_processes(tiny):
    # A golden value: a changed canonical form would orphan every approval on disk.
    digest = tiny.study().digest
    assert len(digest) == 64
    assert digest == parse(tiny.study().to_toml()).digest


@pytest.mark.parametrize(
    "place", ["", "[data]", "[privacy]", "[strategy]", "[model]", "[training]"]
)
def test_an_unknown_key_is_named(tiny, place):
    text = tiny.study().to_toml()
    line = "epsilom = 3\n"
    broken = line + text if not place else text.replace(place + "\n", f"{place}\n{line}")
    assert broken != text
    with pytest.raises(ConfigError, match=r"unknown key '.*epsilom'"):
        parse(broken)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("privacy", "noise_multiplier", 0),
        ("privacy", "noise_multiplier", -1),
        ("privacy", "noise_multiplier", float("nan")),
        ("privacy", "noise_multiplier", float("inf")),
        ("privacy", "max_grad_norm", 0),
        ("privacy", "max_grad_norm", float("inf")),
        ("privacy", "sampling_rate", 0),
        ("privacy", "sampling_rate", 1.01),
        ("privacy", "steps_per_round", 0),
        ("privacy", "delta", 0),
        ("privacy", "delta", float("nan")),
        ("data", "image_size", 8),
        ("data", "labels", []),
        ("training", "images_per_patient", 0),
        ("strategy", "minimum_sites", 0),
        ("strategy", "name", "krum"),
    ],
)
def test_a_value_outside_its_limits_names_its_key(tiny, part, key, value):
    fields = tiny.study().model_dump(mode="json")
    fields[part][key] = value
    text = _toml(fields)
    with pytest.raises(ConfigError, match=rf"{part}\.{key}"):
        parse(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "rounds"),
        ({"name": "Saint Mary"}, "name"),
        ({"sites": [{"name": "a", "patients": 1}, {"name": "a", "patients": 2}]}, "sites.name"),
        ({"strategy": {"name": "fedavg", "minimum_sites": 4}}, "minimum_sites"),
        ({"strategy": {"name": "fedprox", "minimum_sites": 2}}, "proximal_mu"),
        ({"training": {"proximal_mu": 0.1}}, "proximal_mu"),
        (
            {
                "strategy": {"name": "fedprox", "minimum_sites": 2},
                "training": {"learning_rate": 2.0, "proximal_mu": 0.6},
            },
            "overshoots",
        ),
        ({"rounds": "3"}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"model": {"name": "imprint_net"}}, "imprint_net"),
        ({"data": {"labels": ["sick", "sick"]}}, "data.labels"),
        ({"sites": []}, "sites"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(tiny, changes, words):
    fields = tiny.study().model_dump(mode="json") | changes
    with pytest.raises(ConfigError, match=words):
        parse(_toml(fields))


def test_a_missing_key_is_named(tiny):
    fields = tiny.study().model_dump(mode="json")
    del fields["privacy"]["delta"]
    with pytest.raises(ConfigError, match=r"privacy\.delta is missing"):
        parse(_toml(fields))


def test_text_that_is_not_toml_is_one_sentence():
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse("rounds = = 3")


def test_a_study_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "binary.toml")


def test_the_mechanism_is_made_of_public_constants_alone(tiny):
    mechanism = tiny.study().mechanism("south")
    assert mechanism.expected_patients == 0.5 * 10
    assert mechanism.steps == 2
    with pytest.raises(KeyError):
        tiny.study().mechanism("elsewhere")


def _toml(fields):
    return tomlkit.dumps(fields)


def test_a_study_is_for_research_and_not_commercial_unless_it_says_otherwise(tiny):
    study = tiny.study()
    assert (study.purpose_of_use, study.commercial) == ("HRESCH", False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "classification"}, "at least two labels"),
        ({"task": "regression"}, "ranges has 0 pairs"),
        ({"task": "regression", "ranges": [[3.0, 3.0]]}, "least value before"),
        ({"ranges": [[0.0, 1.0]]}, "ranges has 1 pairs"),
        ({"task": "regression", "ranges": [[0, 9]], "positive_weight": [2]}, "positive_weight"),
        ({"positive_weight": [2, 3]}, "positive_weight has 2"),
        ({"positive_weight": [0]}, "positive_weight"),
        ({"positive_weight": [float("inf")]}, "positive_weight"),
        ({"task": "segmentation"}, "segmentation"),
        ({"task": "survival"}, "task"),
        ({"depth": 0}, "depth"),
        ({"depth": 257}, "depth"),
    ],
)
def test_a_task_that_its_labels_cannot_serve_is_refused(tiny, data, words):
    fields = tiny.study().model_dump(mode="json")
    fields["data"] |= data
    with pytest.raises(ConfigError, match=words):
        parse(tomlkit.dumps(fields))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"weights": "abc"}, "weights"),
        ({"train": "tail"}, "train"),
        ({"lora_rank": 65}, "lora_rank"),
        ({"lora_rank": 4}, "needs train 'head'"),
        ({"weight_standardisation": 1}, "weight_standardisation"),
        ({"weight_standardisation": True, "train": "head"}, "needs train 'all'"),
        ({"weight_standardisation": True, "name": "vit"}, "a normalisation follows"),
        ({"options": {"width": 512}}, "options"),
    ],
)
def test_a_model_outside_the_registry_s_choices_is_refused(tiny, model, words):
    fields = tiny.study().model_dump(mode="json")
    fields["model"] |= model
    with pytest.raises(ConfigError, match=words):
        parse(tomlkit.dumps(fields))


@pytest.mark.parametrize(
    ("key", "value"), [("purpose_of_use", "TREAT"), ("purpose_of_use", ""), ("commercial", "yes")]
)
def test_a_purpose_that_no_record_of_consent_can_name_is_refused(tiny, key, value):
    fields = tiny.study().model_dump(mode="json") | {key: value}
    with pytest.raises(ConfigError, match=key):
        parse(tomlkit.dumps(fields))


ACTING = ["\x1b[2K", "\n", "\t", "\x00", "\x9b2J", "\u202e", "\u200b", "\u2028", "\ufeff"]
FREE = [
    ("purpose", lambda text: {"purpose": text}),
    ("approvals.0.number", lambda text: {"approvals": [{"number": text, "body": "IRB"}]}),
    ("approvals.0.body", lambda text: {"approvals": [{"number": "17", "body": text}]}),
    ("name", lambda text: {"name": text}),
    ("recipients.0", lambda text: {"recipients": [text]}),
    ("data.labels.0", lambda text: {"data": {"labels": [text]}}),
]


@pytest.mark.parametrize("acting", ACTING, ids=ascii)
@pytest.mark.parametrize(("key", "part"), FREE, ids=[key for key, _ in FREE])
def test_a_character_that_acts_is_refused_in_every_text_by_its_key(tiny, key, part, acting):
    for text in (f"sick{acting}", f"{acting}sick", f"si{acting}ck"):
        fields = tiny.study().model_dump(mode="json")
        for name, value in part(text).items():
            fields[name] = fields[name] | value if isinstance(value, dict) else value
        with pytest.raises(ConfigError) as refused:
            parse(tomlkit.dumps(fields))
        assert f": {key}: " in refused.value.message


def test_a_purpose_in_any_script_is_taken(tiny):
    purpose = "Détecter l’épanchement : 胸水を見つける (Flüssigkeit, jusqu’à 5\u00a0mm)"
    assert parse(tiny.study(purpose=purpose).to_toml()).purpose == purpose
