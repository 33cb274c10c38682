"""Broken DICOM files against the de-identification engine, for as many minutes as wished.

    .venv/bin/python benchmarks/fuzz_deid.py --minutes 10 --seed 1 [--keep FOLDER]

Mutates pydicom's bundled files (bits, bytes, lengths, tags, VRs, cuts, repeats,
splices, deep nesting; no coverage guidance) and sends each through parse, rebuild,
write, proof and decode. The work is done in a child process under RLIMIT_AS, so that
a crash, a hang of more than ``--seconds`` or memory beyond ``--gigabytes`` is counted
and the run goes on. Prints executions, endings by code, crashes with the number that
reproduces each, and the largest resident memory of any child. Exits 1 on any crash,
hang or exception other than a refusal.
"""

import argparse
import collections
import io
import multiprocessing as mp
import os
import random
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pydicom
import pydicom.data

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "client" / "deid"))
import mutations

from septum_client.deid import proof
from septum_client.deid.rebuild import Options, rebuild
from septum_client.imaging import parse
from septum_client.imaging.decode import frame_values, stored_frames
from septum_client.reject import Rejected

KEY = b"fuzz" * 8
MOST_BYTES = 400_000  # larger seeds only make it slower
OPTIONS = Options(
    dates="shift", patient_characteristics=True, pixels_checked=False, faces_removed=False
)


def seeds() -> list[bytes]:
    """Return the files to break."""
    folder = Path(pydicom.data.__file__).parent
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"})
    return [data for p in files if 300 < len(data := p.read_bytes()) < MOST_BYTES]


def case(files: list[bytes], seed: int, number: int) -> bytes:
    """Return the broken file of that number; the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable faults, no secret
    return mutations.mutated(rng.choice(files), files, rng)


def ending(data: bytes) -> str:
    """Return how the file ended."""
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
    except MemoryError:
        return "out of memory"
    except Exception as error:  # noqa: BLE001 - counted: it should have been a refusal
        at = error.__traceback__
        while at and at.tb_next:
            at = at.tb_next
        where = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else ""
        return f"exception {type(error).__name__} at {where}"
    return "stopped by the proof" if left else "proved"


def child(pipe: Connection, seed: int, limit: int) -> None:
    """Answer each case's number with its ending and this process's peak memory."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the codecs' own remarks
    files = seeds()
    while True:
        number = pipe.recv()
        said = ending(case(files, seed, number))
        pipe.send((said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def start(seed: int, limit: int) -> tuple[mp.Process, Connection]:
    here, there = mp.Pipe()
    process = mp.get_context("spawn").Process(target=child, args=(there, seed, limit), daemon=True)
    process.start()
    there.close()
    return process, here


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=30, help="longer is a hang")
    options.add_argument("--gigabytes", type=float, default=4, help="address space of the child")
    options.add_argument("--keep", type=Path, help="folder for the files that broke something")
    args = options.parse_args()
    limit = int(args.gigabytes * 2**30)
    endings: collections.Counter[str] = collections.Counter()
    broken: dict[str, list[int]] = collections.defaultdict(list)
    peak = number = 0
    process, pipe = start(args.seed, limit)
    begun = time.monotonic()
    while time.monotonic() - begun < args.minutes * 60:
        pipe.send(number)
        # A fresh child first imports everything, which is no hang of the engine.
        said, fault = "", False
        if not pipe.poll(args.seconds + 30 * (peak == 0)):
            said, fault = "hang", True
        else:
            try:
                said, rss = pipe.recv()
                peak = max(peak, rss)
                fault = said.startswith(("exception", "out of memory"))
            except (EOFError, ConnectionResetError):
                process.join()
                said, fault = f"crash (exit {process.exitcode})", True
        endings[said] += 1
        if fault:
            broken[said].append(number)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.seed}-{number}.dcm").write_bytes(
                    case(seeds(), args.seed, number)
                )
            if not said.startswith("exception"):
                process.kill()
                process.join()
                process, pipe = start(args.seed, limit)
        number += 1
    process.kill()
    minutes = (time.monotonic() - begun) / 60
    print(f"{number} executions in {minutes:.1f} min, {number / minutes / 60:.0f} a second")
    for said, times in endings.most_common():
        print(f"{times:8d}  {said}")
    for said, numbers in broken.items():
        print(f"seed {args.seed}, cases {numbers[:10]}: {said}")
    print(f"largest resident memory of a child: {peak / 1024:.0f} MiB")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
