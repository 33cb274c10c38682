import functools
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septum.errors import ConfigError, Quarantine
from septum_client.reject import Rejected
from septum_client.screening import deface, face_surface
from septum_client.screening.deface import Defacer, remove_face

SIZE_MM = 3.0
SHAPE = (70, 86, 90)  # right, front, top
AFFINE = np.diag([SIZE_MM, SIZE_MM, SIZE_MM, 1.0])
AFFINE[:3, 3] = -0.5 * SIZE_MM * np.array(SHAPE)


def ball(centre, radii):
    """Voxels inside an ellipsoid; millimetres from the middle of the volume."""
    axes = [(np.arange(n) - n / 2) * SIZE_MM for n in SHAPE]
    grid = np.meshgrid(*axes, indexing="ij")
    parts = zip(grid, centre, radii, strict=True)
    return sum(((g - c) / r) ** 2 for g, c, r in parts) <= 1


@functools.cache
def head(scale=1.0, noise=20.0):
    """Draw a head 152 mm broad with neck, jaw, nose and orbits; signal 600 on noise."""

    def part(centre, radii):
        return ball(np.array(centre) * scale, np.array(radii) * scale)

    tissue = part((0, 0, 30), (76, 95, 80)) | part((0, 25, -35), (52, 62, 78))
    tissue |= part((0, -10, -110), (48, 48, 90)) | part((0, 92, -20), (13, 20, 22))
    for side in (-32, 32):
        tissue &= ~part((side, 92, 5), (15, 14, 11))
    values = np.where(tissue, 600.0, 0.0)
    values[part((0, 0, 40), (66, 84, 62))] = 900
    rng = np.random.default_rng(0)
    return (values + np.abs(rng.normal(0, noise, SHAPE))).astype(np.float32)


def cut(values, scale=1.0):
    """Remove the face below the brow as a defacer would: everything in front of a plane."""
    axes = [(np.arange(n) - n / 2) * SIZE_MM for n in SHAPE]
    _, front, top = np.meshgrid(*axes, indexing="ij")
    gone = (top < 22 * scale) & (front > 45 * scale)
    return np.where(gone, 0, values).astype(np.float32)


def test_a_face_that_was_cut_off_is_gone_and_the_brain_is_kept():
    found = face_surface.compare(head(), cut(head()), AFFINE)
    assert set(found.skin_left) == {"eyes", "nose", "mouth"}
    assert found.face_is_gone
    assert found.brain_is_kept


def test_an_untouched_head_still_has_its_face():
    found = face_surface.compare(head(), head(), AFFINE)
    assert min(found.skin_left.values()) > 0.9
    assert not found.face_is_gone


def test_other_noise_and_other_brightness_do_not_hide_a_face():
    other = head(noise=35) * 1.3
    assert not face_surface.compare(head(), other, AFFINE).face_is_gone


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("the nose alone is gone", lambda v: np.where(ball((0, 92, -20), (16, 24, 26)), 0, v)),
        ("the neck is gone", lambda v: np.where(np.arange(SHAPE[2]) < 14, 0, v)),
        ("the back is gone", lambda v: np.where(np.arange(SHAPE[1])[:, None] < 30, 0, v)),
        ("faint noise lies before it", lambda v: np.where(v < 100, v + 60, v)),
        ("the signal alone was changed", lambda v: v * 0.6),
    ],
)
def test_half_a_job_is_not_believed(name, after):
    assert not face_surface.compare(head(), after(head()), AFFINE).face_is_gone, name


def test_a_tool_that_cuts_the_brain_is_not_believed():
    after = cut(head())
    after[:, :, 50:60] = 0
    found = face_surface.compare(head(), after, AFFINE)
    assert found.face_is_gone
    assert not found.brain_is_kept


def test_an_empty_volume_has_no_face_that_could_be_seen_to_go():
    nothing = np.zeros(SHAPE, dtype=np.float32)
    assert not face_surface.compare(nothing, nothing, AFFINE).face_is_gone


@settings(max_examples=4, deadline=None)
@given(st.permutations([0, 1, 2]), st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3))
def test_the_verdict_does_not_depend_on_how_the_voxels_are_stored(order, signs):
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for stored, axis in enumerate(order):
        matrix[axis, stored] = signs[stored] * SIZE_MM
    flips = tuple(slice(None, None, sign) for sign in signs)

    def turned(values):
        return np.transpose(values, order)[flips]

    gone = face_surface.compare(turned(head()), turned(cut(head())), matrix)
    kept = face_surface.compare(turned(head()), turned(head()), matrix)
    assert gone.face_is_gone
    assert not kept.face_is_gone


def test_a_childs_head_is_measured_in_its_own_proportions():
    small = head(scale=0.8)
    assert not face_surface.compare(small, small, AFFINE).face_is_gone
    assert face_surface.compare(small, cut(small, scale=0.8), AFFINE).face_is_gone


