import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from septum import bundle, tensors
from septum.errors import DataError, Refusal
from septum.models import build, network_of, parameter_count, to_vector
from septum.study import Study


def study_of(tiny, model, **data):
    fields = tiny.study().model_dump(mode="json")
    fields["data"] |= {"image_size": 32} | data
    fields["model"] |= model
    return Study.model_validate(fields)


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Z0-9_.\-]{1,12}", fullmatch=True),
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(1, 4), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
def test_tensors_survive_a_file_and_their_order_does_not_matter(described):
    named = {
        name: torch.arange(float(np.prod(shape, dtype=int))).reshape(shape).to(dtype)
        for name, (dtype, shape) in described.items()
        if name != "__metadata__"
    }
    content = tensors.encode(named)
    assert content == tensors.encode(dict(reversed(named.items())))
    if named:
        again = tensors.decode(content)
        assert set(again) == set(named)
        for name, value in named.items():
            assert again[name].dtype == value.dtype
            assert torch.equal(again[name], value)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 200))
def test_a_damaged_file_is_refused_or_read_as_finite_tensors_and_never_crashes(at, byte, cut):
    content = bytearray(tensors.encode({"a": torch.ones(3, 2), "b": torch.ones(2).half()}))
    content[at % len(content)] = byte
    try:
        read = tensors.decode(bytes(content[: len(content) - cut]))
    except DataError:
        return
    assert all(value.isfinite().all() for value in read.values())


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 1 << 60),
        file_of(b"[]"),
        file_of(b"\xff\xfe"),
        file_of(b"[" * 100_000),
        file_of({}),
        file_of({"a": entry([1], 0, 4)}),
        file_of({"a": entry([1], 0, 4)}, b"\0" * 5),
        file_of({"a": entry([1], 1, 5)}, b"\0" * 5),
        file_of({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"\0" * 6),
        file_of({"a": entry([2], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([-1, -1], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([0, 10**30], 0, 0)}),
        file_of({"a": entry([True], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([1], 0, 4, "OBJECT")}, b"\0" * 4),
        file_of({"a": entry([1] * 9, 0, 4)}, b"\0" * 4),
        file_of({"../a": entry([1], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([1], 0, 4) | {"code": "x"}}, b"\0" * 4),
        file_of({"a": 3}, b"\0" * 4),
        file_of({"a": entry([1], 0, 4)}, b"\0\0\xc0\x7f"),
        file_of(b'{"a": {}, "a": {}}'),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(content):
    with pytest.raises(DataError, match="safetensors format"):
        tensors.decode(content)


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MOST_BYTES", 16)
    (tmp_path / "w").write_bytes(b"\0" * 17)
    with pytest.raises(DataError, match="larger"):
        tensors.read(tmp_path / "w")
    with pytest.raises(DataError, match="cannot be read"):
        tensors.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ({"name": "small_cnn"}, {}),
        ({"name": "unet"}, {"task": "segmentation"}),
        ({"name": "vit", "train": "head", "lora_rank": 2}, {}),
        ({"name": "swin_unetr", "train": "head"}, {"task": "segmentation"}),
        ({"name": "small_cnn", "weight_standardisation": True}, {}),
    ],
)
def test_an_exported_model_comes_in_again_and_computes_the_same(tiny, tmp_path, model, data):
    study = study_of(tiny, model, **data)
    network = network_of(study)
    rng = np.random.default_rng(0)
    vector = (0.1 * rng.normal(size=parameter_count(network))).astype(np.float32)
    digest = bundle.export(study, vector, tmp_path / "out")
    bundle.load_vector(network, vector)
    weights = bundle.read_weights(tmp_path / "out")
    assert bundle.keep(tmp_path / "kept", weights) == digest
    kept = {key: model[key] for key in ("name", "weight_standardisation") if key in model}
    next_study = study_of(tiny, kept | {"weights": digest}, **data)
    start = network_of(next_study, weights=bundle.weights_of(next_study, tmp_path / "kept"))
    images = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(start(images), network(images), atol=1e-4)


def test_monai_and_torch_read_what_is_exported(tiny, tmp_path):
    study = study_of(tiny, {"name": "resnet18"})
    vector = to_vector(network_of(study))
    bundle.export(study, vector, tmp_path / "out")
    plain = torch.load(tmp_path / "out" / "models" / "model.pt", weights_only=True)
    model = build("resnet18", channels=1, outputs=1, seed=9)
    model.load_state_dict(plain)
    assert to_vector(model).tobytes() == vector.tobytes()
    fields = bundle.read_metadata(tmp_path / "out")
    assert fields["network_data_format"]["outputs"]["pred"]["num_channels"] == 1
    assert fields["septum"]["study"] == study.digest


@pytest.mark.parametrize("standardised", [False, True])
def test_the_exported_configuration_makes_the_network_in_monai_s_own_parser(
    tiny, tmp_path, standardised
):
    model = {"name": "segresnet", "weight_standardisation": standardised}
    study = study_of(tiny, model, task="segmentation")
    bundle.export(study, to_vector(network_of(study)), tmp_path / "out")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "out" / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    assert to_vector(network).tobytes() == to_vector(network_of(study)).tobytes()
    images = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), network_of(study)(images))
    assert parser.get_parsed_content("inferer").roi_size == [32, 32]


def test_a_bundle_is_never_written_over(tiny, tmp_path):
    study = study_of(tiny, {})
    with pytest.raises(DataError, match="exists"):
        bundle.export(study, to_vector(network_of(study)), tmp_path)
    with pytest.raises(Refusal):
        bundle.export(study, np.zeros(3, np.float32), tmp_path / "other")
    assert not (tmp_path / "other").exists()


PLANTED = Path(tempfile.gettempdir()) / "planted-by-a-bundle"


class Planted:
    def __reduce__(self):
        return (PLANTED.touch, ())


def test_a_pickle_is_never_read(tmp_path):
    (tmp_path / "models").mkdir()
    pickled = tmp_path / "models" / "model.pt"
    torch.save({"a": Planted()}, pickled)
    for path in (tmp_path, pickled):
        with pytest.raises(DataError, match="safetensors"):
            bundle.read_weights(path)
    assert not PLANTED.exists()


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_weights_that_were_cut_short_are_refused(tmp_path, keep):
    digest = bundle.keep(tmp_path, {"a.weight": torch.ones(2, 2)})
    path = tmp_path / f"{digest}.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        bundle.read_weights(path)


def test_no_expression_of_a_foreign_configuration_is_evaluated(tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    text = '{"version": "$__import__(\'os\').getcwd()"}'
    (configs / "metadata.json").write_text(text)
    assert bundle.read_metadata(tmp_path) == json.loads(text)
    for broken in ("[]", "{", "[" * 100_000, " " * ((1 << 20) + 1)):
        (configs / "metadata.json").write_text(broken)
        with pytest.raises(DataError, match="metadata"):
            bundle.read_metadata(tmp_path)
    assert bundle.read_metadata(tmp_path / "absent") == {}


def test_weights_are_what_the_study_names_or_nothing(tiny, tmp_path):
    weights = build("small_cnn", channels=1, outputs=1, seed=4).state_dict()
    digest = bundle.keep(tmp_path, weights)
    study = study_of(tiny, {"weights": digest})
    network = network_of(study, weights=bundle.weights_of(study, tmp_path))
    assert torch.equal(network.head.weight, weights["head.weight"])
    assert bundle.weights_of(study_of(tiny, {}), tmp_path) is None
    other = study_of(tiny, {"weights": "0" * 64})
    with pytest.raises(Refusal, match="not in"):
        bundle.weights_of(other, tmp_path)
    (tmp_path / f"{digest}.safetensors").rename(tmp_path / f"{'0' * 64}.safetensors")
    with pytest.raises(Refusal, match="not the file"):
        bundle.weights_of(other, tmp_path)


def test_a_checkpoint_of_another_study_is_not_exported(tiny, tmp_path):
    study = study_of(tiny, {})
    path = tmp_path / "round-00001.npz"
    model = to_vector(network_of(study))
    np.savez(path, model=model, round=np.int64(1), digest=np.array(study.digest))
    assert bundle.read_model(path, study).tobytes() == model.tobytes()
    with pytest.raises(DataError, match="belongs to"):
        bundle.read_model(path, study_of(tiny, {"seed": 1}))
    path.write_bytes(b"no")
    with pytest.raises(DataError, match="no checkpoint"):
        bundle.read_model(path, study)
