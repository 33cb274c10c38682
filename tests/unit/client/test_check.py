"""What stands between an export and a cohort, said without a value of anybody."""

import itertools
import re

import numpy as np
import pytest

from septum.study import Reference
from septum_client import check as checking
from septum_client.rules import Intake
from septum_client.sandbox.pool import Pool

KEY = bytes(range(32))
RULES = Intake(burned_in_text="header")
COUNT = re.compile(r"(?<![.\w])[1-4]\b(?!\.)")


def check(source, **kwargs):
    return {
        line.name: line
        for line in checking.check(
            source, key=KEY, rules=RULES, decisions={}, **{"wanted": ["sick"]} | kwargs
        )
    }


def image(seed, *, mean=1000):
    """Return bright tissue in a dark frame, as all radiographs of one kind are."""
    y, x = np.mgrid[:24, :24] - 11.5
    body = mean * (x**2 + y**2 < 90)
    return (body + np.random.default_rng(seed).integers(0, 200, (24, 24))).astype(np.uint16)


@pytest.fixture
def export(tmp_path, dcm):
    """Return a maker of exports of twenty images, each as ``change`` says."""

    def make(change=lambda number: {}, sick=lambda number: number % 2, total=20):
        folder = tmp_path / "export"
        for number in range(total):
            fields = {
                "pixels": image(number),
                "Modality": "DX",
                "PixelSpacing": [0.2, 0.2],
                "PatientName": "Lindqvist^Anna",
            } | change(number)
            dcm.write(
                folder / f"f{number:02d}",
                patient=f"Lindqvist{number}",
                instance=f"1.2.3.{number + 1}",
                **fields,
            )
        rows = [(f"Lindqvist{number}", sick(number)) for number in range(total)]
        dcm.table(folder, rows)
        return folder

    return make


def test_an_export_in_order_is_all_right(export):
    lines = check(export())
    assert {line.state for line in lines.values()} == {"ok"}
    assert set(lines) == {
        *("files", "label sick", "modality", "spacing", "polarity"),
        *("duplicates", "outliers", "brightness"),
    }
    assert lines["files"].text == "100 % of 20 files looked at can be used"
    assert lines["label sick"].text == "positive in 50 % of the rows"
    assert lines["modality"].text == "DX 100 %"
    assert "median 0.2 mm" in lines["spacing"].text


def some(number, fields, *, of=4):
    return fields if number < of else {}


@pytest.mark.parametrize(
    ("name", "state", "change"),
    [
        ("files", "look", lambda n: some(n, {"BurnedInAnnotation": "YES"})),
        ("files", "stop", lambda n: some(n, {"BurnedInAnnotation": "YES"}, of=15)),
        ("modality", "look", lambda n: some(n, {"Modality": "CR"})),
        ("spacing", "look", lambda n: some(n, {"PixelSpacing": None})),
        ("spacing", "look", lambda n: {"PixelSpacing": None}),
        ("polarity", "look", lambda n: some(n, {"pixels": 1300 - image(n)})),
        ("duplicates", "look", lambda n: some(n, {"pixels": image(99)})),
        ("outliers", "look", lambda n: some(n, {"pixels": image(n, mean=1) // 2}, of=2)),
    ],
)
def test_each_fault_moves_its_own_line(export, name, state, change):
    lines = check(export(change))
    assert lines[name].state == state


def test_a_label_of_one_class_cannot_be_learned(export):
    assert check(export(sick=lambda _: 0))["label sick"].state == "stop"
    assert check(export(sick=lambda _: 1))["label sick"].state == "stop"


def test_the_ranges_of_a_study_are_compared(export):
    source = export()
    fits = Reference(
        modalities=("DX",), spacing_mm=(0.1, 0.3), prevalence=(0.4, 0.6), mean_intensity=(0, 1)
    )
    assert {line.state for line in check(source, reference=fits).values()} == {"ok"}
    other = Reference(
        modalities=("CT",), spacing_mm=(1, 2), prevalence=(0.1, 0.2), mean_intensity=(0.9, 1)
    )
    states = {name: line.state for name, line in check(source, reference=other).items()}
    assert states["modality"] == "stop"
    assert [states[n] for n in ("spacing", "label sick", "brightness")] == ["look"] * 3
    assert "the study takes CT" in check(source, reference=other)["modality"].text


def spoilt(number):
    fields = [
        {"BurnedInAnnotation": "YES"},
        {"Modality": "CR"},
        {"PixelSpacing": None},
        {"pixels": 1300 - image(number)},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"Modality": "LINDQVIST", "Manufacturer": "Lindqvist"},
    ]
    return fields[number] if number < len(fields) else {}


def test_neither_an_identifier_nor_a_small_count_is_said(export, capfd):
    lines = check(export(spoilt, sick=lambda number: int(number < 2)))
    said = "\n".join(f"{line.name} {line.text}" for line in lines.values())
    assert "lindqvist" not in said.lower() + "".join(capfd.readouterr()).lower()
    assert COUNT.search(said.replace("of 1 after normalisation", "")) is None, said
    assert not any(f"{100 * n // 20} %" in said.split() for n in (1, 2, 3, 4))
    percents = {int(found) for found in re.findall(r"(\d+) %", said)}
    assert not percents & {5, 10, 15, 80, 85, 90, 95}
    assert "fewer than 5" in said
    assert lines["label sick"].text == "positive in fewer than 5 of the rows"


def test_only_the_sample_is_read_and_it_is_spread_over_the_export(export, monkeypatch):
    source = export()
    asked = []
    real = Pool.map

    def counted(self, tasks, *, settings):
        tasks = list(tasks)
        asked.extend(task.fields["path"][-2:] for task in tasks)
        return real(self, tasks, settings=settings)

    monkeypatch.setattr(Pool, "map", counted)
    lines = check(source, most=5)
    assert len(asked) <= 5
    assert {int(b) - int(a) for a, b in itertools.pairwise(asked)} == {5}
    assert f"of {len(asked)} files" in lines["files"].text


def test_an_export_without_a_usable_file_says_so_and_stops(export):
    lines = check(export(lambda _: {"BurnedInAnnotation": "YES"}))
    assert lines["files"].state == "stop"
    assert "DATA_114 burned in text 100 %" in lines["files"].text
    assert set(lines) == {"files", "label sick"}
