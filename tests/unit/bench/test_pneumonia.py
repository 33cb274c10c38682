"""PneumoniaMNIST as hospitals: what is read, how it is shared, what is held out."""

from pathlib import Path

import numpy as np
import pytest

from septum.errors import ConfigError, DataError, EngineError
from septum_bench import hospitals, opacus_defaults, pneumonia_study
from septum_bench.pneumonia import run_pneumonia, table
from septum_bench.pneumonia_study import Row, plan_of, study_rows
from septum_bench.radiographs import (
    LABEL,
    LEAST_OF_A_CLASS,
    SIDE,
    Labelled,
    read_npz,
    scanner_of,
    spread,
    write_radiographs,
)
from septum_client.cohort import Cohort, CohortSpec, Split

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "pneumoniamnist.npz"


class Silent:
    def __init__(self):
        self.stages = []

    def stage(self, name, total):
        self.stages.append(name)

    def advance(self, text="", *, done=None, total=None):
        pass


def arrays(train=120, val=40, test=24, seed=0):
    """Return the arrays of a small npz: positives are brighter below."""
    rng = np.random.default_rng(seed)
    made = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        labels = (np.arange(count) % 2).astype(np.uint8)
        images = rng.integers(0, 160, (count, SIDE, SIDE))
        images[:, 14:] += 90 * labels[:, None, None]
        made[f"{split}_images"] = images.astype(np.uint8)
        made[f"{split}_labels"] = labels[:, None]
    return made


