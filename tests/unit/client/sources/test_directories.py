"""What a DICOMDIR names is counted in bounded time and memory, whatever it says."""

import struct
import time

from septum_client.sources import Item
from septum_client.sources.dicomdir import Roll


def record(*parts):
    value = "\\".join(parts).encode()
    return b"\x04\x00\x00\x15CS" + struct.pack("<H", len(value)) + value


def roll_of(content, *keys):
    roll = Roll()
    items = [Item(key="DICOMDIR", kind="index", content=content), *(Item(key=key) for key in keys)]
    assert list(roll.watch(items)) == items
    return roll


def test_what_never_came_is_counted_whatever_the_case_of_its_name():
    content = record("IMAGES", "A1") + record("IMAGES", "B2") + record("IMAGES", "B2")
    assert roll_of(content, "images/a1").missing == 1
    assert roll_of(content, "images/a1", "IMAGES/B2;1").missing == 0


def test_a_directory_made_to_be_slow_is_not():
    hostile = (b"\x04\x00\x00\x15CS\xff\xff" + b"\\" * 8) * (2**20 // 16)
    began = time.process_time()
    assert roll_of(hostile).missing == 0
    # Two orders of magnitude above what it takes; the fault it guards against took hours.
    assert time.process_time() - began < 20


def test_of_directories_and_keys_only_hashes_of_names_are_kept():
    roll = roll_of(record("A" * 1000) + b"\0" * 2**20, "B" * 1000)
    assert len(roll.named) == 1
    kept = [*roll.named, *roll.keys]
    assert all(isinstance(each, int) and each.bit_length() <= 64 for each in kept)


def test_no_more_names_are_looked_at_than_the_limit_however_many_directories_hold_them():
    content = b"".join(record(f"{i:04}") for i in range(40))
    roll = Roll(looks=100)
    items = [Item(key=f"{i}/DICOMDIR", kind="index", content=content) for i in range(4)]
    assert list(roll.watch(items)) == items
    assert (roll.missing, roll.looks) == (100, 0)
