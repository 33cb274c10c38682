import io
import zipfile

from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab

from septum.fab import CLIENT_APP, PYPROJECT, SERVER_APP, fab, fab_digest


def test_the_bundle_holds_configuration_and_no_module():
    with zipfile.ZipFile(io.BytesIO(fab())) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]
        assert bundle.read("pyproject.toml").decode() == PYPROJECT
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in bundle.infolist())


def test_the_bundle_is_the_same_everywhere():
    # What hospitals compare with: to change it is to change what every one of them must run.
    assert fab() == fab()
    assert fab_digest() == "c9eca1d7701d2ec6eee4303b1b6dd4cc62df700de26d5e7496ada70b16293c77"


def test_flower_takes_the_bundle(tmp_path):
    assert get_fab_metadata(fab()) == ("septum/septum-study", "1.0.0")
    installed = install_from_fab(fab(), tmp_path, skip_prompt=True)
    assert [path.name for path in installed.iterdir()] == ["pyproject.toml"]


def test_the_bundle_names_the_two_apps_of_the_installed_package():
    assert (CLIENT_APP, SERVER_APP) == ("septum_client.app:app", "septum_server.app:app")
