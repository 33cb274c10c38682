import numpy as np
from typer.testing import CliRunner

from septum.bundle import weights_of
from septum.cli import build_app
from septum.models import MODELS, build, network_of, to_vector
from septum.study import Study


def run(*arguments):
    result = CliRunner().invoke(build_app(), ["model", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_names_every_network():
    text = run("list")
    assert all(name[:8] in text for name in MODELS)


def test_a_model_goes_out_as_a_bundle_and_comes_in_as_public_weights(tiny, tmp_path):
    study = tiny.study()
    (tmp_path / "study.toml").write_text(study.to_toml())
    model = to_vector(build("small_cnn", channels=1, outputs=1, seed=8))
    path = tmp_path / "round-00001.npz"
    np.savez(path, model=model, round=np.int64(1), digest=np.array(study.digest))
    said = run("export", tmp_path / "study.toml", path, "--out", tmp_path / "bundle")
    kept = run("import", tmp_path / "bundle", "--weights", tmp_path / "weights")
    digest = kept.split('"')[1]
    assert digest == said.split('"')[1]
    fields = study.model_dump(mode="json")
    fields["model"] |= {"weights": digest}
    named = Study.model_validate(fields)
    network = network_of(named, weights=weights_of(named, tmp_path / "weights"))
    assert to_vector(network).tobytes() == model.tobytes()