def written(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return path


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return read_npz(written(tmp_path_factory.mktemp("npz") / "small.npz"))


def test_a_well_made_file_is_read_as_it_is(splits):
    made = arrays()
    for name in ("train", "val", "test"):
        assert np.array_equal(splits[name].images, made[f"{name}_images"])
        assert np.array_equal(splits[name].labels, made[f"{name}_labels"][:, 0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_labels": None}, "val_labels"),
        ({"train_images": np.zeros((120, SIDE, SIDE), np.float32)}, "float32"),
        ({"train_images": np.zeros((120, 64, 64), np.uint8)}, r"\[120, 64, 64\]"),
        ({"train_images": np.zeros((120, SIDE, SIDE, 3), np.uint8)}, "28, 28, 3"),
        ({"test_labels": np.zeros((23, 1), np.uint8)}, "test_labels"),
        ({"test_labels": np.zeros((24, 1), np.uint8)}, "must hold 0 and 1"),
        ({"train_labels": np.full((120, 1), 7, np.uint8)}, "must hold 0 and 1"),
        ({"test_images": np.zeros((0, SIDE, SIDE), np.uint8)}, "test_images"),
        ({"test_labels": np.uint8(1)}, "test_labels"),
        ({"val_images": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
    ],
)
def test_a_file_of_another_form_is_refused_by_the_name_of_its_array(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        read_npz(written(tmp_path / "bad.npz", **changes))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_what_is_not_an_archive_is_refused(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="npz archive"):
        read_npz(path)


def test_a_missing_file_and_a_bare_array_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "absent.npz")
    np.save(tmp_path / "bare.npy", np.zeros(3), allow_pickle=False)
    with pytest.raises(DataError, match="npz archive"):
        read_npz(tmp_path / "bare.npy")


@pytest.mark.parametrize("sites", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_every_image_is_at_one_hospital_and_every_hospital_has_both_classes(sites, seed):
    learn = (np.arange(2000) % 4 > 0).astype(np.uint8)
    held = (np.arange(300) % 3 > 0).astype(np.uint8)
    parts = spread(learn, held, sites=sites, rng=np.random.default_rng(seed))
    assert len(parts) == sites
    assert sorted(np.concatenate([part for part, _ in parts])) == list(range(2000))
    assert sorted(np.concatenate([part for _, part in parts])) == list(range(300))
    for part, tests in parts:
        assert min(np.bincount(learn[part], minlength=2)) >= LEAST_OF_A_CLASS
        assert len(tests) > 0


def test_hospitals_differ_in_size_and_prevalence():
    learn = (np.arange(5000) % 4 > 0).astype(np.uint8)
    parts = spread(learn, learn[:600], sites=5, rng=np.random.default_rng(0))
    sizes = [len(part) for part, _ in parts]
    prevalence = [learn[part].mean() for part, _ in parts]
    assert max(sizes) > 1.3 * min(sizes)
    assert max(prevalence) - min(prevalence) > 0.05


def test_more_hospitals_than_the_images_serve_are_refused():
    labels = (np.arange(100) % 2).astype(np.uint8)
    with pytest.raises(ConfigError, match="4 hospitals cannot share 100"):
        spread(labels, labels, sites=4, rng=np.random.default_rng(0))


def test_each_hospital_has_its_own_scanner_and_one_stores_monochrome1():
    machines = [scanner_of(site) for site in range(5)]
    assert len({machine.model for machine in machines}) == 5
    assert sum(machine.inverted for machine in machines) == 1
    assert not any(machine.marker for machine in machines)


def test_what_the_door_holds_out_is_exactly_the_published_test_split(tmp_path, splits):
    plan = plan_of(tmp_path, sites=2, seed=3, epsilon=8.0, workers=1)
    learn = splits["train"] + splits["val"]
    folders = write_radiographs(plan.data, learn=learn, held_out=splits["test"], sites=2, seed=3)
    sites = hospitals.admit(
        folders,
        into=tmp_path / "sites",
        spec=CohortSpec(image_size=SIDE, labels=(LABEL,)),
        plan=plan,
        progress=lambda *_: None,
    )
    cohorts = [Cohort.open(site.cohort_path) for site in sites.values()]
    assert not any(cohort.quarantined for cohort in cohorts)
    for split, expected in ((Split.TRAIN, learn), (Split.TEST, splits["test"])):
        labels = np.concatenate(
            [c.labels[c.split[c.patient_of_image] == split, 0] for c in cohorts]
        )
        assert sorted(labels) == sorted(expected.labels)
        # The positives' bright half is still there after scanner, DICOM and ingest.
        for cohort in cohorts:
            rows = cohort.split[cohort.patient_of_image] == split
            lower = cohort.images[rows, 0, 14:].astype(float).mean((1, 2))
            upper = cohort.images[rows, 0, :14].astype(float).mean((1, 2))
            sick = cohort.labels[rows, 0] == 1
            assert (lower - upper)[sick].min() > (lower - upper)[~sick].max()


def test_the_same_seed_writes_the_same_bytes(tmp_path, splits):
    few = Labelled(images=splits["train"].images[:40], labels=splits["train"].labels[:40])
    for name in ("one", "two"):
        write_radiographs(tmp_path / name, learn=few, held_out=splits["test"], sites=1, seed=5)
    files = [
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in ("one", "two")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 40 + 24 + 1


@pytest.fixture(scope="module")
def quick_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    npz = written(folder / "small.npz")
    patch = pytest.MonkeyPatch()
    patch.setattr(pneumonia_study, "ROUNDS", 2)
    patch.setattr(pneumonia_study, "POOLED_EPOCHS", 1)
    patch.setattr(opacus_defaults, "EPOCHS", 1)
    options = {"sites": 2, "epsilons": (3, 8), "seeds": (0,), "workers": 1}
    rows = run_pneumonia(npz, folder / "out", **options, reporter=Silent())
    yield npz, folder / "out", options, rows
    patch.undo()


def test_each_epsilon_is_kept_and_compared_with_training_without_privacy(quick_rows):
    _, _, _, rows = quick_rows
    assert [row.training for row in rows] == [
        "federated, ε = 3",
        "federated, ε = 8",
        "federated, no privacy",
        "pooled, no privacy",
        "Opacus' MNIST example, federated, ε = 3",
        "Opacus' MNIST example, federated, ε = 8",
    ]
    for row in rows:
        assert 0 <= row.auc <= 1
        assert 0 <= row.accuracy <= 1
        assert (row.spent is None) == (row.epsilon is None)
        if row.epsilon is not None:
            assert 0 < row.spent <= row.epsilon


def test_a_repeated_call_trains_nothing_twice(quick_rows):
    npz, out, options, rows = quick_rows
    reporter = Silent()
    again = run_pneumonia(npz, out, **options, reporter=reporter)
    assert [(r.training, r.auc, r.spent) for r in again] == [
        (r.training, r.auc, r.spent) for r in rows
    ]
    assert "DICOM" not in reporter.stages


def test_a_folder_of_another_benchmark_is_not_taken_for_this_one(quick_rows, tmp_path):
    npz, out, options, _ = quick_rows
    with pytest.raises(EngineError, match="another file or number"):
        run_pneumonia(npz, out, **(options | {"sites": 1}), reporter=Silent())
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(EngineError, match="not an empty folder"):
        run_pneumonia(npz, tmp_path, **options, reporter=Silent())


@pytest.mark.parametrize("options", [{"epsilons": ()}, {"seeds": ()}, {"epsilons": (8, 0)}])
def test_options_are_checked_before_anything_is_written(tmp_path, options):
    with pytest.raises(ConfigError):
        run_pneumonia(tmp_path / "a.npz", tmp_path / "out", **options, reporter=Silent())
    assert not (tmp_path / "out").exists()


def test_the_table_shows_mean_and_range_over_seeds():
    rows = [
        Row(training="t", seed=s, epsilon=1.0, spent=0.9 + s, auc=a, accuracy=0.5, seconds=1)
        for s, a in ((0, 0.8), (1, 0.9))
    ]
    assert "| t | 1.90 | 0.850 (0.800–0.900) | 0.500 (0.500–0.500) | 2 |" in table(rows)
    assert "0.944" in table(rows)


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/pneumoniamnist.npz is absent")
def test_the_published_file_has_the_published_test_split_and_both_classes():
    splits = read_npz(REAL)
    assert len(splits["test"].labels) == 624
    assert len(splits["train"].labels) + len(splits["val"].labels) == 4682 + 524
    parts = spread(
        splits["train"].labels, splits["test"].labels, sites=5, rng=np.random.default_rng(0)
    )
    assert len(parts) == 5


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/pneumoniamnist.npz is absent")
def test_a_private_federation_learns_real_radiographs(tmp_path):
    splits = read_npz(REAL)
    rows = study_rows(
        tmp_path / "seed-7",
        [plan_of(tmp_path, sites=3, seed=7, epsilon=8.0, workers=2, rounds=4)],
        learn=splits["train"],
        held_out=splits["val"],
        reporter=Silent(),
        plain=False,
    )
    assert rows[0].auc > 0.85
