"""Memory that was given back is used again without asking the system."""

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import numpy as np
from septum_client.allocator import keep_memory, kept_bytes

if sys.argv[1] == "kept":
    assert keep_memory()
counts = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(12 << 20)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*counts, kept_bytes() >> 20)
"""


def faults(how):
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True
    )
    return [int(count) for count in ran.stdout.split()]


ONE_A_HUGE_PAGE = 48
"""Faults of 96 MiB where the system hands out 2 MiB at once; else they are 24,576."""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is the GNU C library's")
def test_a_large_array_costs_no_page_faults_the_second_time():
    *each, _ = faults("as it is")
    assert min(each) >= ONE_A_HUGE_PAGE  # every time
    first, *later, _ = faults("kept")
    assert first >= ONE_A_HUGE_PAGE
    assert max(later) < ONE_A_HUGE_PAGE / 4


@pytest.mark.skipif(sys.platform != "linux", reason="mallinfo2 is the GNU C library's")
def test_what_is_kept_can_be_counted_as_free():
    assert faults("as it is")[-1] < 48
    assert 96 <= faults("kept")[-1] < 192