def program(folder, body):
    """Install a defacer of a few lines, and return it."""
    path = folder / "bin" / "testdeface"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys, os, nibabel, numpy as np\n{body}\n")
    path.chmod(0o755)
    return Defacer(executable="testdeface", arguments=("{scan}", "{defaced}"), package="none")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEPTUM_SECRET", "key")
    monkeypatch.setattr(deface.tempfile, "tempdir", str(tmp_path))
    return lambda body: program(tmp_path, body)


CUT = """
scan = nibabel.load(sys.argv[1])
values = scan.get_fdata()
front = (np.arange(values.shape[1]) - values.shape[1] / 2) * 3.0
top = (np.arange(values.shape[2]) - values.shape[2] / 2) * 3.0
values[:, (front > 45)[:, None] & (top < 22)] = 0
nibabel.save(nibabel.Nifti1Image(values.astype("float32"), scan.affine), sys.argv[2])
"""
COPY = "nibabel.save(nibabel.load(sys.argv[1]), sys.argv[2])"


def test_a_tool_that_works_gives_the_volume_with_air_where_the_face_was(tool, tmp_path):
    before = head() - 1000
    after = remove_face(before, AFFINE, defacer=tool(CUT))
    assert np.isclose(after.min(), before.min(), atol=1e-3)
    assert np.allclose(after, cut(before + 1000 - head().min()) - 1000 + head().min(), atol=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    "body",
    [
        COPY,
        "sys.exit(1)",
        "pass",
        "open(sys.argv[2], 'w').write('no scan')",
        CUT.replace("save(", "save(0) if 0 else sys.exit(3) or (") + ")",
        CUT.replace("values.astype", "values[1:].astype"),
        CUT.replace("= 0", "= 0; values[:, :, 50:60] = 0"),
    ],
)
def test_whatever_else_a_tool_does_the_scan_stays_out_and_nothing_stays_behind(
    tool, tmp_path, body
):
    with pytest.raises(Rejected) as stopped:
        remove_face(head(), AFFINE, defacer=tool(body))
    assert stopped.value.code is Quarantine.FACE
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_tool_that_hangs_is_killed_with_what_it_started(tool, tmp_path):
    marker = tmp_path / "bin" / "child"
    body = (
        "import subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(marker)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    with pytest.raises(Rejected):
        remove_face(head(), AFFINE, defacer=tool(body), time_limit_s=5)
    child = Path("/proc") / marker.read_text()
    ended = time.monotonic() + 10
    while child.exists() and "Z" not in child.joinpath("stat").read_text().split()[2]:
        assert time.monotonic() < ended, "the child lives"


def test_the_tool_sees_a_private_folder_and_nothing_of_our_environment(tool, tmp_path):
    note = tmp_path / "bin" / "note"
    body = (
        f"open({str(note)!r}, 'w').write(f'{{os.stat(os.getcwd()).st_mode & 0o777:o}} '"
        " + ' '.join(sorted(os.environ)))\n" + COPY
    )
    with pytest.raises(Rejected):
        remove_face(head(), AFFINE, defacer=tool(body))
    mode, *names = note.read_text().split()
    assert mode == f"{stat.S_IRWXU:o}"
    assert "SEPTUM_SECRET" not in names
    assert "HOME" in names


def test_the_scan_on_the_disk_carries_no_name(tool, tmp_path):
    note = tmp_path / "bin" / "note"
    body = (
        "header = nibabel.load(sys.argv[1]).header\n"
        "words = [bytes(header[k]).strip(b'\\0') for k in ('descrip', 'db_name', 'aux_file')]\n"
        f"open({str(note)!r}, 'w').write(repr(words))\n" + COPY
    )
    with pytest.raises(Rejected):
        remove_face(head(), AFFINE, defacer=tool(body))
    assert note.read_text() == "[b'', b'', b'']"


def test_without_a_tool_the_policy_cannot_be_kept_and_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert deface.installed() is None
    with pytest.raises(ConfigError, match="none of mideface") as stopped:
        deface.require()
    assert "FreeSurfer" in stopped.value.remedy


def test_the_first_tool_on_the_path_is_taken(tool, tmp_path):
    tool("pass")
    for name in ("pydeface", "fsl_deface"):
        (tmp_path / "bin" / name).symlink_to(tmp_path / "bin" / "testdeface")
    assert deface.require().executable == "fsl_deface"


def test_a_command_line_holds_our_own_paths_and_no_more():
    for known in deface.DEFACERS:
        line = known.command(scan=Path("/t/scan.nii.gz"), defaced=Path("/t/defaced.nii.gz"))
        assert "/t/scan.nii.gz" in line
        assert "/t/defaced.nii.gz" in line
        assert not [word for word in line if "{" in word]
