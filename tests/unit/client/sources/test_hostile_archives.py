import io
import resource
import stat
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest

from septum.errors import Quarantine
from septum_client import sources
from septum_client.sources import Limits

GOOD = ("good", b"image" * 10)
BAD, EXPANDS = Quarantine.BAD_ARCHIVE, Quarantine.EXPANDS
MIB = 2**20


def zipped(*entries, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # two members of one name are a warning
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def found(tmp_path, data, **limits):
    """Return key, code and content length of all items of a folder with this one archive."""
    (tmp_path / "x.zip").write_bytes(data)
    items = sources.walk(tmp_path, Limits(**limits))
    return {item.key.removeprefix("x.zip/"): item.code or item.content for item in items}


def written_by_hand(entries, start=0):
    """Return an archive of ``(name, compressed, size, crc, method, offset or None)`` entries."""
    body, directory = bytearray(start), bytearray()
    for name, packed, size, crc, method, offset in entries:
        at = len(body) if offset is None else offset
        if offset is None:
            body += struct.pack(
                "<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 33, crc, len(packed), size, len(name), 0
            )
            body += name + packed
        directory += struct.pack(
            "<4s6H3I5H2I",
            *(b"PK\1\2", 20, 20, 0, method, 0, 33, crc, len(packed), size, len(name)),
            *(0, 0, 0, 0, 0, at),
        )
        directory += name
    count = min(len(entries), 0xFFFF)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def test_the_archives_made_by_hand_here_are_archives(tmp_path):
    packed = zlib.compress(GOOD[1], wbits=-15)
    data = written_by_hand([(b"good", packed, len(GOOD[1]), zlib.crc32(GOOD[1]), 8, None)])
    assert found(tmp_path, data) == {"good": GOOD[1]}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "\\\\server\\x",
        "C:/x",
        "c:\\x",
        "a/./x",
        "a//x",
        "..\\x",
        "d:x",
    ],
)
def test_a_path_that_leads_out_is_refused_and_the_rest_goes_on(tmp_path, name):
    assert found(tmp_path, zipped((name, b"1"), GOOD)) == {
        name.replace("\\", "/"): BAD,
        "good": GOOD[1],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_member_that_is_no_file_is_refused(tmp_path, kind):
    info = zipfile.ZipInfo("odd")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    assert found(tmp_path, zipped((info, b"/etc/passwd"), GOOD)) == {"odd": BAD, "good": GOOD[1]}


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_an_encrypted_member_is_refused(tmp_path, flag):
    data = bytearray(zipped(("hidden", b"1"), GOOD))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(mark) + at
        data[place : place + 2] = flag.to_bytes(2, "little")
    assert found(tmp_path, bytes(data)) == {"hidden": BAD, "good": GOOD[1]}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_a_cap_are_refused(tmp_path, method):
    assert found(tmp_path, zipped(GOOD, method=method)) == {"good": BAD}


@pytest.mark.parametrize("pair", [("a", "a"), ("d/a", "d\\a")])
def test_two_members_of_one_name_make_the_archive_ambiguous(tmp_path, pair):
    data = zipped((pair[0], b"1"), (pair[1], b"2"), GOOD)
    assert found(tmp_path, data) == {"x.zip": BAD}


def test_members_that_share_their_bytes_are_refused_unread(tmp_path, monkeypatch):
    content = bytes(MIB)
    packed = zlib.compress(content, wbits=-15)
    facts = (packed, len(content), zlib.crc32(content), 8)
    shared = [(b"000", *facts, None)] + [(b"%03d" % i, *facts, 0) for i in range(1, 200)]
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *a, **k: pytest.fail("read"))
    assert found(tmp_path, written_by_hand(shared)) == {"x.zip": BAD}


def test_members_that_quote_each_other_s_headers_are_refused(tmp_path):
    # Fifield's construction: the first member is a stored block that holds the second's header.
    inner = written_by_hand([(b"b", b"12345", 5, zlib.crc32(b"12345"), 0, None)])
    inner = inner[: inner.index(b"PK\1\2")]
    data = written_by_hand(
        [
            (b"a", inner, len(inner), zlib.crc32(inner), 0, None),
            (b"b", b"12345", 5, zlib.crc32(b"12345"), 0, 31),
        ]
    )
    assert found(tmp_path, data) == {"x.zip": BAD}


def test_a_member_that_reaches_into_the_directory_is_refused(tmp_path):
    data = bytearray(zipped(("a", b"1"), method=zipfile.ZIP_STORED))
    at = data.index(b"PK\1\2") + 20
    data[at : at + 8] = struct.pack("<2I", 60, 60)
    assert found(tmp_path, bytes(data)) == {"x.zip": BAD}


def test_a_member_beyond_the_ratio_is_refused_and_an_empty_mask_is_not(tmp_path):
    data = zipped(("bomb", bytes(17 * MIB)), ("mask", bytes(16 * MIB)))
    got = found(tmp_path, data)
    assert got["bomb"] is EXPANDS
    assert len(got["mask"]) == 16 * MIB


def test_a_member_that_is_honest_but_large_is_too_large(tmp_path):
    noise = np.random.default_rng(0).bytes(1000)
    data = zipped(("big", noise), GOOD)
    assert found(tmp_path, data, member_bytes=999) == {
        "big": Quarantine.TOO_LARGE,
        "good": GOOD[1],
    }


def test_an_archive_beyond_its_bytes_is_refused_whole(tmp_path):
    data = zipped(("a", b"x" * 600), ("b", b"y" * 600))
    assert found(tmp_path, data, archive_bytes=1199) == {"x.zip": EXPANDS}
    assert len(found(tmp_path, data, archive_bytes=1200)) == 2


