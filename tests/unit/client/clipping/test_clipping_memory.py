from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from septum.models import build
from septum_client.clipping import free_bytes, physical_batch, row_bytes

CPU = torch.device("cpu")
SIZES = st.integers(1, 1 << 34)


@given(
    row=SIZES,
    parameters=st.integers(1, 10**9),
    most=st.integers(1, 300),
    expected=st.floats(0.01, 1e4),
    free=st.integers(0, 1 << 40),
)
def test_a_batch_holds_one_patient_and_no_more_than_fits(row, parameters, most, expected, free):
    size = physical_batch(
        row=row, parameters=parameters, most=most, expected=expected, free=free, device=CPU
    )
    assert size >= most
    assert size >= 2
    assert size in {most, 2} or size * row <= free
    assert size <= max(32, most)


@given(free=st.integers(1 << 28, 1 << 38), off=st.floats(-0.01, 0.01))
def test_more_memory_never_makes_a_smaller_batch_and_a_little_rarely_another(free, off):
    def size(bytes_free):
        return physical_batch(
            row=1 << 22, parameters=10**6, most=1, expected=100, free=bytes_free, device=CPU
        )

    assert size(free) <= size(free * 2)
    assert size(int(free * (1 + off))) in {size(free) // 2, size(free), size(free) * 2}


def machine(root: Path, *, free_kib: int, limits: dict[str, tuple[str, str]]) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {free_kib} kB\n")
    for folder, values in limits.items():
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        names = (
            ("memory.max", "memory.current")
            if folder.endswith("cgroup")
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        (root / folder).mkdir(exist_ok=True)
        for name, value in zip(names, values, strict=True):
            (root / folder / name).write_text(value + "\n")
    return root


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 4096 << 10),
        ({"sys/fs/cgroup": ("max", "5")}, 4096 << 10),
        ({"sys/fs/cgroup": ("3000", "1000")}, 2000),
        ({"sys/fs/cgroup": ("3000", "9000")}, 0),
        ({"sys/fs/cgroup/memory": ("7000", "1000")}, 6000),
    ],
)
def test_free_memory_is_the_machines_or_the_containers_if_that_is_less(tmp_path, limits, expected):
    assert free_bytes(CPU, root=machine(tmp_path, free_kib=4096, limits=limits)) == expected


def test_this_machine_has_free_memory():
    assert free_bytes(CPU) > 1 << 20


def test_weights_that_are_standardised_are_not_counted_for_each_image():
    plain, standardised = (
        build("resnet18", channels=1, outputs=1, seed=0, weight_standardisation=switch)
        for switch in (False, True)
    )
    size = row_bytes(plain, (1, 32, 32), device=CPU)
    assert row_bytes(standardised, (1, 32, 32), device=CPU) == size


def test_a_larger_image_keeps_more_bytes():
    model = build("small_cnn", channels=1, outputs=1, seed=0)
    small, large = (row_bytes(model, (1, side, side), device=CPU) for side in (32, 64))
    assert 3 < large / small < 5
    assert small > 4 * 32 * 32
