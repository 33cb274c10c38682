"""Septum beside three de-identifiers: the same files, one run, taking turns.

    .venv/bin/python benchmarks/deid/compare.py [--repetitions 5] [--peers .venv-deid]

Files: what pydicom bundles and can read and write, and phantoms. Each tool is a
process of its own that lives on; for each file the tools take turns, in another
order each time. Four passes:

- plain files: CPU, crashes, images bit by bit, what dciodvfy says;
- the same with ~480 identifiers planted in each (``places.toml``): survivors;
- native images with three words painted in, and the same without, each tool's own
  pixel step on;
- the tables, over what each tool put out and over what all put out.

"Septum, defaults" is a new site's policy. "Septum" lets heads through and takes
every capture as looked at by a person: what other tools never refuse.
"""

import argparse
import os
import statistics
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from corpus import corpus
from paint import Painted, paint, words_left
from plant import Planted, plant
from score import errors, image, image_kept, survivors
from tables import Outcome, cost_table, painted_table, refusals_table, survivors_table
from tools import DEFAULTS, TOOLS, Tool


@dataclass(kw_only=True)
class Pass:
    """What each tool made of each file of one pass: ``outcomes[tool][file]``."""

    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=lambda: defaultdict(dict))

    def by_all(self) -> list[str]:
        """Return the files that every tool put out."""
        first, *others = self.outcomes.values()
        return [
            name
            for name in first
            if all(found[name].status == "done" for found in (first, *others))
        ]


def turns(tools: list[Tool], round_number: int) -> list[Tool]:
    at = round_number % len(tools)
    return tools[at:] + tools[:at]


def run(
    tools: list[Tool], files: dict[str, Path], out: Path, *, repetitions: int, pixels: bool
) -> Pass:
    """Give every file to every tool, ``repetitions`` times, and keep the last output."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    found = Pass()
    for repetition in range(repetitions):
        for number, (name, path) in enumerate(files.items()):
            for tool in turns(tools, number + repetition):
                target = out / tool.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                said = tool.ask(path, target, pixels=pixels)
                times[tool.name, name].append(said["cpu_s"])
                found.outcomes[tool.name][name] = Outcome(
                    status=said["status"], why=said["why"], path=target
                )
    for (tool_name, name), spent in times.items():
        found.outcomes[tool_name][name].cpu_ms = 1000 * statistics.median(spent)
    return found


def judge_plain(found: Pass, files: dict[str, Path]) -> None:
    """Fill in whether the image is the same and which errors dciodvfy adds."""
    for name, path in files.items():
        before, known = image(path.read_bytes()), errors(path)
        for outcomes in found.outcomes.values():
            outcome = outcomes[name]
            if outcome.status == "done":
                if before is not None:
                    outcome.image_kept = image_kept(before, outcome.path.read_bytes())
                outcome.new_errors = sum((errors(outcome.path) - known).values())


def written(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.dcm"
    path.write_bytes(data)
    return path


def spread(names: list[str], count: int) -> list[str]:
    """Return at most ``count`` of the names, from beginning to end."""
    step = max(1, -(-len(names) // count))
    return names[::step]


def main(arguments: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        plain, planted, painted = {}, {}, {}
        seeds: dict[str, Planted] = {}
        words: dict[str, Painted] = {}
        compressed: dict[str, bool] = {}
        for number, (source, data) in enumerate(corpus(work, limit=arguments.limit)):
            name = f"{number:04d}"
            try:
                seeds[name] = plant(data, seed=number)
            except Exception as error:  # noqa: BLE001 - counted and named below
                print(f"left out, cannot be planted ({type(error).__name__}): {source.name}")
                continue
            plain[name] = written(work / "plain", name, data)
            planted[name] = written(work / "planted", name, seeds[name].data)
            syntax = pydicom.dcmread(plain[name], stop_before_pixels=True).file_meta
            compressed[name] = syntax.TransferSyntaxUID.is_encapsulated
            if (words_in := paint(data, seed=number)) is not None:
                words[name] = words_in
        for name in spread(list(words), arguments.painted):
            painted[name] = written(work / "painted", name, words[name].data)
        chosen = [name for name in TOOLS if name in arguments.tools]
        tools = [Tool.start(name, peers=arguments.peers) for name in chosen]
        try:
            timed = [tool for tool in tools if tool.name != DEFAULTS]
            cost = run(
                timed, plain, work / "out-plain", repetitions=arguments.repetitions, pixels=False
            )
            judged = [tool for tool in tools if tool.name != "pydicom"]
            leak = run(judged, planted, work / "out-planted", repetitions=1, pixels=False)
            looking = [tool for tool in judged if tool.name != "Septum"]
            unpainted = {name: plain[name] for name in painted}
            seen = run(looking, painted, work / "out-painted", repetitions=1, pixels=True)
            control = run(looking, unpainted, work / "out-control", repetitions=1, pixels=True)
        finally:
            for tool in tools:
                tool.stop()
        judge_plain(cost, plain)
        for outcomes in leak.outcomes.values():
            for name, outcome in outcomes.items():
                if outcome.status == "done":
                    outcome.left = survivors(seeds[name], outcome.path.read_bytes())
        for outcomes in seen.outcomes.values():
            for name, outcome in outcomes.items():
                if outcome.status == "done":
                    left = words_left(words[name], outcome.path.read_bytes())
                    outcome.left = Counter({"words": left})
        print(f"{len(plain)} files, {sum(compressed.values())} of them compressed; ", end="")
        print(f"{arguments.repetitions} repetitions, taking turns; load average ", end="")
        print(f"{load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.\n")
        print(cost_table(cost.outcomes, compressed=compressed))
        planted_tokens = {name: seed.tokens for name, seed in seeds.items()}
        print("Over the files that each tool put out:\n")
        print(survivors_table(leak.outcomes, planted_tokens, files=None))
        refused = leak.outcomes.pop(DEFAULTS, {})
        both = leak.by_all()
        print(f"Over the {len(both)} files that all tools put out:\n")
        print(survivors_table(leak.outcomes, planted_tokens, files=both))
        print(refusals_table(leak.outcomes | {DEFAULTS: refused}))
        planted_words = {name: len(words[name].lines) for name in painted}
        print(painted_table(seen.outcomes, control.outcomes, words=planted_words))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=Path(".venv-deid"))
    parser.add_argument("--limit", type=int, default=10**6, help="files, for a quick look")
    parser.add_argument("--painted", type=int, default=30, help="images with words painted in")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    sys.exit(main(parser.parse_args()))