def test_bytes_and_members_are_one_allowance_for_all_archives_in_an_archive(tmp_path):
    inner = zipped(("a", b"x" * 600), ("b", b"y"))
    data = zipped(("1.zip", inner), ("2.zip", inner))
    assert len(found(tmp_path, data)) == 4
    some = found(tmp_path, data, archive_bytes=2 * len(inner) + 700)
    assert some == {"1.zip/a": b"x" * 600, "1.zip/b": b"y", "2.zip": EXPANDS}
    some = found(tmp_path, data, members=5)
    assert some == {"1.zip/a": b"x" * 600, "1.zip/b": b"y", "2.zip": EXPANDS}


def test_archives_open_two_deep_and_no_deeper(tmp_path):
    deep = ("3.zip", zipped(GOOD))
    data = zipped(("2.zip", zipped(deep, GOOD)), GOOD)
    assert found(tmp_path, data) == {
        "2.zip/3.zip": EXPANDS,
        "2.zip/good": GOOD[1],
        "good": GOOD[1],
    }
    assert found(tmp_path, data, depth=1) == {"2.zip": EXPANDS, "good": GOOD[1]}


def test_an_archive_that_holds_itself_ends(tmp_path):
    data = zipped(GOOD)
    for _ in range(30):
        data = zipped(("again.zip", data))
    assert found(tmp_path, data) == {"again.zip/again.zip": EXPANDS}


def test_too_many_members_are_refused_before_an_object_is_made_of_each(tmp_path, monkeypatch):
    empty = (b"", 0, 0, 0, None)
    data = written_by_hand([(b"%06d" % i, *empty) for i in range(100_001)])
    (tmp_path / "x.zip").write_bytes(data)
    made = []
    real = zipfile.ZipInfo
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *a: made.append(a) or real(*a))
    tracemalloc.start()
    try:
        (item,) = sources.walk(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (item.code, item.kind) == (EXPANDS, "archive")
    assert made == []
    assert peak < len(data) * 1.2


def test_a_hundred_thousand_members_are_an_export(tmp_path):
    data = written_by_hand([(b"%06d" % i, b"", 0, 0, 0, None) for i in range(100_000)])
    (tmp_path / "x.zip").write_bytes(data)
    assert sources.count(tmp_path) == 100_000
    first = next(sources.walk(tmp_path))
    assert (first.key, first.code, first.content) == ("x.zip/000000", None, b"")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_one_refusal(tmp_path, kept):
    data = zipped(*[(f"{i}", b"image" * i) for i in range(50)])
    assert found(tmp_path, data[: int(len(data) * kept)]) == {"x.zip": BAD}


def test_a_directory_that_is_shorter_than_it_says_is_refused(tmp_path):
    data = zipped(GOOD, ("b", b"2"))
    at = data.index(b"PK\5\6")
    for cut in range(1, at - data.index(b"PK\1\2")):
        assert found(tmp_path, data[: at - cut] + data[at:]) == {"x.zip": BAD}


def test_a_member_that_is_not_what_the_directory_says_is_refused_alone(tmp_path):
    content = b"image" * 100
    packed = zlib.compress(content, wbits=-15)
    crc = zlib.crc32(content)
    lies = {
        "sum": (packed, len(content), crc ^ 1, 8),
        "short": (packed, len(content) - 1, crc, 8),
        "long": (packed, len(content) + 1, crc, 8),
        "noise": (b"\xff" * 20, 20, crc, 8),
        "stored": (content, len(content) + 1, crc, 0),
        "true": (packed, len(content), crc, 8),
    }
    data = written_by_hand([(name.encode(), *facts, None) for name, facts in lies.items()])
    assert found(tmp_path, data) == dict.fromkeys(lies, BAD) | {"true": content}


def test_a_member_that_understates_its_size_is_not_inflated_beyond_it(tmp_path):
    packed = zlib.compress(bytes(512 * MIB), wbits=-15)
    data = written_by_hand([(b"bomb", packed, 1000, zlib.crc32(bytes(1000)), 8, None)])
    (tmp_path / "x.zip").write_bytes(data)
    tracemalloc.start()
    try:
        list(sources.walk(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(packed) < MIB
    assert peak < 4 * MIB


def test_a_bomb_of_ten_gigabytes_passes_in_little_memory(tmp_path):
    # In its own process, which dies when it asks for more than a quarter of a gibibyte.
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(block.compress(bytes(16 * MIB)) for _ in range(12)) + block.flush()
    facts = (packed, 192 * MIB, zlib.crc32(bytes(192 * MIB)), 8, None)
    inner = written_by_hand([(b"%d" % i, *facts) for i in range(9)])
    nested = zlib.compress(inner, 9, wbits=-15)
    again = (nested, len(inner), zlib.crc32(inner), 8, None)
    (tmp_path / "x.zip").write_bytes(written_by_hand([(b"%d.zip" % i, *again) for i in range(6)]))
    assert 6 * 9 * 192 * MIB > 10e9
    code = (
        "import sys, pathlib, collections\n"
        "from septum_client import sources\n"
        "seen = collections.Counter(i.code for i in sources.walk(pathlib.Path(sys.argv[1])))\n"
        "sys.exit(0 if seen == {'DATA_122': 54} else 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (256 * MIB, 256 * MIB)),
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_no_byte_of_an_archive_can_make_the_walk_raise(tmp_path):
    raw = zipped(GOOD, ("d/b", b"2" * 300), ("in.zip", zipped(GOOD)))
    rng = np.random.default_rng(0)
    survived = 0
    for _ in range(400):
        broken = bytearray(raw)
        for at in rng.integers(4, len(raw), rng.integers(1, 5)):
            broken[at] = rng.integers(256)
        survived += GOOD[1] in found(tmp_path, bytes(broken)).values()
    assert 0 < survived < 400
