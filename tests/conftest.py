"""Tiny hospitals, written straight into the cohort format: no DICOM, milliseconds each."""

import hashlib
import os
import random
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from septum.models import network_of, to_vector
from septum.signed_study import SignedStudy, sign
from septum.signing import SigningKey
from septum.study import Study
from septum.wire import Instruction
from septum_client import site, storage
from septum_client.cohort import Cohort, Split
from septum_client.gate import cohort_spec
from septum_client.policy import Policy
from septum_client.pseudonyms import key_check
from septum_client.rules import Intake
from septum_client.site import Site

# Workers share the machine's cores already; many threads on tiny networks only wait, and not idly.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

# The same examples at every run, and no verdict from how fast a shared machine was.
settings.register_profile(
    "septum", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("septum")

SITES = ("north", "south", "west")


@pytest.fixture(autouse=True)
def site_keys(monkeypatch):
    """Draw each test's site keys from one seed: who is held out depends on the key."""
    drawn = random.Random(0)
    monkeypatch.setattr(site, "secrets", SimpleNamespace(token_bytes=drawn.randbytes))


def make_study(**parts) -> Study:
    """Return a study of three small hospitals; a part given as a mapping is merged."""
    fields = {
        "name": "tiny",
        "purpose": "A test.",
        "rounds": 3,
        "data": {"image_size": 16, "labels": ["sick"], "test_fraction": 0.25},
        "training": {"learning_rate": 0.5, "images_per_patient": 2},
        "privacy": {
            "noise_multiplier": 1.0,
            "max_grad_norm": 1.0,
            "sampling_rate": 0.5,
            "steps_per_round": 2,
            "delta": 1e-4,
        },
        "sites": [{"name": name, "patients": 10} for name in SITES],
    }
    for key, value in parts.items():
        both = isinstance(fields.get(key), dict) and isinstance(value, dict)
        fields[key] = fields[key] | value if both else value
    return Study.model_validate(fields)


def signing_key(name) -> SigningKey:
    """Return what the party called ``name`` signs with, in every test alike."""
    return SigningKey.from_seed(hashlib.sha256(f"tests {name}".encode()).digest())


def make_signed(study: Study | None = None) -> SignedStudy:
    """Return the study with its sites' keys, signed by the tests' coordinator."""
    study = study or make_study()
    sites = tuple(
        site.model_copy(update={"key": signing_key(site.name).public}) for site in study.sites
    )
    return sign(study.model_copy(update={"sites": sites}), signing_key("coordinator"))


KEY = b"k" * 32
LINEAGE = {
    "rules": "",
    "key": key_check(KEY),
    "version": "0",
    "made": "2026-01-01",
    "expires": "2126-01-01",
}


def make_cohort(
    folder: Path,
    study: Study,
    *,
    images=(2,) * 12,
    held_out=2,
    seed=0,
    pixels=None,
    names=None,
    declared=None,
    lineage=LINEAGE,
):
    """Write a cohort whose patient ``p`` has ``images[p]`` images; the last are held out."""
    spec = cohort_spec(study)
    owner = np.repeat(np.arange(len(images), dtype=np.int32), images)
    side, total = spec.image_size, len(owner)
    if pixels is None:
        pixels = np.random.default_rng(seed).random((total, 1, side, side))
    labels = np.stack([(owner + k) % 2 for k in range(len(spec.labels))], axis=1)
    split = np.zeros(len(images), dtype=np.uint8)
    split[len(images) - held_out :] = Split.TEST
    arrays = {
        "labels": labels.astype("<f4"),
        "patient_of_image": owner,
        "split": split,
        "sex": np.zeros(len(images), dtype=np.uint8),
        "age_band": np.zeros(len(images), dtype=np.uint8),
        "declared": np.array([0] * len(images) if declared is None else declared, dtype=np.uint8),
        "pseudonyms": np.array(
            names or [f"{seed:016x}{p:016x}" for p in range(len(images))], dtype="S32"
        ),
        "origin_source": np.array([f"{row:032x}" for row in range(total)], dtype="S32"),
        "origin_instance": np.array([f"2.25.{row}" for row in range(total)], dtype="S44"),
        "origin_frame": np.zeros(total, dtype="<i4"),
        **{
            f"origin_{name}": np.zeros(total, dtype=np.uint8)
            for name in ("sex", "age_band", "declared")
        },
    }
    with storage.replacing(folder) as work:
        digest = storage.write_images(work, np.asarray(pixels, dtype="<f2"), np.arange(total))
        storage.write_index(
            work,
            manifest={
                "spec": asdict(spec),
                "images_digest": digest,
                "images": total,
                "patients": len(images),
                "quarantined": {},
                "lineage": lineage,
            },
            arrays=arrays,
            linkage=(),
        )
    return Cohort.open(folder)


def make_policy(**changes) -> Policy:
    """Return a policy that lets the tiny study through with room to spare."""
    return Policy(
        **{
            "epsilon_per_study": 50.0,
            "epsilon_per_year": 50.0,
            "epsilon_total": 50.0,
            "minimum_patients": 1,
            "intake": Intake(consent="waived", keep_days=36_500),
        }
        | changes
    )


def make_site(folder: Path, study: Study | None = None, *, name="north", policy=None, **cohort):
    """Make a site with a cohort that has approved ``study``, signed by a coordinator or not."""
    study = study or make_study()
    plain = study.study if isinstance(study, SignedStudy) else study
    site = Site.create(
        folder,
        name=name,
        policy=policy or make_policy(),
        key=KEY,
        signing=signing_key(name),
        simulated=True,
    )
    make_cohort(site.cohort_path, plain, **cohort)
    site.approve(study)
    return site


def make_instruction(study: Study, *, round=1, model=None, deadline=2**40) -> Instruction:
    """Return the order for a round, signed if the study is; the model is the study's initial one.

    The deadline is far beyond every test's clock unless given.
    """
    if model is None:
        model = to_vector(network_of(study))
    order = Instruction(study=study.digest, round=round, model=model, deadline=deadline)
    return order.signed(signing_key("coordinator")) if study.coordinator else order


@pytest.fixture(scope="session")
def tiny():
    """Return the makers above."""
    return SimpleNamespace(
        study=make_study,
        cohort=make_cohort,
        policy=make_policy,
        site=make_site,
        instruction=make_instruction,
        signed=make_signed,
        key=signing_key,
        names=SITES,
    )
