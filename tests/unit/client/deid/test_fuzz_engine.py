"""No broken file makes the engine crash, hang or leak: it is refused, or it comes out proved."""

import io
import random
import time
import tracemalloc
from pathlib import Path

import mutations
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from septum_client.deid import proof
from septum_client.deid.rebuild import Options, rebuild
from septum_client.imaging import parse
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.reject import Rejected

KEY = b"k" * 32
OPTIONS = Options(
    dates="shift", patient_characteristics=True, pixels_checked=False, faces_removed=False
)
SEEDS = [
    "CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm", "image_dfl.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm",
    "liver_1frame.dcm", "nested_priv_SQ.dcm", "badVR.dcm", "rtdose.dcm",
]  # fmt: skip
FILES = [Path(get_testdata_file(name, download=False)).read_bytes() for name in SEEDS]


def engine(data: bytes) -> str:
    """Return how the file ended: a code of refusal, or proved."""
    try:
        with parse.silent():
            original = parse.parse(data)
            clean = rebuild(original, key=KEY, options=OPTIONS)
            out = io.BytesIO()
            pydicom.dcmwrite(out, clean, enforce_file_format=True)
            left = proof.survivors(proof.identifiers(original), out.getvalue())
            for index, stored in enumerate(stored_frames(clean)):
                frame_values(clean, index, stored)
    except Rejected as rejected:
        return rejected.code.value
    return "left" if left else "proved"


def test_the_seeds_themselves_pass_or_are_refused():
    ended = [engine(data) for data in FILES]
    assert ended.count("proved") >= 10
    assert "left" not in ended


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(which=st.sampled_from(range(len(FILES))), seed=st.integers(0, 2**32))
def test_a_broken_file_is_refused_or_comes_out(which, seed):
    # A mutation may copy a name into a kept number's place: then the proof must stop it.
    engine(mutations.mutated(FILES[which], FILES, random.Random(seed)))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_jp2klossless.dcm", "image_dfl.dcm"])
def test_a_file_cut_anywhere_in_its_header_is_refused_or_comes_out(name):
    data = FILES[SEEDS.index(name)]
    for end in range(0, min(len(data), 3000), 37):
        engine(data[:end])


def test_memory_and_time_stay_bounded_whatever_a_length_says():
    rng = random.Random(1)
    tracemalloc.start()
    slowest = 0.0
    for _ in range(40):
        data = bytearray(rng.choice(FILES))
        for _ in range(3):
            mutations.edit_length(data, rng)
        start = time.process_time()
        engine(bytes(data))
        slowest = max(slowest, time.process_time() - start)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 * 2**20
    assert slowest < 20
